"""Whether one network's filters are another's in another order.

Two networks that were trained apart may do the same with their channels in another order: each filter has a counterpart at
another place. Eq. 3 compares place by place and finds them unrelated. Here each filter is assigned its counterpart (the
assignment with the largest sum of correlations), layer after layer: a layer's inputs are put into an order that was found for
other layers' filters. Nothing is repaired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_ALIGNED_FILTERS = 1024
"""Filters in a layer up to which counterparts are looked for; the search takes the cube of it."""
REMEMBERED_ORDERS = 4
"""Orders of other layers that are tried on a layer's inputs, the most frequent ones."""
ALIGNMENT_PASSES = 4
"""Over all layers: they come in the order of their names, which need not be the network's."""
MIN_PASS_GAIN = 0.01
"""What a pass must add to the median index for another to follow."""

_Order = NDArray[np.intp]


@dataclass(frozen=True)
class LayerAlignment:
    """One layer after its best reordering.

    Attributes:
        median: Median over the filters of the correlation of each with its counterpart, without its sign.
        chance_median: What the same search finds when the numbers inside each of the second member's filters are shuffled.
    """

    median: float
    chance_median: float


def can_align() -> bool:
    """Returns whether SciPy, which solves the assignment, is installed."""
    return find_spec("scipy") is not None


def align_permutations(
    first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]], layers: Mapping[str, int]
) -> dict[str, LayerAlignment]:
    """Looks for the best reordering of each layer of at most MAX_ALIGNED_FILTERS filters.

    Args:
        first: The first member's tensors.
        second: The second member's tensors.
        layers: Axis of the filters by the name of the weight, as `find_filter_layers` returns them.

    Returns:
        The alignment by the name of the weight.

    Source: the matching of weights in Ainsworth et al., Git Re-Basin, ICLR 2023, section 3.2; here by filters alone.
    """
    outputs: dict[str, _Order] = {}
    correlations: dict[str, NDArray[np.float64]] = {}
    rows = {name: tuple(_to_filter_rows(tensors[name], axis) for tensors in (first, second)) for name, axis in layers.items()}
    rows = {name: pair for name, pair in rows.items() if len(pair[0]) <= MAX_ALIGNED_FILTERS}
    median_before = -1.0
    for _ in range(ALIGNMENT_PASSES):
        previous: tuple[_Order, _Order] = (np.arange(0), np.arange(0))
        for name, (one, other) in rows.items():
            best: tuple[float, _Order] | None = None
            for order in _candidate_orders(one.shape[1], previous, outputs):
                index, counterparts = _assign_filters(one, other[:, order])
                score = _median_size(index)
                if best is None or score > best[0] + 1e-9:
                    best, correlations[name], outputs[name] = (score, order), index, counterparts
            assert best is not None  # the order as it is is always a candidate
            previous = (best[1], outputs[name])
        median = _median_size(np.concatenate([*correlations.values(), np.zeros(1)]))
        if median < median_before + MIN_PASS_GAIN:
            break
        median_before = median
    random = np.random.default_rng(0)
    alignments = {}
    for name, (one, other) in rows.items():
        shuffled = random.permuted(other.reshape(len(other), -1), axis=1).reshape(other.shape)
        chance, _ = _assign_filters(one, shuffled)
        alignments[name] = LayerAlignment(_median_size(correlations[name]), _median_size(chance))
    return alignments


def _median_size(correlations: NDArray[np.float64]) -> float:
    return float(np.median(np.abs(correlations)))


def _to_filter_rows(weight: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """Returns float64 (filters, inputs, numbers of each)."""
    rows = np.moveaxis(weight, axis, 0).astype(np.float64)
    return rows.reshape(*rows.shape[:2], -1)


def _candidate_orders(count: int, previous: tuple[_Order, _Order], outputs: Mapping[str, _Order]) -> Iterator[_Order]:
    """Yields orders that a layer's inputs may have.

    As they are; in a dense block, the last layer's inputs and filters; other layers' filters, the most frequent order first: in
    a residual network one order belongs to all layers that add up.
    """
    unchanged = np.arange(count)
    yield unchanged
    inputs, filters = previous
    if len(inputs) > 0 and len(inputs) + len(filters) == count:
        yield np.concatenate([inputs, filters + len(inputs)])
    of_size = [order for order in outputs.values() if len(order) == count]
    latest = [of_size[-1].tobytes()] if of_size else []
    frequent = [key for key, _ in Counter(order.tobytes() for order in of_size).most_common(REMEMBERED_ORDERS)]
    for key in dict.fromkeys([filters.tobytes(), *latest, *frequent]):
        order = np.frombuffer(key, np.intp)
        if len(order) == count and not np.array_equal(order, unchanged):
            yield order


def _assign_filters(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[NDArray[np.float64], _Order]:
    """Returns the correlation of every filter with its counterpart, and the places of the counterparts."""
    from scipy.optimize import linear_sum_assignment

    table = _standardize_rows(one) @ _standardize_rows(other).T
    rows, columns = linear_sum_assignment(np.abs(table), maximize=True)
    return np.asarray(table[rows, columns], np.float64), np.asarray(columns, np.intp)


def _standardize_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = rows.reshape(len(rows), -1)
    centered = flat - flat.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.einsum("ij,ij->i", centered, centered))[:, None]
    is_varied = norm > 1e-12 * (1 + np.abs(flat).max(initial=0.0))
    out: NDArray[np.float64] = np.divide(centered, norm, out=np.zeros_like(centered), where=is_varied)
    return out
