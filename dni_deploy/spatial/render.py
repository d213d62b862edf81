"""render_map: a frame through the network with another alpha at every pixel.

The network runs at a few levels between two alphas, each only where some pixel needs it; between two levels the outputs are
interpolated. A pixel whose alpha is a level gets exactly that level's output. Fig. 6 of the paper does this by hand with two levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.errors import CoefficientsError, EngineError
from dni_deploy.imaging.frames import Frame, check_frame, pad_frame, round_to_uint8
from dni_deploy.session.session import Session
from dni_deploy.spatial.alpha_map import DEFAULT_LEVELS, AlphaMap, AlphaMapOptions
from dni_deploy.spatial.plan import MapPlan, plan_map
from dni_deploy.spatial.regions import Rect
from dni_deploy.utils.progress import OptionalProgress, report_progress


class MapRender(NamedTuple):
    """A frame, and what it took: the alpha of each level, in the order of the map's values, and the plan."""

    output: Frame
    levels: tuple[Coefficients, ...]
    plan: MapPlan


class AlphaMapRange(NamedTuple):
    """The alphas where a map is black (0) and where it is white (1)."""

    black: Coefficients
    white: Coefficients

    @classmethod
    def from_options(cls, session: Session, black: Alpha | None = None, white: Alpha | None = None) -> AlphaMapRange:
        """None as in `make_default`. Raises CoefficientsError: an alpha that is none, or none for black of more than two members."""
        first, last = cls.make_default(session.members, black is None)
        return cls(
            session.parse_alpha(first if black is None else black), session.parse_alpha(last if white is None else white)
        )

    @classmethod
    def make_default(cls, members: tuple[str, ...], needs_black: bool = True) -> AlphaMapRange:
        """White the first member alone, black the second alone, of two: a map's value is the first one's share.

        black: whether its default is needed. Raises CoefficientsError where there is none, since there are more than two members.
        """
        if needs_black and len(members) != 2:
            raise CoefficientsError(
                f"A map goes between two alphas, and this family has {len(members)} members: give the alpha of the map's black "
                "(--alpha); its white is the first member alone unless given (--alpha-map-to)."
            )
        return cls(Coefficients.one_hot(members[-1], members), Coefficients.one_hot(members[0], members))

    def interpolate(self, fraction: float) -> Coefficients:
        """The alpha at a value of the map; the ends themselves at 0 and 1, so that a member alone stays alone."""
        if fraction in (0.0, 1.0):
            return self.white if fraction else self.black
        shares = []
        for low, high in zip(self.black.values, self.white.values, strict=True):
            between = fraction * high + (1.0 - fraction) * low
            shares.append(min(max(between, min(low, high)), max(low, high)))  # rounding must not leave the simplex
        return Coefficients(self.black.members, tuple(shares))


def render_map(
    session: Session,
    frame: Frame,
    alpha_map: AlphaMap | NDArray[Any],
    *,
    black: Alpha | None = None,
    white: Alpha | None = None,
    levels: int | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    progress: OptionalProgress = None,
) -> MapRender:
    """One frame, uint8 (H, W, 3) -> uint8 (scale * H, scale * W, 3), a fresh array, with the alpha of each pixel from a map.

    alpha_map     of the frame's size or of the output's; an array as AlphaMap.of takes it. An input pixel's value holds for all its
                  output pixels.
    black, white  the alphas at 0 and at 1; None as in AlphaMapRange.from_options.
    levels, tile, overlap   as in plan_map.   progress: told before every run of the network.
    The session's alpha is afterwards what it was; nobody else may set it meanwhile.
    Raises MismatchError, UsageError, CoefficientsError, EngineError.
    """
    check_frame(frame)
    chosen = alpha_map if isinstance(alpha_map, AlphaMap) else AlphaMap.of(alpha_map)
    ends = AlphaMapRange.from_options(session, black, white)
    plan = plan_map(chosen, frame.shape[0], frame.shape[1], session.signature, levels=levels, tile=tile, overlap=overlap)
    with preserve_alpha(session):
        pixels = render_plan(session, frame, plan, ends, progress)
    return MapRender(round_to_uint8(pixels), tuple(ends.interpolate(level.fraction) for level in plan.levels), plan)


def render_plan(
    session: Session, frame: Frame, plan: MapPlan, alpha_range: AlphaMapRange, progress: OptionalProgress = None
) -> NDArray[np.float32]:
    """float32 (3, scale * H, scale * W) in 0..255, neither rounded nor clamped; the session is left at the last level's alpha.

    Begins with the highest level where the session is at it, so that frames in turn cost one refit less than they have levels.
    Raises EngineError, also where another thread has set alpha: no frame is made of levels that nobody asked for.
    """
    padded = pad_frame(frame, session.signature.multiple)
    scale = plan.scale
    out = np.zeros((3, scale * plan.height, scale * plan.width), np.float32)
    order = [(level, alpha_range.interpolate(level.fraction)) for level in plan.levels]
    if session.alpha == order[-1][1]:
        order.reverse()
    done = 0
    for level, alpha in order:
        session.alpha = alpha
        session.wait_until_applied()  # a session that refits ahead would give frames of the level before
        for cut, kept in level.tiles:
            report_progress(progress, done, plan.tile_count, str(alpha))
            done += 1
            made = session.render_pixels(np.ascontiguousarray(padded[cut.top : cut.bottom, cut.left : cut.right]))
            if made.coefficients != alpha:
                raise EngineError(
                    "The session's alpha was set from elsewhere while a map was rendered; the frame was not made."
                )
            if made.pixels.shape[1:] != (scale * cut.height, scale * cut.width):
                raise EngineError(f"The network's scale is not {scale}; the manifest is wrong.")
            _add_weighted(out, made.pixels, plan.compute_weights(level, kept), cut, kept, scale)
    return out


