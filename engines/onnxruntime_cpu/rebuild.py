"""RebuildEngine: a new ONNX Runtime session for every alpha. Always right, and what a graph falls back to that cannot be refitted in place.

It is also what other tools do for each new value, so the benchmark runs it as a row of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import BatchNormTable, blend_tensors
from dni_deploy.errors import EngineError
from engines.onnxruntime_cpu import runtime


class RebuildEngine:
    """An Engine (see engines/interface.py). graph: the bundle's; members: per member the bundle's weights by name, in its order."""

    name = "onnxruntime-rebuild"

    def __init__(
        self,
        graph: onnx.ModelProto,
        members: Sequence[Mapping[str, NDArray[Any]]],
        *,
        threads: int = 0,
        slots: int = 2,
        reason: str = "asked for",
        recalibration: BatchNormTable | None = None,
    ) -> None:
        self.slots = slots
        self.update_path = f"a new session for every alpha ({reason})"
        self._graph, self._members, self._threads, self._recalibration = graph, members, threads, recalibration
        self._sessions: list[ort.InferenceSession | None] = [None] * slots

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        self._sessions[slot] = None
        weights = blend_tensors(self._members, coefficients, self._recalibration)
        self._sessions[slot] = runtime.open_cpu_session(
            runtime.bind_initializers(self._graph, weights), self._threads, stop_spinning=True
        )

    def synchronize(self, slot: int) -> None:
        pass

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        session = self._sessions[slot]
        if session is None:
            raise EngineError(f"Slot {slot} has no whole set of weights; refit it first.")
        return runtime.run_session(session, x)

    def close(self) -> None:
        self._sessions = [None] * self.slots
