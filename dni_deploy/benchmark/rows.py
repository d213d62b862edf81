"""Rows: the ways to run a family at a changing alpha that the benchmark compares."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle import Bundle
from engines import load_engine
from engines.engine import Engine
from engines.options import EngineOptions


@dataclass(frozen=True)
class Row:
    """One way.

    name      a word for tables and JSON.
    title     what it does, in a few words.
    changes   False where alpha cannot change: the constant-weight session that the others are held against.
    open      (bundle, threads) -> an Engine with one slot.
    """

    name: str
    title: str
    changes: bool
    open: Callable[[Bundle, int], Engine]


def _engine(name: str) -> Callable[[Bundle, int], Engine]:
    return lambda bundle, threads: load_engine(bundle, name, EngineOptions(threads=threads, slots=1))


def _torch(bundle: Bundle, threads: int) -> Engine:
    from dni_deploy.benchmark.torch_eager import TorchEager

    return TorchEager(bundle, threads)


ROWS = (
    Row("in place", "ours: weights blended in place under the running session", True, _engine("onnxruntime")),
    Row("constant", "stock ONNX Runtime session with constant weights", False, _engine("onnxruntime-constant")),
    Row("rebuild", "a new ONNX Runtime session for every alpha", True, _engine("onnxruntime-rebuild")),
    Row("inputs", "ONNX Runtime, weights as graph inputs", True, _engine("onnxruntime-inputs")),
    Row("in graph", "ONNX Runtime, alpha as a graph input, blend in the graph", True, _engine("onnxruntime-graph")),
    Row("torch", "PyTorch eager, blended state dict and load_state_dict", True, _torch),
)


def available() -> tuple[Row, ...]:
    """The rows that can run here: PyTorch's only where it is installed."""
    return tuple(row for row in ROWS if row.name != "torch" or importlib.util.find_spec("torch") is not None)


def copy_row(engine: Engine) -> Callable[[], None] | None:
    """A plain copy of as many bytes as an in-place blend writes, into the same memory; None for other engines."""
    from engines.onnxruntime_cpu.in_place import InPlaceEngine

    if not isinstance(engine, InPlaceEngine):
        return None
    source: NDArray[np.float32] = engine.blender.rows[0]
    target = engine.arenas[0].flat

    def copy() -> None:
        np.copyto(target, source)

    return copy
