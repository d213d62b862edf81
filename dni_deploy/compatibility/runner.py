"""Blend runner: a family's network at any shares: a bundle on its engine, or checkpoints in PyTorch, before anything is exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import BatchNormTable, blend_tensors
from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.checkpoints.family import Family
from dni_deploy.compatibility.midpoint import NormInputStatistics
from dni_deploy.signature import Signature
from dni_deploy.utils.optional_packages import import_optional

MemberCoefficients = Mapping[str, float]
"""By member; those left out have none."""


class BlendRunner(Protocol):
    """What a check asks of a network."""

    @property
    def signature(self) -> Signature: ...

    @property
    def architecture(self) -> str: ...

    def infer(self, coefficients: MemberCoefficients, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The raw network, float32 (N, C, H, W) -> float32 (N, C', H', W')."""
        ...

    def blend_tensors(self, coefficients: MemberCoefficients) -> dict[str, NDArray[Any]]:
        """What the network computes with at these shares, by the names of its weights."""
        ...

    def measure_batchnorm_inputs(
        self, tensors: Mapping[str, NDArray[Any]], inputs: Sequence[NDArray[np.float32]]
    ) -> NormInputStatistics:
        """Statistics of what goes into each BatchNorm, over all inputs; tensors: of the method of that name."""
        ...


@contextmanager
def open_runner(family: Family, bundle: Bundle | None, recalibration: BatchNormTable | None = None) -> Iterator[BlendRunner]:
    """The bundle on its engine; without one, the family in PyTorch.

    recalibration  the bundle's own, if it has one: the engine computes with it unasked, and so must whatever is compared with it.
    Raises UnavailableError (neither engine nor PyTorch) and, for checkpoints, MismatchError (an architecture that is not known).
    """
    if bundle is None:
        yield _CheckpointRunner(family)
        return
    with import_optional("dni_deploy.session.session").open_session(bundle) as session:
        yield _BundleRunner(bundle, family, session, recalibration)


def _coefficient_vector(family: Family, coefficients: MemberCoefficients) -> NDArray[np.float64]:
    return np.array([coefficients.get(name, 0.0) for name in family.names])


def _select_tensors(family: Family, keys: Sequence[str]) -> list[dict[str, NDArray[Any]]]:
    """These tensors of each member."""
    return [{key: member.checkpoint.tensors[key] for key in keys} for member in family.members]


def _round_to_float32(blend: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[Any]]:
    return {key: values.astype(np.float32) for key, values in blend.items()}


class _CheckpointRunner:
    def __init__(self, family: Family) -> None:
        first = family.members[0].checkpoint.tensors
        found = import_optional("exporters.architectures.registry").find_architecture("auto", first)
        self.architecture: str = found.name
        self.signature: Signature = found.resolve_signature(found.build(first))
        self._family = family
        self._network = import_optional("exporters.member_network").MemberNetwork(found)

    def infer(self, coefficients: MemberCoefficients, x: NDArray[np.float32]) -> NDArray[np.float32]:
        output: NDArray[np.float32] = self._network.infer(self.blend_tensors(coefficients), x)
        return output

    def blend_tensors(self, coefficients: MemberCoefficients) -> dict[str, NDArray[Any]]:
        """The first member's, with the floats blended in float64 and rounded once to float32."""
        blend = blend_float64(
            _select_tensors(self._family, self._family.float_keys), _coefficient_vector(self._family, coefficients)
        )
        return {**self._family.members[0].checkpoint.tensors, **_round_to_float32(blend)}

    def measure_batchnorm_inputs(
        self, tensors: Mapping[str, NDArray[Any]], inputs: Sequence[NDArray[np.float32]]
    ) -> NormInputStatistics:
        found: NormInputStatistics = self._network.measure_batchnorm_inputs(tensors, inputs)
        return found


class _BundleRunner:
    def __init__(self, bundle: Bundle, family: Family, session: Any, recalibration: BatchNormTable | None) -> None:
        self.architecture: str = bundle.architecture
        self.signature: Signature = bundle.signature
        self._family, self._session, self._recalibration = family, session, recalibration
        self._names = bundle.weight_names
        self._estimator = import_optional("engines.onnxruntime_cpu.statistics").BatchNormEstimator(
            bundle.read_graph(), bundle.weight_names, statistics="running"
        )

    def infer(self, coefficients: MemberCoefficients, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self._session.alpha = dict(coefficients)
        output: NDArray[np.float32] = self._session.infer(x)
        return output

    def blend_tensors(self, coefficients: MemberCoefficients) -> dict[str, NDArray[Any]]:
        """The graph's weights, with the re-estimated statistics in their places, in float64 and rounded once to float32."""
        return _round_to_float32(
            blend_tensors(
                _select_tensors(self._family, self._names), _coefficient_vector(self._family, coefficients), self._recalibration
            )
        )

    def measure_batchnorm_inputs(
        self, tensors: Mapping[str, NDArray[Any]], inputs: Sequence[NDArray[np.float32]]
    ) -> NormInputStatistics:
        estimate = self._estimator.estimate(tensors, inputs)
        return {name.removesuffix("running_mean").removesuffix("."): moments for name, moments in estimate.items()}
