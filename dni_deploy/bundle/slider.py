"""Even slider: alpha warped so that equal steps of the slider are equal steps to the eye, and the way back."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dni_deploy.errors import BundleError, MismatchError, UsageError, escape_name

MIN_STEP_FRACTION = 0.01
"""The share of an even step that a step of alpha without any visible change still gets, so that every alpha has a position of its own."""


@dataclass(frozen=True)
class PerceptualSlider:
    """A strictly rising line of straight pieces from (0, 0) to (1, 1): position on the slider against alpha, the first member's share.

    knots  (position, alpha) each. Both ends are fixed, so the members stay at the ends of the slider.
    Raises BundleError for knots that do not rise, or do not begin and end there.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if len(self.points) < 2 or self.points[0] != (0.0, 0.0) or self.points[-1] != (1.0, 1.0):
            raise BundleError("A slider's knots begin at position 0, alpha 0 and end at position 1, alpha 1.")
        for before, after in pairwise(self.points):
            if not (before[0] < after[0] and before[1] < after[1]):
                raise BundleError(f"A slider's knots rise in position and in alpha; {before} is followed by {after}.")

    @classmethod
    def from_distances(cls, alphas: Sequence[float], distances: Sequence[float]) -> PerceptualSlider:
        """From alphas rising from 0 to 1, and how far the picture moves, to the eye, from each to the next.

        Raises MismatchError if it never moves: the members then give one picture, and no position is better than another.
        """
        total = sum(distances)
        if total <= 0:
            raise MismatchError(
                "The picture is the same at every alpha, so there are no steps to make even; take another picture."
            )
        floor = MIN_STEP_FRACTION * total
        parts = [
            distance + floor * (after - before) for (before, after), distance in zip(pairwise(alphas), distances, strict=True)
        ]
        places, whole = [0.0], sum(parts)
        for part in parts[:-1]:
            places.append(places[-1] + part / whole)
        return cls(tuple(zip((*places, 1.0), alphas, strict=True)))

    def alpha_at(self, position: float) -> float:
        """Alpha at that position, 0 to 1. Raises UsageError for any other position."""
        return _interpolate_piecewise(
            position, [knot[0] for knot in self.points], [knot[1] for knot in self.points], "position"
        )

    def position_at(self, alpha: float) -> float:
        """Where the slider stands at that alpha, 0 to 1. Raises UsageError for any other alpha."""
        return _interpolate_piecewise(alpha, [knot[1] for knot in self.points], [knot[0] for knot in self.points], "alpha")


def _interpolate_piecewise(x: float, xs: list[float], ys: list[float], what: str) -> float:
    if not 0.0 <= x <= 1.0:
        raise UsageError(f"A slider's {what} is a number from 0 to 1; got {escape_name(x)}.")
    piece = min(bisect_right(xs, x), len(xs) - 1) - 1
    part = (x - xs[piece]) / (xs[piece + 1] - xs[piece])
    # From the nearer end of the piece, so that both knots come out exactly, and nothing beyond them.
    if part <= 0.5:
        return ys[piece] + part * (ys[piece + 1] - ys[piece])
    return ys[piece + 1] - (xs[piece + 1] - x) / (xs[piece + 1] - xs[piece]) * (ys[piece + 1] - ys[piece])
