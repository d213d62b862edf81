"""Perceptually uniform slider: alpha against position, so that equal steps of the slider look equal, and the inverse."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dni_deploy.errors import BundleError, MismatchError, UsageError, escape_name

MIN_STEP_FRACTION = 0.01
"""Fraction of an even step that a step of alpha without any visible change gets, so that every alpha has its own position."""


@dataclass(frozen=True)
class PerceptualSlider:
    """A strictly rising, piecewise linear function from position on the slider to alpha, the first member's share.

    Attributes:
        points: (position, alpha) of each point, from (0, 0) to (1, 1): the members are at the ends of the slider.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        """Checks the points.

        Raises:
            BundleError: They do not rise, or do not begin and end where they must.
        """
        if len(self.points) < 2 or self.points[0] != (0.0, 0.0) or self.points[-1] != (1.0, 1.0):
            raise BundleError("A slider's points begin at position 0, alpha 0 and end at position 1, alpha 1.")
        for before, after in pairwise(self.points):
            if not (before[0] < after[0] and before[1] < after[1]):
                raise BundleError(f"A slider's points rise in position and in alpha; {before} is followed by {after}.")

    @classmethod
    def from_distances(cls, alphas: Sequence[float], distances: Sequence[float]) -> PerceptualSlider:
        """Makes a slider from measured distances.

        Args:
            alphas: Rising from 0 to 1.
            distances: How much the image changes visibly from each alpha to the next.

        Returns:
            The slider.

        Raises:
            MismatchError: The image never changes: the members then give one image, and no position is better than another.
        """
        total = sum(distances)
        if total <= 0:
            raise MismatchError(
                "The image is the same at every alpha, so there are no steps to make even; choose another image."
            )
        floor = MIN_STEP_FRACTION * total
        parts = [
            distance + floor * (after - before) for (before, after), distance in zip(pairwise(alphas), distances, strict=True)
        ]
        positions, total = [0.0], sum(parts)
        for part in parts[:-1]:
            positions.append(positions[-1] + part / total)
        return cls(tuple(zip((*positions, 1.0), alphas, strict=True)))

    def alpha_at(self, position: float) -> float:
        """Returns alpha at a position from 0 to 1; raises UsageError for any other number."""
        positions, alphas = zip(*self.points, strict=True)
        return _interpolate_piecewise(position, positions, alphas, "position")

    def position_at(self, alpha: float) -> float:
        """Returns the position of an alpha from 0 to 1; raises UsageError for any other number."""
        positions, alphas = zip(*self.points, strict=True)
        return _interpolate_piecewise(alpha, alphas, positions, "alpha")


def _interpolate_piecewise(x: float, xs: Sequence[float], ys: Sequence[float], what: str) -> float:
    if not 0.0 <= x <= 1.0:
        raise UsageError(f"A slider's {what} is a number from 0 to 1; got {escape_name(x)}.")
    piece = min(bisect_right(xs, x), len(xs) - 1) - 1
    part = (x - xs[piece]) / (xs[piece + 1] - xs[piece])
    # From the nearer end of the piece, so that both of its points come out exactly, and nothing beyond them.
    if part <= 0.5:
        return ys[piece] + part * (ys[piece + 1] - ys[piece])
    return ys[piece + 1] - (xs[piece + 1] - x) / (xs[piece + 1] - xs[piece]) * (ys[piece + 1] - ys[piece])
