"""Rows: the ways to run a family at a changing alpha that the benchmark compares."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import MismatchError
from engines.interface import Engine, EngineOptions
from engines.registry import ENGINES, load_engine
from exporters.architectures.registry import find_architecture


@dataclass(frozen=True)
class BackendMode:
    """One way.

    name      a word for tables and JSON.
    title     what it does, in a few words.
    changes   False where alpha cannot change: the constant-weight session that the others are held against.
    open      (bundle, threads) -> an Engine with one slot.
    obstacle  why it cannot run here, one sentence without a full stop, or None.
    gpu       whether it computes on one: its weights are not in resident memory.
    """

    name: str
    title: str
    changes_alpha: bool
    open_engine: Callable[[Bundle, int], Engine]
    unavailable_reason: Callable[[Bundle], str | None]
    on_gpu: bool = False


def _make_mode(name: str, title: str, engine: str, *, changes_alpha: bool = True, on_gpu: bool = False) -> BackendMode:
    def open_mode(bundle: Bundle, threads: int) -> Engine:
        return load_engine(bundle, engine, EngineOptions(threads=threads, slots=1))

    return BackendMode(name, title, changes_alpha, open_mode, lambda bundle: ENGINES[engine].unavailable_reason(bundle), on_gpu)


def _open_torch(bundle: Bundle, threads: int) -> Engine:

    return TorchEager(bundle, threads)


def _why_torch_unavailable(bundle: Bundle) -> str | None:
    return None if importlib.util.find_spec("torch") else "torch not installed: pip install 'dni-deploy[export]'"


BACKEND_MODES = (
    _make_mode("in place", "ours: weights blended in place under the running session", "onnxruntime"),
    _make_mode("tensorrt", "ours: TensorRT, weights blended on the GPU and refitted", "tensorrt", on_gpu=True),
    _make_mode("ort gpu", "ours: ONNX Runtime on the GPU, weights blended where it reads them", "onnxruntime-gpu", on_gpu=True),
    _make_mode("constant", "stock ONNX Runtime session with constant weights", "onnxruntime-constant", changes_alpha=False),
    _make_mode("rebuild", "a new ONNX Runtime session for every alpha", "onnxruntime-rebuild"),
    _make_mode("inputs", "ONNX Runtime, weights as graph inputs", "onnxruntime-inputs"),
    _make_mode("in graph", "ONNX Runtime, alpha as a graph input, blend in the graph", "onnxruntime-graph"),
    _make_mode("trt constant", "TensorRT with constant weights", "tensorrt-constant", changes_alpha=False, on_gpu=True),
    _make_mode("trt inputs", "TensorRT, weights as inputs of the network", "tensorrt-inputs", on_gpu=True),
    _make_mode("trt in graph", "TensorRT, alpha as an input, blend in the network", "tensorrt-graph", on_gpu=True),
    BackendMode("torch", "PyTorch eager, blended state dict and load_state_dict", True, _open_torch, _why_torch_unavailable),
)


def make_copy_baseline(engine: Engine) -> Callable[[], None] | None:
    """A plain copy of as many bytes as an in-place blend writes, into the same memory; None for other engines."""
    from engines.onnxruntime_cpu.engine import InPlaceEngine

    if not isinstance(engine, InPlaceEngine):
        return None
    source: NDArray[np.float32] = engine.blender.member_rows[0]
    target = engine.weight_buffers[0].flat

    def copy_weights() -> None:
        np.copyto(target, source)

    return copy_weights


class TorchEager:
    """An Engine (see engines/interface.py) of one slot. Needs the bundle's architecture to be one that is known here."""

    name = "torch"
    update_path = "the state dicts are blended and loaded into the module"
    slots = 1

    def __init__(self, bundle: Bundle, threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        tensors = [bundle.read_tensors(member) for member in bundle.members]
        self._net = find_architecture(bundle.architecture, tensors[0]).build(tensors[0])
        names = set(self._net.state_dict())
        if not names.issuperset(bundle.weight_names):
            raise MismatchError(f"The architecture {bundle.architecture!r} does not have the bundle's weights.")
        self._states: list[dict[str, Any]] = [
            {name: torch.from_numpy(np.array(member[name], np.float32)) for name in bundle.weight_names} for member in tensors
        ]

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        blended = {
            name: sum(float(share) * state[name] for share, state in zip(coefficients, self._states, strict=True))
            for name in self._states[0]
        }
        self._net.load_state_dict(blended, strict=False)

    def synchronize(self, slot: int) -> None:
        pass

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            result: NDArray[np.float32] = self._net(torch.from_numpy(x)).numpy()
        return result

    def close(self) -> None:
        self._states.clear()
