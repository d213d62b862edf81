"""The channels of one network in the order of another's: weight matching.

Two networks that compute nearly the same may have their channels in another order; their blend is then neither. The groups of
channels that may be permuted come from the graph (`channel_groups`). For each group the order is sought in which the weights of
the second network are most like the first one's: a linear assignment problem while all other groups stay as they are.

Source: Ainsworth et al., Git Re-Basin, ICLR 2023, section 3.2, Algorithm 1. Two things are added. Each tensor counts by its
numbers, not by their size, so that a BatchNorm's variances do not outweigh its filters. And a first pass goes through the groups
from the input on, and compares only what has an order already: in a residual network most of a group's weights lead to groups
whose order is not known yet, which hides the few that tell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from dni_deploy.calibration.channel_groups import ChannelGroups, Placement, find_channel_groups
from dni_deploy.checkpoints.family import Family, Member
from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import psnr_db
from engines.ort_session import bind_initializers, open_cpu_session, run_session
from engines.verification import VERIFICATION_SIDE_PX, make_verification_input

MAX_SWEEPS = 100
"""Over all groups; the search ends where no group changes any more."""
RESTARTS = 3
"""Searches that visit the groups in a random order, beside those in the network's order. On waifu2x's cunet, whose members were
trained apart, no random order or start found more than the order as it is (0.127 against 0.118 to 0.127)."""
CONVINCING_LIKENESS = 0.5
"""The mean product of two networks' weights, from which on no other start is tried. Permuted copies with noise of a tenth of their
deviation have 0.99; networks that were trained apart reached 0.10 to 0.15."""
MIN_GAIN = 1e-9
"""What a new order must add to the likeness, of the largest that is possible: less is rounding."""
MIN_PSNR_DB = 120.0
"""Between the outputs of a network and of its permuted self: 1e-6 of the largest output, as a root mean square. Sums in another
order gave 126 dB (CycleGAN, whose InstanceNorm magnifies roundings) to 151 dB; two filters exchanged in one layer gave 39 to 54."""

Order = NDArray[np.intp]
"""For each channel of the first network, the channel of the second that takes its place."""
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class MemberAlignment:
    """What was done to a member.

    Attributes:
        moved: Channels that are at another place than before.
        channels: Channels of the network that may be moved.
    """

    moved: int
    channels: int


def align_family(
    graph: onnx.ModelProto, signature: Signature, family: Family, tied: Mapping[str, str] | None = None
) -> tuple[Family, dict[str, MemberAlignment]]:
    """Puts the channels of every member after the first into the order of the first one's, and verifies each.

    Args:
        graph: The network; initializers with the names of float tensors of the family are its weights.
        signature: Of the network.
        family: The members; not changed.
        tied: Name of a tensor -> name of the one in the graph with which it shares its values.

    Returns:
        The family, with tensors that are in no place of the graph as they were, and what was done to each member after the first.

    Raises:
        MismatchError: The network has no channels that may be moved, or a member does not compute the same as before.
        EngineError: ONNX Runtime cannot run the network.
    """
    names = {tensor.name for tensor in graph.graph.initializer}
    groups = find_channel_groups(graph, [name for name in family.float_keys if name in names])
    if not groups.sizes:
        raise MismatchError(
            "The members cannot be aligned: in this network no channel is known to be movable without a change of the output. "
            "Export it without aligning. Nothing was written."
        )
    first, *others = family.members
    members, alignments = [first], {}
    for member in others:
        tensors = member.checkpoint.tensors
        orders = find_orders(first.checkpoint.tensors, tensors, groups)
        permuted = permute_tensors(tensors, groups, orders)
        permuted |= {alias: permuted[name] for alias, name in (tied or {}).items() if alias in permuted}
        verify_same_function(graph, signature, tensors, permuted, member.name)
        members.append(Member(member.name, replace(member.checkpoint, tensors=permuted)))
        moved = sum(int(np.count_nonzero(order != np.arange(len(order)))) for order in orders)
        alignments[member.name] = MemberAlignment(moved, sum(groups.sizes))
    return Family(tuple(members), family.notes), alignments


def find_orders(first: Tensors, second: Tensors, groups: ChannelGroups, *, seed: int = 0) -> list[Order]:
    """Finds the order of each group in which the second network's weights are most like the first one's.

    Args:
        first: Weights by name, float.
        second: Weights of the same shapes.
        groups: Of the graph.
        seed: Of the orders in which the groups are visited. The same seed gives the same result.

    Returns:
        intp (size,) for each group. The weights are never less alike than in the order in which they are.
    """
    search = _Search(first, second, groups)
    count = len(groups.sizes)
    unchanged = [np.arange(size) for size in groups.sizes]
    best = search.improve(search.find_first_orders(), range(count))
    if best[0] >= CONVINCING_LIKENESS and best[0] > search.compute_likeness(unchanged) + MIN_GAIN:
        return best[1]
    candidate = search.improve(unchanged, range(count))
    if abs(candidate[0] - best[0]) <= MIN_GAIN:
        return candidate[1]
    rng = np.random.default_rng(seed)
    restarts = (search.improve(unchanged, rng.permutation(count).tolist()) for _ in range(RESTARTS))
    return max((best, candidate, *restarts), key=lambda result: result[0])[1]


def permute_tensors(tensors: Tensors, groups: ChannelGroups, orders: Sequence[Order]) -> dict[str, NDArray[Any]]:
    """Puts the channels of a network into another order.

    Args:
        tensors: By name; those that have no group are passed on as they are.
        groups: Of the graph.
        orders: One for each group, as `find_orders` returns them.

    Returns:
        The tensors: the same numbers in the same types, read-only; those with groups in memory of their own.
    """
    permuted = dict(tensors)
    for name, placements in groups.placements.items():
        array = tensors[name]
        for axis in {placement.axis for placement in placements}:
            places = np.arange(array.shape[axis])
            for placement in placements:
                if placement.axis == axis:
                    span = _span(placement, len(orders[placement.group]))
                    places[span] = _list_places(placement, orders[placement.group])
            array = array.take(places, axis)
        array.setflags(write=False)
        permuted[name] = array
    return permuted


def verify_same_function(
    graph: onnx.ModelProto, signature: Signature, original: Tensors, permuted: Tensors, name: str
) -> float:
    """Compares a network with its permuted self in ONNX Runtime on random inputs.

    Args:
        graph: The network, with any weights.
        signature: Of the network.
        original: Its weights.
        permuted: Its weights in another order.
        name: Of the member, for the message.

    Returns:
        The lowest PSNR in dB, of the largest output.

    Raises:
        MismatchError: It is below MIN_PSNR_DB.
        EngineError: ONNX Runtime cannot run the network.
    """
    sessions = [open_cpu_session(bind_initializers(graph, tensors)) for tensors in (original, permuted)]
    inputs = [make_verification_input(signature, VERIFICATION_SIDE_PX, seed) for seed in (0, 1)]
    psnr = min(psnr_db(run_session(sessions[1], x), run_session(sessions[0], x)) for x in inputs)
    if psnr < MIN_PSNR_DB:
        raise MismatchError(
            f"Member {name!r} with its channels in another order differs from itself by {10 ** (-psnr / 20):.1e} of the largest "
            f"output, where {10 ** (-MIN_PSNR_DB / 20):.0e} is allowed; export it without aligning. Nothing was written."
        )
    return psnr


def _span(placement: Placement, size: int) -> slice:
    return slice(placement.start, placement.start + size * placement.width)


def _list_places(placement: Placement, channels: NDArray[np.intp]) -> NDArray[np.intp]:
    """The places on an axis of these channels, each with all its adjacent numbers."""
    places = placement.start + channels[:, None] * placement.width + np.arange(placement.width)
    return places.reshape(-1)


@dataclass(frozen=True)
class _Use:
    """A weight that a group is in, at one placement."""

    name: str
    placement: Placement


class _Search:
    """Orders of all groups, and how alike they make the two networks."""

    def __init__(self, first: Tensors, second: Tensors, groups: ChannelGroups) -> None:
        self.first, self.second, self.groups = first, second, groups
        self.scales: dict[str, float] = {}
        self.uses: list[list[_Use]] = [[] for _ in groups.sizes]
        for name, placements in groups.placements.items():
            norms = [float(np.linalg.norm(tensors[name].astype(np.float64))) for tensors in (first, second)]
            self.scales[name] = first[name].size / (norms[0] * norms[1]) if all(norms) else 0.0
            for placement in placements:
                self.uses[placement.group].append(_Use(name, placement))
        self.names = [{use.name for use in uses} for uses in self.uses]
        self.neighbors = [{placement.group for name in names for placement in groups.placements[name]} for names in self.names]
        self.total = float(sum(first[name].size for name in groups.placements)) or 1.0

    def find_first_orders(self) -> list[Order]:
        """Orders from one pass over the groups, each by what it shares with groups that have had their turn."""
        orders = [np.arange(size) for size in self.groups.sizes]
        for group in range(len(orders)):
            orders[group] = _assign(self.compare_channels(group, orders, range(group)))
        return orders

    def improve(self, start: Sequence[Order], visits: Sequence[int]) -> tuple[float, list[Order]]:
        """Improves one group after the other until no change of one alone helps; returns the likeness, at most 1, and the orders."""
        orders, pending = list(start), set(visits)
        for _ in range(MAX_SWEEPS):
            for group in visits:
                if group in pending:
                    pending.remove(group)
                    if self.improve_group(group, orders):
                        pending |= self.neighbors[group]
            if not pending:
                break
        return self.compute_likeness(orders), orders

    def compute_likeness(self, orders: Sequence[Order]) -> float:
        """The mean of the products of all weights in these orders, 1 where the networks are the same."""
        return self.sum_products(orders, self.groups.placements) / self.total

    def improve_group(self, group: int, orders: list[Order]) -> bool:
        """Replaces a group's order if another one makes the networks more alike; returns whether it did."""
        order = _assign(self.compare_channels(group, orders))
        if np.array_equal(order, orders[group]):
            return False
        # The likeness is exact unless the group is in two axes of one weight.
        before, previous = self.sum_products(orders, self.names[group]), orders[group]
        orders[group] = order
        if self.sum_products(orders, self.names[group]) > before + MIN_GAIN * self.total:
            return True
        orders[group] = previous
        return False

    def sum_products(self, orders: Sequence[Order], names: Iterable[str]) -> float:
        """The sum of the products of the first network's weights and the second's in these orders."""
        part = ChannelGroups(self.groups.sizes, {name: self.groups.placements[name] for name in names})
        permuted = permute_tensors({name: self.second[name] for name in names}, part, orders)
        return sum(
            self.scales[name] * float(np.vdot(self.first[name].astype(np.float64), permuted[name].astype(np.float64)))
            for name in sorted(names)
        )

    def compare_channels(
        self, group: int, orders: Sequence[Order], known: Collection[int] | None = None
    ) -> NDArray[np.float64]:
        """Sums, for each channel of the first network and each of the second, the products of their weights.

        Args:
            group: Whose channels.
            orders: Of the other groups. Where the group is in two axes of a weight, its own present order is used on the other.
            known: Groups whose order counts; weights of others are left out. None for all.

        Returns:
            float64 (size, size).
        """
        size = self.groups.sizes[group]
        likeness = np.zeros((size, size))
        for use in self.uses[group]:
            ours, theirs = self.first[use.name], self.second[use.name]
            if not self.scales[use.name]:
                continue
            axis, span = use.placement.axis, _span(use.placement, size)
            rows = [np.moveaxis(each, axis, 0)[span] for each in (ours, theirs)]
            for other in range(ours.ndim):
                if other != axis:
                    # The axes behind the moved one keep their places, those before it stand one further on.
                    places = self.list_places(use.name, other, orders, known)
                    target = other if other > axis else other + 1
                    rows = [row.take(place, target) for row, place in zip(rows, places, strict=True)] if places else rows
            flat = [row.reshape(size, -1).astype(np.float64) for row in rows]
            likeness += self.scales[use.name] * (flat[0] @ flat[1].T)
        return likeness

    def list_places(
        self, name: str, axis: int, orders: Sequence[Order], known: Collection[int] | None
    ) -> tuple[Order, Order] | None:
        """The places of an axis that count, in the first network and in the second; None for all, in the order in which they are."""
        placements = [placement for placement in self.groups.placements[name] if placement.axis == axis]
        if not placements:
            return None
        ours = np.arange(self.first[name].shape[axis])
        theirs, counts = ours.copy(), np.ones(len(ours), bool)
        for placement in placements:
            span = _span(placement, len(orders[placement.group]))
            theirs[span] = _list_places(placement, orders[placement.group])
            counts[span] = known is None or placement.group in known
        return ours[counts], theirs[counts]


def _assign(likeness: NDArray[np.float64]) -> Order:
    return np.asarray(linear_sum_assignment(likeness, maximize=True)[1], np.intp)
