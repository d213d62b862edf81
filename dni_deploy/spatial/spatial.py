"""Spatial: a session whose frames get the alphas of a map, as verbs use it; what a map needs is worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dni_deploy.imaging.frames import Frame, round_to_uint8
from dni_deploy.session.session import Session
from dni_deploy.spatial.alpha_map import DEFAULT_LEVELS, AlphaMap, AlphaMapOptions
from dni_deploy.spatial.plan import MapPlan, plan_map
from dni_deploy.spatial.render import AlphaMapRange, measure_map_error, preserve_alpha, render_plan
from dni_deploy.utils.progress import OptionalProgress


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
