"""Pareto: the blends that no other one beats in every measure, and the best compromise among them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def find_pareto_front(values: Sequence[Sequence[float]]) -> list[int]:
    """Indices of the rows that no other row equals or exceeds in every measure while exceeding it in one; more is better.

    Of equal rows the first is kept. The order is that of the rows.
    """
    return [
        index
        for index, row in enumerate(values)
        if not any(_dominates(other, row) or (place < index and list(other) == list(row)) for place, other in enumerate(values))
    ]


def _dominates(other: Sequence[float], row: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(other, row, strict=True)) and any(a > b for a, b in zip(other, row, strict=True))


def find_knee_point(values: Sequence[Sequence[float]]) -> int:
    """Index of the row of a front that is nearest to the best of every measure, each scaled to 0..1 over the front.

    Source: the compromise solution of Zeleny, 1973, under the Euclidean distance.
    """
    columns = list(zip(*values, strict=True))
    spans = [(min(column), max(column)) for column in columns]

    def distance_to_ideal(row: Sequence[float]) -> float:
        lacking = []
        for value, (low, high) in zip(row, spans, strict=True):
            if math.isinf(high - low):  # identical pictures have an infinite PSNR
                lacking.append(float(value != high))
            else:
                lacking.append((high - value) / (high - low) if high > low else 0.0)
        return math.hypot(*lacking)

    return min(range(len(values)), key=lambda index: distance_to_ideal(values[index]))
