"""A network whose blends are run with corrections that are being tried, before a bundle has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dni_deploy.blending.calibration_table import CalibrationTable, blend_tensors
from engines import ort_session
from engines.lowering.weights_as_inputs import weights_as_inputs

Tensors = Mapping[str, NDArray[Any]]


class CandidateNetwork:
    """One session of ONNX Runtime, to which the weights of every blend are fed.

    Thread safety: from any thread, one call at a time.
    """

    def __init__(
        self, graph: onnx.ModelProto, members: Sequence[Tensors], table: CalibrationTable | None = None, threads: int = 0
    ) -> None:
        """Opens the session.

        Args:
            graph: The graph, with the nodes that the table is for.
            members: Each member's weights by name, those of the nodes among them.
            table: The calibration; None for a blend alone.
            threads: Number of threads; 0: one per core.

        Raises:
            EngineError: ONNX Runtime cannot open the graph.
        """
        self._members, self._table = members, table
        read = {name for node in graph.graph.node for name in node.input}
        self._names = [name for name in members[0] if name in read]
        self._input = graph.graph.input[0].name
        self._session = ort_session.open_cpu_session(weights_as_inputs(graph, self._names), threads, stop_spinning=True)

    def run(self, coefficients: NDArray[np.float64], batches: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Runs the blend at coefficients float64 (N,) on batches (B, C, H, W) of one size; returns all outputs, one behind the other."""
        weights = blend_tensors(self._members, coefficients, self._table)
        feed = {name: np.ascontiguousarray(weights[name], np.float32) for name in self._names}
        return np.concatenate([ort_session.run_session(self._session, x, self._input, feed) for x in batches])
