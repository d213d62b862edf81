"""A family's network at any coefficients: a bundle on its engine, or checkpoints whose graph is exported in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from dni_deploy.blending.calibration_table import CalibrationTable, blend_tensors
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.checkpoints.family import Family
from dni_deploy.compatibility.midpoint import NormInputStatistics
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
def open_runner(family: Family, bundle: Bundle | None) -> Iterator[BlendRunner]:
    """Opens a family's network.

    Args:
        family: The members.
        bundle: The bundle that they are from, to run on its engine; None to export the members' graph in memory.

    Yields:
        The runner, usable inside the `with` block.

    Raises:
        UnavailableError: No engine, or for checkpoints PyTorch or ONNX Runtime is missing.
        MismatchError: The architecture of the checkpoints is not known.
        InputError: The network of the checkpoints cannot be exported.
    """
    if bundle is None:
        with _export_runner(family) as runner:
            yield runner
        return
    with import_optional("dni_deploy.session.session").open_session(bundle) as session:

        def run(coefficients: NDArray[np.float64], inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
            session.alpha = coefficients
            return [session.infer(x) for x in inputs]

        # What the engine is compared with has the calibration that the engine has.
        network = import_optional("engines.calibrated_network").read_network(bundle)
        members = network.complete_members(_select_weights(family, bundle.weight_names))
        table = network.make_table(members)
        yield BlendRunner(
            bundle.architecture, bundle.signature, family, network.graph, network.weight_names, members, table, run
        )


@contextmanager
def _export_runner(family: Family) -> Iterator[BlendRunner]:
    # The exporter comes first: where it is missing, it is what the user has to install.
    find_architecture = import_optional("exporters.architectures.registry").find_architecture
    tensors = family.members[0].checkpoint.tensors
    architecture = find_architecture("auto", tensors)
    rebuild = import_optional("engines.onnxruntime_cpu.rebuild")
    network = architecture.build(tensors)
    signature = architecture.resolve_signature(network)
    exported, _ = import_optional("exporters.cache").export_graph_cached(architecture.name, network, signature)
    members = _select_weights(family, exported.names)
    with closing(rebuild.RebuildEngine(exported.graph, members, slots=1)) as engine:

        def run(coefficients: NDArray[np.float64], inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
            engine.refit(0, coefficients)
            return [engine.infer(0, x) for x in inputs]

        yield BlendRunner(architecture.name, signature, family, exported.graph, exported.names, members, None, run)


def _select_weights(family: Family, names: Sequence[str]) -> list[dict[str, NDArray[Any]]]:
    return [{name: member.checkpoint.tensors[name] for name in names} for member in family.members]
