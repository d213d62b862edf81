"""The other ways to run a family in ONNX Runtime, as engines to compare with.

OrtConstantBaseline: the first member as constants, alpha is stuck; the speed that the others are held against.
OrtInputsBaseline: every weight is an input of the graph. Always right, but the optimized convolution layouts need constant
weights, so each frame is slower. OrtGraphBaseline: the members are constants, alpha is an input, and the graph itself
blends; the frame pays for the blend as well, every time, and all weights have one alpha.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import BatchNormTable
from dni_deploy.blending.blend import blend_rows
from dni_deploy.errors import EngineError
from engines import ort_session
from engines.interface import require_single_row, single_row_or_none
from engines.lowering.weights_as_inputs import ALPHA_INPUT_NAME, CALIBRATION_INPUT_NAME, alpha_as_input, weights_as_inputs
from engines.onnxruntime_cpu.layout import allocate_aligned
from engines.onnxruntime_cpu.per_tensor_blend import PerTensorBlender

Members = Sequence[Mapping[str, NDArray[Any]]]


class _OrtBaseline:
    """One session; a slot is what is fed beside the picture."""

    name: str
    update_path: str

    def __init__(self, model: onnx.ModelProto, threads: int, slots: int) -> None:
        self.slots = slots
        self._session: ort.InferenceSession | None = ort_session.open_cpu_session(model, threads)
        self._feeds: list[dict[str, NDArray[np.float32]] | None] = [None] * slots
        self._input: str = self._session.get_inputs()[0].name

    def synchronize(self, slot: int) -> None:
        pass

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        feed = self._feeds[slot]
        if self._session is None or feed is None:
            raise EngineError(f"Slot {slot} has no weights; refit it first.")
        return ort_session.run_session(self._session, x, self._input, feed)

    def close(self) -> None:
        self._session = None


class OrtConstantBaseline(_OrtBaseline):
    """A stock session on the first member. refit does nothing: for speed comparisons only."""

    name = "onnxruntime-constant"
    update_path = "constant weights: the first member, whatever alpha is"

    def __init__(self, graph: onnx.ModelProto, names: Sequence[str], members: Members, *, threads: int, slots: int) -> None:
        super().__init__(ort_session.bind_initializers(graph, {name: members[0][name] for name in names}), threads, slots)
        self._feeds = [{}] * slots

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        pass


class OrtInputsBaseline(_OrtBaseline):
    """Weights as graph inputs, bound to views of one blended array per slot."""

    name = "onnxruntime-inputs"
    update_path = "the weights are inputs of the graph"

    def __init__(
        self,
        graph: onnx.ModelProto,
        names: Sequence[str],
        members: Members,
        *,
        threads: int,
        slots: int,
        recalibration: BatchNormTable | None = None,
    ) -> None:
        self._recalibration = recalibration
        shapes = [members[0][name].shape for name in names]
        super().__init__(weights_as_inputs(graph, names), threads, slots)
        self._member_rows = _stack_member_rows(names, members)
        self._flat_weights = [allocate_aligned(self._member_rows.shape[1:]) for _ in range(slots)]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        self._blender = PerTensorBlender([0, *ends[:-1].tolist()], self._member_rows.shape[1])
        self._views = [
            {name: part.reshape(shape) for name, shape, part in zip(names, shapes, np.split(flat, ends[:-1]), strict=True)}
            for flat in self._flat_weights
        ]

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        row = single_row_or_none(coefficients)
        if row is not None:
            blend_rows(self._member_rows, row, self._flat_weights[slot])
        else:
            self._blender.blend(self._member_rows, coefficients, self._flat_weights[slot])
        if self._recalibration is not None:
            for name, values in self._recalibration.interpolate(coefficients).items():
                self._views[slot][name][...] = values
        self._feeds[slot] = self._views[slot]


class OrtGraphBaseline(_OrtBaseline):
    """Alpha as a graph input: per weight one matrix product of alpha (1, N) and the members' rows (N, P) inside the graph."""

    name = "onnxruntime-graph"
    update_path = "alpha is an input of the graph, which blends at every frame"

    def __init__(
        self,
        graph: onnx.ModelProto,
        names: Sequence[str],
        members: Members,
        *,
        threads: int,
        slots: int,
        recalibration: BatchNormTable | None = None,
    ) -> None:
        self._recalibration = recalibration
        known = None if recalibration is None else recalibration.statistics
        super().__init__(alpha_as_input(graph, names, members, known), threads, slots)

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        row = require_single_row(coefficients, self.name)
        feed = {ALPHA_INPUT_NAME: row.astype(np.float32).reshape(1, -1)}
        if self._recalibration is not None:
            feed[CALIBRATION_INPUT_NAME] = self._recalibration.interpolation_weights(row).astype(np.float32).reshape(1, -1)
        self._feeds[slot] = feed


def _stack_member_rows(names: Sequence[str], members: Members) -> NDArray[np.float32]:
    rows = allocate_aligned((len(members), sum(members[0][name].size for name in names)))
    for row, tensors in zip(rows, members, strict=True):
        np.concatenate([tensors[name].astype(np.float32).reshape(-1) for name in names], out=row)
    return rows
