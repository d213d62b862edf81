"""Matching: whether one network's filters are another's in another order.

Two networks trained apart may do the same with their channels in another order: each filter has a twin, at another place. Eq. 3
compares place by place and sees strangers. Here every filter looks for its twin (the assignment with the largest sum of
correlations), layer after layer: a layer's inputs are put into the order that was found for the layers before it. Nothing is repaired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDEST = 1024
"""Filters in a layer up to which twins are looked for; the search takes the cube of it."""
REMEMBERED = 6
"""Orders of earlier layers that are tried on a layer's inputs: in residual networks an old one comes back."""

_Order = NDArray[np.intp]


@dataclass(frozen=True)
class Matched:
    """One layer after its best reordering.

    index   of each filter of the first member with its twin in the second, float64 (filters,); its size counts, not its sign.
    chance  the median that the same search finds when the numbers inside each of the second member's filters are shuffled.
    moved   filters whose twin stands at another place.
    """

    index: NDArray[np.float64]
    chance: float
    moved: int


def can_match() -> bool:
    """Whether the package that solves the assignment is there."""
    return find_spec("scipy") is not None


def matched(
    first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]], layers: Mapping[str, int]
) -> dict[str, Matched]:
    """Each layer of at most WIDEST filters after its best reordering, by name.

    layers  name -> axis of the filters, in the order of the network, as `filter_layers` gives them.
    Source: the matching of weights in Ainsworth et al., Git Re-Basin, ICLR 2023, section 3.2, here from input to output, once.
    """
    found: dict[str, Matched] = {}
    inputs: _Order = np.arange(0)
    outputs: _Order = np.arange(0)
    known: list[_Order] = []
    random = np.random.default_rng(0)
    for name, axis in layers.items():
        one, other = (_rows(tensors[name], axis) for tensors in (first, second))
        if len(one) > WIDEST:
            continue
        best: tuple[float, NDArray[np.float64], _Order, _Order] | None = None
        for order in _candidates(one.shape[1], inputs, outputs, known):
            index, twins = _assigned(one, other[:, order])
            score = float(np.median(np.abs(index)))
            if best is None or score > best[0] + 1e-9:
                best = score, index, twins, order
        assert best is not None  # the order as it is is always a candidate
        _, index, outputs, inputs = best
        shuffled = random.permuted(other.reshape(len(other), -1), axis=1).reshape(other.shape)
        chance, _ = _assigned(one, shuffled)
        found[name] = Matched(index, float(np.median(np.abs(chance))), int(np.count_nonzero(outputs != np.arange(len(outputs)))))
        known = [outputs, *(order for order in known if not np.array_equal(order, outputs))][:REMEMBERED]
    return found


def _rows(weight: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """float64 (filters, inputs, numbers of each)."""
    moved = np.moveaxis(weight, axis, 0).astype(np.float64)
    return moved.reshape(*moved.shape[:2], -1)


def _candidates(count: int, inputs: _Order, outputs: _Order, known: list[_Order]) -> Iterator[_Order]:
    """Orders that a layer's inputs may have: as they are, as an earlier layer's filters, or, in a dense block, the last layer's both."""
    plain = np.arange(count)
    yield plain
    if 0 < len(inputs) and len(inputs) + len(outputs) == count:
        yield np.concatenate([inputs, outputs + len(inputs)])
    for order in known:
        if len(order) == count and not np.array_equal(order, plain):
            yield order


def _assigned(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[NDArray[np.float64], _Order]:
    """The correlation of every filter with its twin, and where the twins stand."""
    from scipy.optimize import linear_sum_assignment

    table = _standardized(one) @ _standardized(other).T
    rows, columns = linear_sum_assignment(np.abs(table), maximize=True)
    return table[rows, columns], np.asarray(columns, np.intp)


def _standardized(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = rows.reshape(len(rows), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    norm = np.sqrt(np.einsum("ij,ij->i", centred, centred))[:, None]
    return np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 1e-12 * (1 + np.abs(flat).max(initial=0.0)))
