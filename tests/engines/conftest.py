"""What the engines' tests share: pico families with their graphs, each lifted once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import write_bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family
from dni_deploy.signature import Signature
from engines.calibrated_network import read_network
from engines.interface import Engine, EngineOptions
from engines.onnxruntime_cpu.engine import InPlaceEngine
from engines.onnxruntime_cpu.layout import find_layout
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from engines.onnxruntime_cpu.plan import LayoutIdentity
from engines.onnxruntime_cpu.rebuild import RebuildEngine
from engines.registry import load_engine

try:
    from tests.support.pico_architectures import PICO, pico_family, pico_net
except ModuleNotFoundError:  # without PyTorch there are the graphs made by hand: the GPU machine with TensorRT has no PyTorch
    PICO = {}

Tensors = dict[str, NDArray[Any]]

SAME_GRAPH = ("rrdbnet_esrgan", "rrdbnet_old")
"""They differ from "rrdbnet" in the names of their keys alone, which is nothing to an engine."""
NAMES = tuple(name for name in PICO if name not in SAME_GRAPH)


@dataclass(frozen=True)
class Case:
    """A bundle's content: the graph (weights without data), the weights' names, and three members with these weights."""

    name: str
    graph: onnx.ModelProto
    weights: tuple[str, ...]
    members: list[Tensors]
    signature: Signature
    shapes: tuple[tuple[int, int, int, int], ...]

    def inputs(self, seed: int = 0) -> list[NDArray[np.float32]]:
        """One input of each shape, within the network's range."""
        random = np.random.default_rng(seed)
        return [random.uniform(self.signature.low, self.signature.high, shape).astype(np.float32) for shape in self.shapes]


def in_place(case: Case, members: Sequence[Tensors] | None = None, *, threads: int = 1, slots: int = 2) -> InPlaceEngine:
    """The in-place engine, not yet verified."""
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    return InPlaceEngine(find_layout(lowered, recipes), recipes, members or case.members, threads=threads, slots=slots)


def identify_plan(bundle: Bundle) -> LayoutIdentity:
    """The identity of the bundle's plan for ONNX Runtime on this machine."""
    return LayoutIdentity.of(*lower_for_cpu(bundle.read_graph(), bundle.weight_names))


def write(case: Case, path: Path, members: int = 2) -> Bundle:
    """The case as a bundle on disk, members a, b, c."""
    family = Family.from_checkpoints(dict(zip("abc", map(Checkpoint.from_state_dict, case.members[:members]), strict=False)))
    return write_bundle(path, case.graph, family, case.signature, architecture=case.name, graph_facts={})


def open_cpu_engine(bundle: Bundle, name: str, *, threads: int = 1, slots: int = 2) -> Engine:
    """The engine "onnxruntime", or "onnxruntime-rebuild", to which it falls back where a graph forbids weights in place."""
    if name == "onnxruntime":
        return load_engine(bundle, name, EngineOptions(threads=threads, slots=slots))
    network = read_network(bundle)
    members = network.read_members()
    calibration = network.make_table(members)
    return RebuildEngine(network.graph, members, threads=threads, slots=slots, calibration=calibration)


@pytest.fixture(scope="session")
def pico_case() -> Callable[[str], Case]:
    """The case of a pico architecture, made at its first use."""
    made: dict[str, Case] = {}

    def give(name: str) -> Case:
        if name not in made:
            made[name] = _case(name)
        return made[name]

    return give


def _case(name: str) -> Case:
    from dni_deploy.utils.onnx_weights import strip_initializer
    from exporters.architectures.registry import find_architecture
    from exporters.cache import export_graph_cached

    states = pico_family(name, 3)
    architecture = find_architecture(PICO[name].architecture, states[0])
    net = architecture.build(states[0])
    assert type(net) is type(pico_net(name))
    signature = architecture.resolve_signature(net)
    lifted, _ = export_graph_cached(architecture.name, net, signature)
    graph = onnx.ModelProto()
    graph.CopyFrom(lifted.graph)
    for initializer in graph.graph.initializer:
        if initializer.name in lifted.names:
            strip_initializer(initializer)
    members = [{key: state[key] for key in lifted.names} for state in states]
    return Case(name, graph, lifted.names, members, signature, PICO[name].shapes)
