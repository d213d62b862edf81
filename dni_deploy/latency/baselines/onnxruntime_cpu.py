"""Baselines in ONNX Runtime on the CPU: constant weights, weights as inputs, alpha as an input, and a new session per alpha.

They implement Engine for one alpha over all weights, and nothing else: no alpha by groups of weights, no
calibration.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_rows
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from dni_deploy.latency.baselines.alpha_input import ALPHA_INPUT_NAME, alpha_as_input
from dni_deploy.utils.onnxruntime_library import ort
from engines import ort_session
from engines.frame_conversion import HostFrameEngine
from engines.interface import EngineOptions, require_single_row
from engines.lowering.weights_as_inputs import weights_as_inputs
from engines.onnxruntime_cpu.layout import allocate_aligned
from engines.onnxruntime_cpu.rebuild import RebuildEngine


class _OrtBaseline(HostFrameEngine):
    """An Engine on one session; a slot is what is fed beside the frame.

    Thread safety: as Engine asks.
    """

    name: str
    update_path: str

    def __init__(self, model: onnx.ModelProto, options: EngineOptions) -> None:
        super().__init__()
        self.slots = options.slots or 1
        self._session: ort.InferenceSession | None = ort_session.open_cpu_session(model, options.threads)
        self._feeds: list[Mapping[str, NDArray[np.float32]] | None] = [None] * self.slots
        self._input: str = self._session.get_inputs()[0].name

    def synchronize(self, slot: int) -> None:
        """Does nothing: a refit has ended when it returns."""

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs one frame; see `Engine.infer`."""
        feed = self._feeds[slot]
        if self._session is None or feed is None:
            raise EngineError(f"Slot {slot} has no weights; refit it first.")
        return ort_session.run_session(self._session, x, self._input, feed)

    def close(self) -> None:
        """Drops the session."""
        self._session = None


class OrtConstantBaseline(_OrtBaseline):
    """A plain session on the first member, whatever alpha is: the speed that the others are compared with."""

    name = "onnxruntime-constant"
    update_path = "constant weights: the first member, whatever alpha is"

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        super().__init__(bundle.read_graph_with_weights(bundle.members[0]), options)
        self._feeds = [{}] * self.slots

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Does nothing."""


class OrtInputsBaseline(_OrtBaseline):
    """Weights as graph inputs, bound to views of one blended array per slot.

    Slower frames: the optimized convolution layouts need constant weights.
    """

    name = "onnxruntime-inputs"
    update_path = "the weights are inputs of the graph"

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        names, members = bundle.weight_names, bundle.read_all_weights()
        super().__init__(weights_as_inputs(bundle.read_graph(), names), options)
        shapes = [members[0][name].shape for name in names]
        ends = np.cumsum([members[0][name].size for name in names])
        self._member_rows: NDArray[np.float32] = allocate_aligned((len(members), int(ends[-1])))
        for row, tensors in zip(self._member_rows, members, strict=True):
            np.concatenate([tensors[name].astype(np.float32).reshape(-1) for name in names], out=row)
        self._flat_weights = [allocate_aligned(self._member_rows.shape[1:]) for _ in range(self.slots)]
        self._views = [
            {name: part.reshape(shape) for name, shape, part in zip(names, shapes, np.split(flat, ends[:-1]), strict=True)}
            for flat in self._flat_weights
        ]

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Blends into the slot's array; see `Engine.refit`."""
        blend_rows(self._member_rows, require_single_row(coefficients, self.name), self._flat_weights[slot])
        self._feeds[slot] = self._views[slot]


class OrtGraphBaseline(_OrtBaseline):
    """Alpha as a graph input: the members are constants, and the graph blends at every frame."""

    name = "onnxruntime-graph"
    update_path = "alpha is an input of the graph, which blends at every frame"

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        members = bundle.read_all_weights()
        super().__init__(alpha_as_input(bundle.read_graph(), bundle.weight_names, members), options)

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Keeps alpha for the next frames; see `Engine.refit`."""
        row = require_single_row(coefficients, self.name)
        self._feeds[slot] = {ALPHA_INPUT_NAME: row.astype(np.float32).reshape(1, -1)}


def open_rebuild(bundle: Bundle, options: EngineOptions) -> RebuildEngine:
    """Opens the fallback of `onnxruntime` by itself: a new session for every alpha, as other tools do it."""
    members = bundle.read_all_weights()
    return RebuildEngine(bundle.read_graph(), members, threads=options.threads, slots=options.slots or 1)
