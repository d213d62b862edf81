"""Blend runner: a family's network at any shares: a bundle on its engine, or checkpoints in PyTorch, before anything is exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bays import open_door
from dni_deploy.blend import blend_float64
from dni_deploy.bundle import Bundle
from dni_deploy.family import Family
from dni_deploy.norm_drift import Measured
from dni_deploy.signature import Signature

Shares = Mapping[str, float]
"""By member; those left out have none."""


class BlendRunner(Protocol):
    """What a check asks of a network."""

    @property
    def signature(self) -> Signature: ...

    @property
    def architecture(self) -> str: ...

    def infer(self, shares: Shares, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The raw network, float32 (N, C, H, W) -> float32 (N, C', H', W')."""
        ...

    def norm_inputs(self, shares: Shares, inputs: Sequence[NDArray[np.float32]]) -> Measured:
        """Statistics of what goes into each BatchNorm, over all inputs."""
        ...


@contextmanager
def open_runner(family: Family, bundle: Bundle | None) -> Iterator[BlendRunner]:
    """The bundle on its engine; without one, the family in PyTorch.

    Raises EnvironmentProblem (neither engine nor PyTorch) and, for checkpoints, MismatchError (an architecture that is not known).
    """
    if bundle is None:
        yield _CheckpointRunner(family)
        return
    with open_door("dni_deploy.session").open_session(bundle) as session:
        yield _BundleRunner(bundle, family, session)


def _blended(family: Family, shares: Shares) -> dict[str, NDArray[Any]]:
    """The first member's tensors with the floats blended in float64 and rounded once to float32."""
    keys = family.float_keys
    members = [{key: member.checkpoint.tensors[key] for key in keys} for member in family.members]
    blend = blend_float64(members, np.array([shares.get(name, 0.0) for name in family.names]))
    return {**family.members[0].checkpoint.tensors, **{key: values.astype(np.float32) for key, values in blend.items()}}


class _CheckpointRunner:
    def __init__(self, family: Family) -> None:
        first = family.members[0].checkpoint.tensors
        found = open_door("exporters.architectures").find("auto", first)
        self.architecture: str = found.name
        self.signature: Signature = found.signature(found.build(first))
        self._family = family
        self._network = open_door("exporters.member_network").MemberNetwork(found)

    def infer(self, shares: Shares, x: NDArray[np.float32]) -> NDArray[np.float32]:
        output: NDArray[np.float32] = self._network.infer(_blended(self._family, shares), x)
        return output

    def norm_inputs(self, shares: Shares, inputs: Sequence[NDArray[np.float32]]) -> Measured:
        found: Measured = self._network.norm_inputs(_blended(self._family, shares), inputs)
        return found


class _BundleRunner:
    def __init__(self, bundle: Bundle, family: Family, session: Any) -> None:
        self.architecture: str = bundle.architecture
        self.signature: Signature = bundle.signature
        self._family, self._session = family, session
        self._graph, self._names = bundle.graph(), bundle.weight_names

    def infer(self, shares: Shares, x: NDArray[np.float32]) -> NDArray[np.float32]:
        self._session.alpha = dict(shares)
        output: NDArray[np.float32] = self._session.infer(x)
        return output

    def norm_inputs(self, shares: Shares, inputs: Sequence[NDArray[np.float32]]) -> Measured:
        blended = _blended(self._family, shares)
        weights = {name: blended[name] for name in self._names}
        found: Measured = open_door("engines.norm_inputs").norm_inputs(self._graph, weights, inputs)
        return found
