"""The other ways to run a family in ONNX Runtime, as engines to compare with.

ConstantEngine: the first member as constants, alpha is stuck; the speed that the others are held against.
InputsEngine: every weight is an input of the graph. Always right, but the optimized convolution layouts need constant
weights, so each frame is slower. GraphEngine: the members are constants, alpha is an input, and the graph itself
blends; the frame pays for the blend as well, every time, and all weights have one alpha.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import Recalibration
from dni_deploy.blending.blend import blend_rows
from dni_deploy.errors import EngineError
from engines.lowering.weights_as_inputs import ALPHA, KNOTS, alpha_as_input, weights_as_inputs
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.arena import aligned
from engines.onnxruntime_cpu.per_tensor_blend import Pieces
from engines.shares import one_for_all, only_row

Members = Sequence[Mapping[str, NDArray[Any]]]


class _FedEngine:
    """One session; a slot is what is fed beside the picture."""

    name: str
    road: str

    def __init__(self, model: onnx.ModelProto, threads: int, slots: int) -> None:
        self.slots = slots
        self._session: ort.InferenceSession | None = runtime.session(model, threads)
        self._feeds: list[dict[str, NDArray[np.float32]] | None] = [None] * slots
        self._input: str = self._session.get_inputs()[0].name

    def finish(self, slot: int) -> None:
        pass

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        feed = self._feeds[slot]
        if self._session is None or feed is None:
            raise EngineError(f"Slot {slot} has no weights; refit it first.")
        return runtime.run(self._session, x, self._input, feed)

    def close(self) -> None:
        self._session = None


class ConstantEngine(_FedEngine):
    """A stock session on the first member. refit does nothing: for speed comparisons only."""

    name = "onnxruntime-constant"
    road = "constant weights: the first member, whatever alpha is"

    def __init__(self, graph: onnx.ModelProto, names: Sequence[str], members: Members, *, threads: int, slots: int) -> None:
        super().__init__(runtime.bind(graph, {name: members[0][name] for name in names}), threads, slots)
        self._feeds = [{}] * slots

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        pass


class InputsEngine(_FedEngine):
    """Weights as graph inputs, bound to views of one blended array per slot."""

    name = "onnxruntime-inputs"
    road = "the weights are inputs of the graph"

    def __init__(
        self,
        graph: onnx.ModelProto,
        names: Sequence[str],
        members: Members,
        *,
        threads: int,
        slots: int,
        recalibration: Recalibration | None = None,
    ) -> None:
        self._recalibration = recalibration
        shapes = [members[0][name].shape for name in names]
        super().__init__(weights_as_inputs(graph, names), threads, slots)
        self._rows = _rows(names, members)
        self._flats = [aligned(self._rows.shape[1:]) for _ in range(slots)]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        self._pieces = Pieces([0, *ends[:-1].tolist()], self._rows.shape[1])
        self._views = [
            {name: part.reshape(shape) for name, shape, part in zip(names, shapes, np.split(flat, ends[:-1]), strict=True)}
            for flat in self._flats
        ]

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        row = only_row(coefficients)
        if row is not None:
            blend_rows(self._rows, row, self._flats[slot])
        else:
            self._pieces.blend(self._rows, coefficients, self._flats[slot])
        if self._recalibration is not None:
            for name, values in self._recalibration.at(coefficients).items():
                self._views[slot][name][...] = values
        self._feeds[slot] = self._views[slot]


class GraphEngine(_FedEngine):
    """Alpha as a graph input: per weight one matrix product of alpha (1, N) and the members' rows (N, P) inside the graph."""

    name = "onnxruntime-graph"
    road = "alpha is an input of the graph, which blends at every frame"

    def __init__(
        self,
        graph: onnx.ModelProto,
        names: Sequence[str],
        members: Members,
        *,
        threads: int,
        slots: int,
        recalibration: Recalibration | None = None,
    ) -> None:
        self._recalibration = recalibration
        known = None if recalibration is None else recalibration.statistics
        super().__init__(alpha_as_input(graph, names, members, known), threads, slots)

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        row = one_for_all(coefficients, self.name)
        feed = {ALPHA: row.astype(np.float32).reshape(1, -1)}
        if self._recalibration is not None:
            feed[KNOTS] = self._recalibration.shares(row).astype(np.float32).reshape(1, -1)
        self._feeds[slot] = feed


def _rows(names: Sequence[str], members: Members) -> NDArray[np.float32]:
    rows = aligned((len(members), sum(members[0][name].size for name in names)))
    for row, tensors in zip(rows, members, strict=True):
        np.concatenate([tensors[name].astype(np.float32).reshape(-1) for name in names], out=row)
    return rows
