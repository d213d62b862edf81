"""Matching: whether one network's filters are another's in another order.

Two networks trained apart may do the same with their channels in another order: each filter has a twin, at another place. Eq. 3
compares place by place and sees strangers. Here every filter looks for its twin (the assignment with the largest sum of
correlations), layer after layer: a layer's inputs are put into an order that was found for other layers' filters. Nothing is repaired.
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
"""Filters in a layer up to which twins are looked for; the search takes the cube of it."""
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

    index   of each filter of the first member with its twin in the second, float64 (filters,); its size counts, not its sign.
    chance  the median that the same search finds when the numbers inside each of the second member's filters are shuffled.
    moved   filters whose twin stands at another place.
    """

    correlations: NDArray[np.float64]
    chance_median: float
    moved_filters: int


def can_align() -> bool:
    """Whether the package that solves the assignment is there."""
    return find_spec("scipy") is not None


def align_permutations(
    first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]], layers: Mapping[str, int]
) -> dict[str, LayerAlignment]:
    """Each layer of at most MAX_ALIGNED_FILTERS filters after its best reordering, by name.

    layers  name -> axis of the filters, as `filter_layers` gives them.
    Source: the matching of weights in Ainsworth et al., Git Re-Basin, ICLR 2023, section 3.2; here by filters alone.
    """
    outputs: dict[str, _Order] = {}
    index: dict[str, NDArray[np.float64]] = {}
    rows = {name: tuple(_to_filter_rows(tensors[name], axis) for tensors in (first, second)) for name, axis in layers.items()}
    rows = {name: pair for name, pair in rows.items() if len(pair[0]) <= MAX_ALIGNED_FILTERS}
    before = -1.0
    for _ in range(ALIGNMENT_PASSES):
        dense: tuple[_Order, _Order] = (np.arange(0), np.arange(0))
        for name, (one, other) in rows.items():
            best: tuple[float, _Order] | None = None
            for order in _candidate_orders(one.shape[1], dense, outputs):
                found, twins = _assign_filters(one, other[:, order])
                score = float(np.median(np.abs(found)))
                if best is None or score > best[0] + 1e-9:
                    best, index[name], outputs[name] = (score, order), found, twins
            assert best is not None  # the order as it is is always a candidate
            dense = (best[1], outputs[name])
        reached = float(np.median(np.abs(np.concatenate([*index.values(), np.zeros(1)]))))
        if reached < before + MIN_PASS_GAIN:
            break
        before = reached
    random = np.random.default_rng(0)
    return {name: _judge_alignment(pair, index[name], outputs[name], random) for name, pair in rows.items()}


def _judge_alignment(
    pair: tuple[NDArray[np.float64], ...], index: NDArray[np.float64], order: _Order, random: np.random.Generator
) -> LayerAlignment:
    one, other = pair
    shuffled = random.permuted(other.reshape(len(other), -1), axis=1).reshape(other.shape)
    chance, _ = _assign_filters(one, shuffled)
    return LayerAlignment(index, float(np.median(np.abs(chance))), int(np.count_nonzero(order != np.arange(len(order)))))


def _to_filter_rows(weight: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """float64 (filters, inputs, numbers of each)."""
    moved = np.moveaxis(weight, axis, 0).astype(np.float64)
    return moved.reshape(*moved.shape[:2], -1)


def _candidate_orders(count: int, dense: tuple[_Order, _Order], outputs: Mapping[str, _Order]) -> Iterator[_Order]:
    """Orders that a layer's inputs may have: as they are; in a dense block, the last layer's inputs and filters; other layers' filters.

    Of those, the most frequent first: in a residual network one order belongs to all layers that add up.
    """
    plain = np.arange(count)
    yield plain
    inputs, filters = dense
    if len(inputs) > 0 and len(inputs) + len(filters) == count:
        yield np.concatenate([inputs, filters + len(inputs)])
    of_size = [order for order in outputs.values() if len(order) == count]
    latest = [of_size[-1].tobytes()] if of_size else []
    frequent = [key for key, _ in Counter(order.tobytes() for order in of_size).most_common(REMEMBERED_ORDERS)]
    for key in dict.fromkeys([filters.tobytes(), *latest, *frequent]):
        order = np.frombuffer(key, np.intp)
        if len(order) == count and not np.array_equal(order, plain):
            yield order


def _assign_filters(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[NDArray[np.float64], _Order]:
    """The correlation of every filter with its twin, and where the twins stand."""
    from scipy.optimize import linear_sum_assignment

    table = _standardize_rows(one) @ _standardize_rows(other).T
    rows, columns = linear_sum_assignment(np.abs(table), maximize=True)
    return np.asarray(table[rows, columns], np.float64), np.asarray(columns, np.intp)


def _standardize_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = rows.reshape(len(rows), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.einsum("ij,ij->i", centred, centred))[:, None]
    there = norm > 1e-12 * (1 + np.abs(flat).max(initial=0.0))
    out: NDArray[np.float64] = np.divide(centred, norm, out=np.zeros_like(centred), where=there)
    return out