def measure_map_error(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[float, float]:
    """How far two outputs of render_plan are apart, clamped to 0..255: the largest difference and the mean one."""
    apart = np.abs(np.clip(one, 0, 255, dtype=np.float64) - np.clip(other, 0, 255, dtype=np.float64))
    return float(apart.max()), float(apart.mean())


@contextmanager
def preserve_alpha(session: Session) -> Iterator[None]:
    """The session's alpha is afterwards what it was before, whatever happens."""
    before = session.alpha
    try:
        yield
    finally:
        session.alpha = before


def _add_weighted(
    out: NDArray[np.float32],
    pixels: NDArray[np.float32],
    weights: NDArray[np.float32],
    input_rect: Rect,
    kept_rect: Rect,
    scale: int,
) -> None:
    """Add a level's output, by weight, where it is kept: a weight of 1 adds the output itself to 0, so its bits stay."""
    top, left = scale * (kept_rect.top - input_rect.top), scale * (kept_rect.left - input_rect.left)
    inside = pixels[:, top : top + scale * kept_rect.height, left : left + scale * kept_rect.width]
    inside *= weights
    out[:, scale * kept_rect.top : scale * kept_rect.bottom, scale * kept_rect.left : scale * kept_rect.right] += inside


@dataclass(frozen=True)
class AlphaMapStats:
    """levels: how many the network was run at; pieces: how many runs; work: pixels through the network over those of a plain frame.

    exact: every pixel's alpha was a level, nothing was interpolated. error_max, error_mean: against twice as many levels, in
    levels of 255, before rounding; None where it was not asked for.
    """

    levels: int
    tiles: int
    relative_cost: float
    exact: bool
    error_max: float | None = None
    error_mean: float | None = None

    def __str__(self) -> str:
        told = f"{self.levels} levels, {self.relative_cost:.2f} of a plain frame's pixels"
        if self.error_max is not None:
            told += f", at most {self.error_max:.2f} and on average {self.error_mean:.3f} of 255 from twice the levels"
        return told


class AlphaMapResult(NamedTuple):
    output: Frame
    stats: AlphaMapStats


class AlphaMapRenderer:
    """Renders frames with a map; the session's alpha is in between what it happens to be. One thread at a time.

    map, ends: may be set anew between frames.
    """

    def __init__(self, session: Session, options: AlphaMapOptions, alpha_map: AlphaMap, alpha_range: AlphaMapRange) -> None:
        self.session, self.options, self.alpha_map, self.alpha_range = session, options, alpha_map, alpha_range
        self._plan: MapPlan | None = None
        self._plan_key: tuple[object, ...] = ()

    def plan(self, frame: Frame, tile: int | None, overlap: int | None) -> MapPlan:
        """Raises MismatchError, UsageError."""
        wanted = (self.alpha_map, frame.shape, tile, overlap)  # maps are equal if they are the same object
        if self._plan is None or wanted != self._plan_key:
            self._plan, self._plan_key = self._plan_frame(frame, self.options.levels, tile, overlap), wanted
        return self._plan

    def _plan_frame(self, frame: Frame, levels: int | None, tile: int | None, overlap: int | None) -> MapPlan:
        height, width = frame.shape[:2]
        signature = self.session.signature
        fitted = self.alpha_map
        if self.options.resize_to_fit and not self.alpha_map.fits(height, width, signature.scale):
            fitted = self.alpha_map.resize_to(height * signature.scale, width * signature.scale)
        return plan_map(fitted, height, width, signature, levels=levels, tile=tile, overlap=overlap)

    def render(
        self, frame: Frame, tile: int | None = None, overlap: int | None = None, progress: OptionalProgress = None
    ) -> AlphaMapResult:
        """One frame, a fresh array; the session is left at the alpha of a level. Raises as render_map does."""
        plan = self.plan(frame, tile, overlap)
        pixels = render_plan(self.session, frame, plan, self.alpha_range, progress)
        largest = mean = None
        if self.options.measure_error:
            # Halved steps: the levels that there are stay, or the two could be apart by more than either is from the truth.
            finer = self._plan_frame(frame, 2 * (self.options.levels or DEFAULT_LEVELS) - 1, tile, overlap)
            with preserve_alpha(self.session):
                largest, mean = (
                    (0.0, 0.0)
                    if plan.exact
                    else measure_map_error(pixels, render_plan(self.session, frame, finer, self.alpha_range))
                )
        return AlphaMapResult(
            round_to_uint8(pixels),
            AlphaMapStats(len(plan.levels), plan.tile_count, plan.relative_cost, plan.exact, largest, mean),
        )
