"""A frame through the network with another alpha at every pixel.

The network runs at a few levels between two alphas, each only where some pixel needs it; between two levels the outputs are
interpolated. A pixel whose alpha is a level gets exactly that level's output. Fig. 6 of the paper does this by hand with two
levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.errors import CoefficientsError, EngineError
from dni_deploy.imaging.frames import WHITE_LEVELS, AnyFrame, check_frame, pad_frame, round_pixels
from dni_deploy.session.session import Session
from dni_deploy.spatial.alpha_map import DEFAULT_LEVELS, AlphaMap, AlphaMapOptions
from dni_deploy.spatial.plan import MapPlan, plan_map
from dni_deploy.spatial.regions import Rect
from dni_deploy.utils.progress import OptionalProgress, report_progress


class MapRender(NamedTuple):
    """A frame that was rendered with a map.

    Attributes:
        output: (scale * H, scale * W, 3) of the frame's dtype.
        levels: The alpha of each level, in the order of the map's values.
        plan: What was computed.
    """

    output: NDArray[Any]
    levels: tuple[Coefficients, ...]
    plan: MapPlan


class AlphaMapRange(NamedTuple):
    """The alphas where a map is black (0) and where it is white (1)."""

    black: Coefficients
    white: Coefficients

    @classmethod
    def from_options(cls, session: Session, black: Alpha | None = None, white: Alpha | None = None) -> AlphaMapRange:
        """Parses both ends; None is as in `make_default`.

        Raises:
            CoefficientsError: An alpha does not suit the family, or black is None for more than two members.
        """
        default = cls.make_default(session.members, black is None)
        return cls(
            session.parse_alpha(default.black if black is None else black),
            session.parse_alpha(default.white if white is None else white),
        )

    @classmethod
    def make_default(cls, members: tuple[str, ...], needs_black: bool = True) -> AlphaMapRange:
        """Returns white as the first member alone and black as the second: a map's value is the first one's coefficient.

        Args:
            members: Of the family, in its order.
            needs_black: Whether the default of black is used.

        Raises:
            CoefficientsError: Black has no default, since there are more than two members.
        """
        if needs_black and len(members) != 2:
            raise CoefficientsError(
                f"A map goes between two alphas, and this family has {len(members)} members: give the alpha of the map's black "
                "(--alpha); its white is the first member alone unless given (--alpha-map-to)."
            )
        return cls(Coefficients.one_hot(members[-1], members), Coefficients.one_hot(members[0], members))

    def interpolate(self, fraction: float) -> Coefficients:
        """Computes the alpha at a value of the map; the ends themselves at 0 and 1, so that a member alone stays alone."""
        if fraction in (0.0, 1.0):
            return self.white if fraction else self.black
        coefficients = []
        for black, white in zip(self.black.values, self.white.values, strict=True):
            between = fraction * white + (1.0 - fraction) * black
            coefficients.append(min(max(between, min(black, white)), max(black, white)))  # rounding must not leave the simplex
        return Coefficients(self.black.members, tuple(coefficients))


def render_map(
    session: Session,
    frame: AnyFrame,
    alpha_map: AlphaMap | NDArray[Any],
    *,
    black: Alpha | None = None,
    white: Alpha | None = None,
    levels: int | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    progress: OptionalProgress = None,
) -> MapRender:
    """Renders a frame with the alpha of each pixel from a map.

    The session's alpha stays what it is, whoever uses the session meanwhile.

    Args:
        session: Renders the levels.
        frame: uint8 or uint16 (H, W, 3).
        alpha_map: Of the frame's size or of the output's; an array as `AlphaMap.of` takes it. An input pixel's value holds for
            all its output pixels.
        black: The alpha where the map is 0; None as in `AlphaMapRange.make_default`.
        white: The alpha where the map is 1; None as in `AlphaMapRange.make_default`.
        levels: As in `plan_map`.
        tile: As in `plan_map`.
        overlap: As in `plan_map`.
        progress: Called before every run of the network.

    Returns:
        The output, a fresh array, with the levels and the plan.

    Raises:
        MismatchError: The map has another size.
        UsageError: The frame or an option is none.
        CoefficientsError: An alpha does not suit the family.
        EngineError: The engine failed.
    """
    check_frame(frame)
    parsed_map = alpha_map if isinstance(alpha_map, AlphaMap) else AlphaMap.of(alpha_map)
    alpha_range = AlphaMapRange.from_options(session, black, white)
    plan = plan_map(parsed_map, frame.shape[0], frame.shape[1], session.signature, levels=levels, tile=tile, overlap=overlap)
    pixels = render_plan(session, frame, plan, alpha_range, progress=progress)
    return MapRender(
        round_pixels(pixels, frame.dtype), tuple(alpha_range.interpolate(level.fraction) for level in plan.levels), plan
    )


def render_plan(
    session: Session,
    frame: AnyFrame,
    plan: MapPlan,
    alpha_range: AlphaMapRange,
    *,
    descending: bool = False,
    progress: OptionalProgress = None,
) -> NDArray[np.float32]:
    """Renders a frame by a plan, each level by an alpha of its own.

    Args:
        session: Renders the levels.
        frame: uint8 or uint16 (H, W, 3), of the plan's size.
        plan: What to compute.
        alpha_range: The alphas at 0 and 1.
        descending: Begin with the highest level. Frames that begin where the one before them ended cost one refit less than
            they have levels.
        progress: Called before every run of the network.

    Returns:
        float32 (3, scale * H, scale * W) in 0..white of the frame's dtype, neither rounded nor clamped.

    Raises:
        EngineError: The engine failed.
    """
    padded = pad_frame(frame, session.signature)
    scale = plan.scale
    out = np.zeros((3, scale * plan.height, scale * plan.width), np.float32)
    levels = [(level, alpha_range.interpolate(level.fraction)) for level in plan.levels]
    if descending:
        levels.reverse()
    done = 0
    for level, alpha in levels:
        for rect, kept_rect in level.tiles:
            report_progress(progress, done, plan.tile_count, str(alpha))
            done += 1
            piece = np.ascontiguousarray(padded[rect.top : rect.bottom, rect.left : rect.right])
            rendered = session.render_pixels(piece, alpha=alpha)
            if rendered.pixels.shape[1:] != (scale * rect.height, scale * rect.width):
                raise EngineError(f"The network's scale is not {scale}; the manifest is wrong.")
            _add_weighted(out, rendered.pixels, plan.compute_weights(level, kept_rect), rect, kept_rect, scale)
    return out


def measure_map_error(first: NDArray[np.float32], second: NDArray[np.float32], white: float = 255.0) -> tuple[float, float]:
    """Measures how far two outputs of `render_plan` differ, clamped to 0..white: the largest and the mean difference, of 255."""
    clamped = [np.clip(pixels, 0, white, dtype=np.float64) for pixels in (first, second)]
    difference = np.abs(clamped[0] - clamped[1]) * (255 / white)
    return float(difference.max()), float(difference.mean())


def _add_weighted(
    out: NDArray[np.float32],
    pixels: NDArray[np.float32],
    weights: NDArray[np.float32],
    input_rect: Rect,
    kept_rect: Rect,
    scale: int,
) -> None:
    """Adds a level's output, by weight, where it is kept: a weight of 1 adds the output itself to 0, so its bits stay."""
    top, left = scale * (kept_rect.top - input_rect.top), scale * (kept_rect.left - input_rect.left)
    inside = pixels[:, top : top + scale * kept_rect.height, left : left + scale * kept_rect.width]
    inside *= weights
    out[:, scale * kept_rect.top : scale * kept_rect.bottom, scale * kept_rect.left : scale * kept_rect.right] += inside


