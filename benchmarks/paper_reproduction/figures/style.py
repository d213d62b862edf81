"""Style (Fig. 8): style to style, stroke size, content against style, and the plane of stroke x style over four members."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from skimage.metrics import structural_similarity

from benchmarks.paper_reproduction.bench import ReproductionBench
from benchmarks.paper_reproduction.drawing import canvas, png, strip
from benchmarks.paper_reproduction.measures import Pixels, color_distance, luminance, rise, stroke_length, texture_distance
from benchmarks.paper_reproduction.section import FigureImage, ReproductionGoal, Section, Table
from benchmarks.paper_reproduction.square import square
from benchmarks.paper_reproduction.styles import STYLE_IMAGES
from benchmarks.photographs import TEST_PHOTOGRAPHS

SWEEP_ALPHAS = tuple(step / 10 for step in range(11))
SHOWN_ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SUBJECT_NAME = "astronaut"
FACE_WINDOW = (slice(8, 104), slice(56, 152))
"""The face of the subject: strokes would be too small to see in twenty-five whole images."""

PLANE_COORDINATES = (0.0, 0.25, 0.5, 0.75, 1.0)
MIN_RANK_CORRELATION = 0.95
"""Smallest rank correlation that counts as following alpha: of eleven values, one or two neighbors may be swapped."""


def figure(bench: ReproductionBench) -> Section:
    scenes = {name: square(name) for name in TEST_PHOTOGRAPHS}

    def render_photographs(coefficients: Mapping[str, float]) -> list[Pixels]:
        session = bench.at("style", coefficients)
        return [session(pixels) for pixels in scenes.values()]

    def render_sweep(first: str, second: str) -> list[list[Pixels]]:
        return [render_photographs({first: 1 - alpha, second: alpha}) for alpha in SWEEP_ALPHAS]

    styles = render_sweep("mosaic_small", "fire_small")
    strokes = {style: render_sweep(f"{style}_small", f"{style}_large") for style in ("mosaic", "fire")}
    contents = render_sweep("content", "mosaic_small")
    plane = {(x, y): render_photographs(corner_shares(x, y)) for y in PLANE_COORDINATES for x in PLANE_COORDINATES}

    from_mosaic, to_fire = (_curve(styles, _distance_to(color_distance, name)) for name in END_STYLES)
    texture_from, texture_to = (_curve(styles, _distance_to(texture_distance, name)) for name in END_STYLES)
    lengths = {style: _curve(frames, stroke_length) for style, frames in strokes.items()}
    likeness = [_mean_ssim(frames, list(scenes.values())) for frames in contents]
    to_style = _curve(contents, _distance_to(color_distance, "mosaic_small"))
    across = {panel: _mean(frames, _distance_to(color_distance, "fire_small")) for panel, frames in plane.items()}
    upward = {panel: _mean(frames, stroke_length) for panel, frames in plane.items()}

    lines, axes = canvas(1, 3, 2.4)
    axes[0, 0].plot(SWEEP_ALPHAS, from_mosaic, label="colours to mosaic")
    axes[0, 0].plot(SWEEP_ALPHAS, to_fire, label="colours to fire")
    for style, values in lengths.items():
        axes[0, 1].plot(SWEEP_ALPHAS, values, label=f"{style}: stroke, pixels")
    axes[0, 2].plot(SWEEP_ALPHAS, likeness, label="SSIM to the photograph")
    axes[0, 2].plot(SWEEP_ALPHAS, to_style, label="colours to mosaic")
    for panel, title in zip(axes[0], ("mosaic - fire", "small - large", "content - style"), strict=True):
        panel.set(xlabel="share of the second", title=title)
        panel.legend(fontsize=7)
    return Section(
        title="Style, stroke size, content against style, and a plane of them (Fig. 8)",
        claim="One style becomes another, strokes grow, content gives way to style, all continuously, and several models "
        "span a plane of stroke x style (section 4.3).",
        how=f"TransformerNet, {', '.join(TEST_PHOTOGRAPHS)} at 256 pixels; alpha in steps of 0.1, the plane by bilinear shares of its "
        "four corners. Colours: sliced Wasserstein distance to the style picture. Texture: Wasserstein distance of oriented "
        "derivatives of brightness ranks. Stroke: over how many pixels the brightness ranks change.",
        pictures=(
            FigureImage("style-styles", _strip(styles), "From the mosaic (0) to the fire (1)."),
            FigureImage(
                "style-strokes",
                _strip(strokes["mosaic"], strokes["fire"]),
                "From small strokes (0) to large ones (1): mosaic, fire.",
            ),
            FigureImage("style-content", _strip(contents), "From content (0) to style (1)."),
            FigureImage(
                "style-plane",
                strip(
                    [plane[panel][_subject()][FACE_WINDOW] for panel in plane],
                    [f"fire {x:g}, large {y:g}" for x, y in plane],
                    columns=5,
                ),
                "Style to the right, stroke size downwards; corners are members, all else is blended.",
            ),
            FigureImage("style-curves", png(lines), "What is measured along the three strips."),
        ),
        tables=(
            Table(
                (
                    "alpha",
                    "colours to mosaic",
                    "colours to fire",
                    "texture to mosaic",
                    "texture to fire",
                    "stroke, mosaic",
                    "stroke, fire",
                    "SSIM to the photograph (content - style)",
                ),
                tuple(
                    zip(
                        SWEEP_ALPHAS,
                        from_mosaic,
                        to_fire,
                        texture_from,
                        texture_to,
                        lengths["mosaic"],
                        lengths["fire"],
                        likeness,
                        strict=True,
                    )
                ),
                3,
            ),
        ),
        goals=(
            ReproductionGoal(
                "Mosaic to fire: distance to the mosaic's colours follows alpha (rank correlation)",
                rise(from_mosaic),
                "at least",
                MIN_RANK_CORRELATION,
            ),
            ReproductionGoal(
                "Mosaic to fire: distance to the fire's colours follows alpha", rise(to_fire), "at most", -MIN_RANK_CORRELATION
            ),
            ReproductionGoal(
                "Small to large stroke, mosaic: its length follows alpha",
                rise(lengths["mosaic"]),
                "at least",
                MIN_RANK_CORRELATION,
            ),
            ReproductionGoal(
                "Small to large stroke, fire: its length follows alpha", rise(lengths["fire"]), "at least", MIN_RANK_CORRELATION
            ),
            ReproductionGoal(
                "Content to style: likeness to the photograph follows alpha", rise(likeness), "at most", -MIN_RANK_CORRELATION
            ),
            ReproductionGoal(
                "Content to style: distance to the style's colours follows alpha",
                rise(to_style),
                "at most",
                -MIN_RANK_CORRELATION,
            ),
            ReproductionGoal(
                "Plane: distance to the fire's colours falls along the style axis, worst of 5 rows",
                max(rise([across[x, y] for x in PLANE_COORDINATES]) for y in PLANE_COORDINATES),
                "at most",
                -MIN_RANK_CORRELATION,
            ),
            ReproductionGoal(
                "Plane: the stroke grows along the stroke axis, worst of 5 columns",
                min(rise([upward[x, y] for y in PLANE_COORDINATES]) for x in PLANE_COORDINATES),
                "at least",
                MIN_RANK_CORRELATION,
            ),
        ),
        otherwise="The members are small nets trained for minutes, and each distance is one number for a whole picture: "
        "where the two ends differ little in it, it need not move straight between them.",
        note="No VGG here: styles were learned by sliced Wasserstein distance of patches "
        "(benchmarks/paper_reproduction/train/texture.py). The mosaic is generated, the fire is scikit-image's photograph of grass in the "
        "colours of heat (benchmarks/paper_reproduction/styles.py). The textures are in the table and in no goal: both nets draw finer "
        "and more along the edges of the photograph than either style picture, and the fire's comes nearer to both. "
        "`content` brings back a photograph's drawing, not its colours.",
    )


END_STYLES = ("mosaic_small", "fire_small")


def corner_shares(fire: float, large: float) -> dict[str, float]:
    """Returns the coefficients of the four corners at a point of the unit square."""
    return {
        "mosaic_small": (1 - fire) * (1 - large),
        "fire_small": fire * (1 - large),
        "mosaic_large": (1 - fire) * large,
        "fire_large": fire * large,
    }


def _subject() -> int:
    return TEST_PHOTOGRAPHS.index(SUBJECT_NAME)


def _strip(*rows: list[list[Pixels]]) -> bytes:
    frames = [row[SWEEP_ALPHAS.index(alpha)][_subject()] for row in rows for alpha in SHOWN_ALPHAS]
    return strip(frames, [f"{alpha:g}" for alpha in SHOWN_ALPHAS] * len(rows), columns=len(SHOWN_ALPHAS))


def _distance_to(distance: Callable[[Pixels, Pixels], float], style: str) -> Callable[[Pixels], float]:
    return lambda frame: distance(frame, STYLE_IMAGES[style])


def _mean(frames: list[Pixels], measure: Callable[[Pixels], float]) -> float:
    return float(np.mean([measure(frame) for frame in frames]))


def _curve(frames: list[list[Pixels]], measure: Callable[[Pixels], float]) -> list[float]:
    return [_mean(frames_at_alpha, measure) for frames_at_alpha in frames]


def _mean_ssim(frames: list[Pixels], photographs: list[Pixels]) -> float:
    """Mean SSIM of the luminances."""
    values = [
        structural_similarity(luminance(frame), luminance(photograph), data_range=1.0)
        for frame, photograph in zip(frames, photographs, strict=True)
    ]
    return float(np.mean(values))
