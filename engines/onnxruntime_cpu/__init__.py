"""ONNX Runtime on the CPU: weights in place at full speed, or a new session for every alpha where a graph forbids it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from dni_deploy.bundle import Bundle
from engines.engine import Engine
from engines.onnxruntime_cpu.alternatives import GraphEngine, InputsEngine
from engines.onnxruntime_cpu.in_place import InPlaceEngine
from engines.onnxruntime_cpu.layout import NotInPlace, find_layout
from engines.onnxruntime_cpu.lowering import lower
from engines.onnxruntime_cpu.rebuild import RebuildEngine
from engines.onnxruntime_cpu.verify import verify_blend, verify_effect


def open_in_place(bundle: Bundle, *, threads: int = 0, slots: int = 2) -> Engine:
    """The engine for a bundle: verified in place, or the rebuilding one with its reason in `road`."""
    graph = bundle.graph()
    members = _members(bundle)
    try:
        lowered, recipes = lower(graph, bundle.weight_names)
        engine = InPlaceEngine(find_layout(lowered, recipes), recipes, members, threads=threads, slots=slots)
        verify_blend(engine, graph, members, bundle.signature)
        verify_effect(engine, bundle.signature)
    except NotInPlace as reason:
        return RebuildEngine(graph, members, threads=threads, slots=slots, reason=str(reason))
    return engine


def open_rebuild(bundle: Bundle, *, threads: int = 0, slots: int = 2) -> Engine:
    """A new session for every alpha."""
    return RebuildEngine(bundle.graph(), _members(bundle), threads=threads, slots=slots)


def open_inputs(bundle: Bundle, *, threads: int = 0, slots: int = 2) -> Engine:
    """Weights as graph inputs."""
    return InputsEngine(bundle.graph(), bundle.weight_names, _members(bundle), threads=threads, slots=slots)


def open_in_graph(bundle: Bundle, *, threads: int = 0, slots: int = 2) -> Engine:
    """Alpha as a graph input."""
    return GraphEngine(bundle.graph(), bundle.weight_names, _members(bundle), threads=threads, slots=slots)


def _members(bundle: Bundle) -> list[dict[str, NDArray[Any]]]:
    return [bundle.weights(member) for member in bundle.members]