@dataclass(frozen=True)
class AlphaMapStats:
    """What a frame with a map cost.

    Attributes:
        levels: Number of levels at which the network ran.
        tiles: Number of runs.
        relative_cost: Pixels through the network over those of a plain frame.
        exact: Whether every pixel's alpha was a level, so that nothing was interpolated.
        error_max: Largest difference to twice as many levels, in levels of 255, before rounding; None where it was not
            measured.
        error_mean: The mean of that difference.
    """

    levels: int
    tiles: int
    relative_cost: float
    exact: bool
    error_max: float | None = None
    error_mean: float | None = None

    def __str__(self) -> str:
        text = f"{self.levels} levels, {self.relative_cost:.2f} of a plain frame's pixels"
        if self.error_max is not None:
            text += f", at most {self.error_max:.2f} and on average {self.error_mean:.3f} of 255 from twice the levels"
        return text


class AlphaMapResult(NamedTuple):
    """A frame that was rendered with a map, (scale * H, scale * W, 3) of its dtype, and what it cost."""

    output: NDArray[Any]
    stats: AlphaMapStats


class AlphaMapRenderer:
    """Renders frames with a map; the session's alpha stays what it is.

    Attributes:
        session: Renders the levels.
        options: As the user chose them.
        alpha_map: May be set anew between frames.
        alpha_range: May be set anew between frames.

    Thread safety: one thread at a time.
    """

    def __init__(self, session: Session, options: AlphaMapOptions, alpha_map: AlphaMap, alpha_range: AlphaMapRange) -> None:
        """Keeps the arguments; they are those of the class."""
        self.session, self.options, self.alpha_map, self.alpha_range = session, options, alpha_map, alpha_range
        self._plan: MapPlan | None = None
        self._plan_key: tuple[object, ...] = ()
        self._descending = True

    def plan(self, frame: AnyFrame, tile: int | None, overlap: int | None) -> MapPlan:
        """Plans a frame, or returns the last plan where it holds; raises as `plan_map` does."""
        key = (self.alpha_map, frame.shape, tile, overlap)  # maps are equal if they are the same object
        if self._plan is None or key != self._plan_key:
            self._plan, self._plan_key = self._plan_frame(frame, self.options.levels, tile, overlap), key
        return self._plan

    def _plan_frame(self, frame: AnyFrame, levels: int | None, tile: int | None, overlap: int | None) -> MapPlan:
        height, width = frame.shape[:2]
        signature, alpha_map = self.session.signature, self.alpha_map
        if self.options.resize_to_fit and not alpha_map.fits(height, width, signature.scale):
            alpha_map = alpha_map.resize_to(height * signature.scale, width * signature.scale)
        return plan_map(alpha_map, height, width, signature, levels=levels, tile=tile, overlap=overlap)

    def render(
        self, frame: AnyFrame, tile: int | None = None, overlap: int | None = None, progress: OptionalProgress = None
    ) -> AlphaMapResult:
        """Renders a frame.

        Args:
            frame: uint8 or uint16 (H, W, 3).
            tile: As in `plan_map`.
            overlap: As in `plan_map`.
            progress: Called before every run of the network.

        Returns:
            The output, a fresh array, and what it cost.

        Raises:
            MismatchError: As `render_map`, like its other errors.
        """
        plan = self.plan(frame, tile, overlap)
        self._descending = not self._descending
        pixels = render_plan(self.session, frame, plan, self.alpha_range, descending=self._descending, progress=progress)
        error_max = error_mean = None
        if self.options.measure_error and plan.exact:
            error_max = error_mean = 0.0
        elif self.options.measure_error:
            # Halved steps: the levels of the plan stay, or the two could differ by more than either does from the truth.
            finer = self._plan_frame(frame, 2 * (self.options.levels or DEFAULT_LEVELS) - 1, tile, overlap)
            error_max, error_mean = measure_map_error(
                pixels, render_plan(self.session, frame, finer, self.alpha_range), WHITE_LEVELS[frame.dtype]
            )
        return AlphaMapResult(
            round_pixels(pixels, frame.dtype),
            AlphaMapStats(len(plan.levels), plan.tile_count, plan.relative_cost, plan.exact, error_max, error_mean),
        )
