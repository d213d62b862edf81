"""Spatial: a session whose frames get the alphas of a map, as verbs use it; what a map needs is worked out once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dni_deploy.imaging.frames import Frame, rounded
from dni_deploy.session.session import Session
from dni_deploy.spatial.alpha_map import LEVELS, AlphaMap, SpatialAlpha
from dni_deploy.spatial.plan import MapPlan, plan_map
from dni_deploy.spatial.render import MapEnds, alpha_kept, map_error, render_plan
from dni_deploy.utils.progress import MaybeProgress


@dataclass(frozen=True)
class MapFigures:
    """levels: how many the network was run at; pieces: how many runs; work: pixels through the network over those of a plain frame.

    exact: every pixel's alpha was a level, nothing was interpolated. error_max, error_mean: against twice as many levels, in
    levels of 255, before rounding; None where it was not asked for.
    """

    levels: int
    pieces: int
    work: float
    exact: bool
    error_max: float | None = None
    error_mean: float | None = None

    def __str__(self) -> str:
        told = f"{self.levels} levels, {self.work:.2f} of a plain frame's pixels"
        if self.error_max is not None:
            told += f", at most {self.error_max:.2f} and on average {self.error_mean:.3f} of 255 from twice the levels"
        return told


class SpatialRender(NamedTuple):
    output: Frame
    figures: MapFigures


class Spatial:
    """Renders frames with a map; the session's alpha is in between what it happens to be. One thread at a time.

    map, ends: may be set anew between frames.
    """

    def __init__(self, session: Session, asked: SpatialAlpha, alpha_map: AlphaMap, ends: MapEnds) -> None:
        self.session, self.asked, self.map, self.ends = session, asked, alpha_map, ends
        self._plan: MapPlan | None = None
        self._planned: tuple[object, ...] = ()

    def plan(self, frame: Frame, tile: int | None, overlap: int | None) -> MapPlan:
        """Raises MismatchError, UsageError."""
        wanted = (self.map, frame.shape, tile, overlap)  # maps are equal if they are the same object
        if self._plan is None or wanted != self._planned:
            self._plan, self._planned = self._made(frame, self.asked.levels, tile, overlap), wanted
        return self._plan

    def _made(self, frame: Frame, levels: int | None, tile: int | None, overlap: int | None) -> MapPlan:
        height, width = frame.shape[:2]
        signature = self.session.signature
        fitted = self.map
        if self.asked.fit and not self.map.fits(height, width, signature.scale):
            fitted = self.map.fitted(height * signature.scale, width * signature.scale)
        return plan_map(fitted, height, width, signature, levels=levels, tile=tile, overlap=overlap)

    def render(
        self, frame: Frame, tile: int | None = None, overlap: int | None = None, progress: MaybeProgress = None
    ) -> SpatialRender:
        """One frame, a fresh array; the session is left at the alpha of a level. Raises as render_map does."""
        plan = self.plan(frame, tile, overlap)
        pixels = render_plan(self.session, frame, plan, self.ends, progress)
        largest = mean = None
        if self.asked.error:
            # Halved steps: the levels that there are stay, or the two could be apart by more than either is from the truth.
            finer = self._made(frame, 2 * (self.asked.levels or LEVELS) - 1, tile, overlap)
            with alpha_kept(self.session):
                largest, mean = (
                    (0.0, 0.0) if plan.exact else map_error(pixels, render_plan(self.session, frame, finer, self.ends))
                )
        return SpatialRender(rounded(pixels), MapFigures(len(plan.levels), plan.pieces, plan.work, plan.exact, largest, mean))
