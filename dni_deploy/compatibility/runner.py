"""A family's network at any coefficients: a bundle on its engine, files with graphs, or checkpoints exported in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from dni_deploy.blending.calibration_table import CalibrationTable, blend_tensors
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.checkpoints.family import Family
from dni_deploy.checkpoints.graph_family import GraphFamily
from dni_deploy.compatibility.midpoint import NormInputStatistics
from dni_deploy.errors import escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils.optional_packages import import_optional

MemberCoefficients = Mapping[str, float]
"""Coefficients by member; those of members that are left out are 0."""

RunBlend = Callable[[NDArray[np.float64], Sequence[NDArray[np.float32]]], list[NDArray[np.float32]]]


@dataclass(frozen=True)
class BlendRunner:
    """A network that runs at any coefficients.

    Attributes:
        architecture: Its name.
        signature: What goes in and comes out.
        family: The members.
        graph: The network, not lowered.
        weight_names: The weights that the graph uses.
        members: Each member's value of these weights by name, in family order.
        calibration: The calibration that it runs with; None for weights that are blended alone.
        run_blend: Runs it: coefficients float64 (N,) in family order and inputs to outputs.
        notes: One sentence for each thing that was changed to run it.

    Thread safety: one call at a time.
    """

    architecture: str
    signature: Signature
    family: Family
    graph: ModelProto
    weight_names: tuple[str, ...]
    members: Sequence[Mapping[str, NDArray[Any]]]
    calibration: CalibrationTable | None
    run_blend: RunBlend
    notes: tuple[str, ...] = ()

    def infer(self, coefficients: MemberCoefficients, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Runs the raw network.

        Args:
            coefficients: The blend.
            inputs: float32 (N, C, H, W) each.

        Returns:
            The output for each input, float32 (N, C', H', W').
        """
        return self.run_blend(self._to_vector(coefficients), inputs)

    def blend_tensors(self, coefficients: MemberCoefficients) -> dict[str, NDArray[Any]]:
        """Computes the weights that the graph uses at these coefficients, as the calibration corrects them.

        Returns:
            float32 by name, blended in float64 and rounded once; the caller's own.
        """
        blend = blend_tensors(self.members, self._to_vector(coefficients), self.calibration)
        return {name: values.astype(np.float32) for name, values in blend.items()}

    def measure_batchnorm_inputs(
        self, tensors: Mapping[str, NDArray[Any]], inputs: Sequence[NDArray[np.float32]]
    ) -> NormInputStatistics:
        """Measures what enters each BatchNorm.

        Args:
            tensors: What `blend_tensors` returns.
            inputs: float32 (N, C, H, W) each; each counts alike.

        Returns:
            Mean and variance over all inputs and places, float64 (C,) each, by layer; empty without BatchNorm.
        """
        estimate = self._estimator.estimate(tensors, inputs)
        return {name.rpartition(".")[0]: statistics for name, statistics in estimate.items()}

    @cached_property
    def _estimator(self) -> Any:
        statistics = import_optional("engines.onnxruntime_cpu.statistics")
        return statistics.BatchNormEstimator(self.graph, self.weight_names, statistics="running")

    def _to_vector(self, coefficients: MemberCoefficients) -> NDArray[np.float64]:
        return np.array([coefficients.get(name, 0.0) for name in self.family.names])


@contextmanager
def open_runner(
    family: Family,
    network: Bundle | GraphFamily | None,
    *,
    arch: str = "auto",
) -> Iterator[BlendRunner]:
    """Opens a family's network.

    Args:
        family: The members.
        network: The bundle that they are from, to run on its engine; or the files with their graph; None to export the members'
            graph in memory.
        arch: Architecture of members without a graph, as `export` takes it.

    Yields:
        The runner, usable inside the `with` block.

    Raises:
        UnavailableError: No engine, or for checkpoints PyTorch or ONNX Runtime is missing.
        MismatchError: The architecture of the checkpoints is not known, or the output of a graph is no image.
        InputError: The network of the checkpoints cannot be exported, or a graph cannot be run.
    """
    if not isinstance(network, Bundle):
        make_runner = _open_exported(family, arch) if network is None else _open_graph_family(network)
        with make_runner as runner:
            yield runner
        return
    bundle = network
    with import_optional("dni_deploy.session.session").open_session(bundle) as session:

        def run(coefficients: NDArray[np.float64], inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
            session.alpha = coefficients
            return [session.infer(x) for x in inputs]

        # What the engine is compared with has the calibration that the engine has.
        calibrated = import_optional("engines.calibrated_network").read_network(bundle)
        members = calibrated.complete_members(_select_weights(family, bundle.weight_names))
        table = calibrated.make_table(members)
        yield BlendRunner(
            bundle.architecture, bundle.signature, family, calibrated.graph, calibrated.weight_names, members, table, run
        )


def _open_exported(family: Family, arch: str) -> AbstractContextManager[BlendRunner]:
    # The exporter comes first: where it is missing, it is what the user has to install.
    find_architecture = import_optional("exporters.architectures.registry").find_architecture
    tensors = family.members[0].checkpoint.tensors
    architecture = find_architecture(arch, tensors)
    network = architecture.build(tensors)
    signature = architecture.resolve_signature(network)
    exported, _ = import_optional("exporters.cache").export_graph_cached(architecture.name, network, signature)
    return _run_graph(architecture.name, signature, family.with_controls(signature.controls), exported.graph, exported.names)


def _open_graph_family(files: GraphFamily) -> AbstractContextManager[BlendRunner]:
    source = escape_name(files.family.members[0].checkpoint.source, 100)
    finished = import_optional("exporters.finish_graph_family").finish_graph(files.graph, source)
    return _run_graph(files.format, finished.signature, files.family, finished.graph, files.family.float_keys, finished.notes)


@contextmanager
def _run_graph(
    architecture: str,
    signature: Signature,
    family: Family,
    graph: ModelProto,
    names: Sequence[str],
    notes: tuple[str, ...] = (),
) -> Iterator[BlendRunner]:
    """Runs a graph in ONNX Runtime with the members' weights of these names."""
    rebuild = import_optional("engines.onnxruntime_cpu.rebuild")
    members = _select_weights(family, names)
    with closing(rebuild.RebuildEngine(graph, members, slots=1)) as engine:

        def run(coefficients: NDArray[np.float64], inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
            engine.refit(0, coefficients)
            return [engine.infer(0, x) for x in inputs]

        yield BlendRunner(architecture, signature, family, graph, tuple(names), members, None, run, notes)


def _select_weights(family: Family, names: Sequence[str]) -> list[dict[str, NDArray[Any]]]:
    return [{name: member.checkpoint.tensors[name] for name in names} for member in family.members]
