"""Rows: the ways to run a family at a changing alpha that the benchmark compares."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from engines import ENGINES, load_engine
from engines.interface import Engine
from engines.options import EngineOptions


@dataclass(frozen=True)
class Row:
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
    changes: bool
    open: Callable[[Bundle, int], Engine]
    obstacle: Callable[[Bundle], str | None]
    gpu: bool = False


def _row(name: str, title: str, engine: str, *, changes: bool = True, gpu: bool = False) -> Row:
    def open_row(bundle: Bundle, threads: int) -> Engine:
        return load_engine(bundle, engine, EngineOptions(threads=threads, slots=1))

    return Row(name, title, changes, open_row, lambda bundle: ENGINES[engine].obstacle(bundle), gpu)


def _torch(bundle: Bundle, threads: int) -> Engine:
    from dni_deploy.latency.torch_eager import TorchEager

    return TorchEager(bundle, threads)


def _torch_obstacle(bundle: Bundle) -> str | None:
    return None if importlib.util.find_spec("torch") else "torch not installed: pip install 'dni-deploy[export]'"


ROWS = (
    _row("in place", "ours: weights blended in place under the running session", "onnxruntime"),
    _row("tensorrt", "ours: TensorRT, weights blended on the GPU and refitted", "tensorrt", gpu=True),
    _row("ort gpu", "ours: ONNX Runtime on the GPU, weights blended where it reads them", "onnxruntime-gpu", gpu=True),
    _row("constant", "stock ONNX Runtime session with constant weights", "onnxruntime-constant", changes=False),
    _row("rebuild", "a new ONNX Runtime session for every alpha", "onnxruntime-rebuild"),
    _row("inputs", "ONNX Runtime, weights as graph inputs", "onnxruntime-inputs"),
    _row("in graph", "ONNX Runtime, alpha as a graph input, blend in the graph", "onnxruntime-graph"),
    _row("trt constant", "TensorRT with constant weights", "tensorrt-constant", changes=False, gpu=True),
    _row("trt inputs", "TensorRT, weights as inputs of the network", "tensorrt-inputs", gpu=True),
    _row("trt in graph", "TensorRT, alpha as an input, blend in the network", "tensorrt-graph", gpu=True),
    Row("torch", "PyTorch eager, blended state dict and load_state_dict", True, _torch, _torch_obstacle),
)


def copy_row(engine: Engine) -> Callable[[], None] | None:
    """A plain copy of as many bytes as an in-place blend writes, into the same memory; None for other engines."""
    from engines.onnxruntime_cpu.engine import InPlaceEngine

    if not isinstance(engine, InPlaceEngine):
        return None
    source: NDArray[np.float32] = engine.blender.rows[0]
    target = engine.arenas[0].flat

    def copy() -> None:
        np.copyto(target, source)

    return copy
