"""Image to image (Fig. 7): day to night, deep to shallow depth of field, and the plane between all three members."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.paper_reproduction.bench import ReproductionBench
from benchmarks.paper_reproduction.drawing import canvas, png, show, strip
from benchmarks.paper_reproduction.measures import Pixels, fineness, luminance, rise, sharpness
from benchmarks.paper_reproduction.scenes import blur_background, darken_to_night, saliency
from benchmarks.paper_reproduction.section import FigureImage, ReproductionGoal, Section, Table
from benchmarks.paper_reproduction.square import square
from benchmarks.photographs import TEST_PHOTOGRAPHS
from dni_deploy.utils.compare_arrays import psnr_db

SCENE_SIDE_PX = 256
SWEEP_ALPHAS = tuple(step / 10 for step in range(11))
SHOWN_ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SIMPLEX_POINTS = tuple((i / 4, j / 4, (4 - i - j) / 4) for i in range(5) for j in range(5 - i))
"""Coefficients of night, shallow and identity, in quarters: 15 points of the simplex."""


def figure(bench: ReproductionBench) -> Section:
    scenes = {name: square(name, SCENE_SIDE_PX) for name in TEST_PHOTOGRAPHS}
    salient = {name: saliency(_tensor(pixels))[0, 0].numpy() for name, pixels in scenes.items()}
    subject, background = (
        {name: chosen(mask).astype(np.float64) for name, mask in salient.items()} for chosen in (_is_salient, _is_background)
    )

    def render_scene(name: str, **shares: float) -> Pixels:
        return bench.at("scenes", shares)(scenes[name])

    nights = [
        {name: render_scene(name, identity=1 - alpha, night=alpha) for name in TEST_PHOTOGRAPHS} for alpha in SWEEP_ALPHAS
    ]
    shallows = [
        {name: render_scene(name, identity=1 - alpha, shallow=alpha) for name in TEST_PHOTOGRAPHS} for alpha in SWEEP_ALPHAS
    ]
    points = [
        {name: render_scene(name, night=n, shallow=s, identity=i) for name in TEST_PHOTOGRAPHS} for n, s, i in SIMPLEX_POINTS
    ]
    light = [_mean({name: float(luminance(frame[name]).mean()) for name in TEST_PHOTOGRAPHS}) for frame in nights]
    inside, outside = (
        [_mean({name: sharpness(frame[name], where[name]) for name in TEST_PHOTOGRAPHS}) for frame in shallows]
        for where in (subject, background)
    )
    by_night = [_mean({name: float(luminance(point[name]).mean()) for name in TEST_PHOTOGRAPHS}) for point in points]
    by_fineness = [_mean({name: fineness(point[name], background[name]) for name in TEST_PHOTOGRAPHS}) for point in points]
    night_share, shallow_share = (np.array([point[axis] for point in SIMPLEX_POINTS]) for axis in (0, 1))

    ends = {
        "identity": (nights[0], {name: scenes[name] for name in TEST_PHOTOGRAPHS}),
        "night": (nights[-1], {name: _pixels(darken_to_night(_tensor(scenes[name]))) for name in TEST_PHOTOGRAPHS}),
        "shallow": (shallows[-1], {name: _pixels(blur_background(_tensor(scenes[name]))) for name in TEST_PHOTOGRAPHS}),
    }
    return Section(
        title="Image to image: night, depth of field, and both (Fig. 7)",
        claim="CycleGAN's generator moves continuously from day to night and from a deep to a shallow depth of field, once "
        "one end has been fine-tuned from the other with the identity mapping, and between more than two members by Eq. 2 "
        "(section 4.2).",
        how=f"{', '.join(TEST_PHOTOGRAPHS)} at {SCENE_SIDE_PX} pixels of the short side. Light: mean luminance. "
        "Sharpness: mean absolute Laplacian "
        "of the luminance, where the photograph's saliency is above 0.95 and where it is below 0.05. Fineness: that of the rest "
        "by its coarse detail, which the light does not change. The three-member plane: the 15 points of quarters.",
        pictures=(
            FigureImage("scenes-night", _strip([frame["camera"] for frame in nights]), "From day (0) to night (1)."),
            FigureImage("scenes-shallow", _strip([frame["camera"] for frame in shallows]), "From deep (0) to shallow (1)."),
            FigureImage(
                "scenes-plane",
                _triangle([point["astronaut"] for point in points]),
                "Night downwards, shallow to the right, by Eq. 2; identity has the rest.",
            ),
        ),
        tables=(
            Table(
                ("alpha", "light", "sharpness, salient", "sharpness, rest"),
                tuple((alpha, light[k], inside[k], outside[k]) for k, alpha in enumerate(SWEEP_ALPHAS)),
                3,
            ),
            Table(
                ("member", "PSNR to its formula, dB"),
                tuple(
                    (end, _mean({name: psnr_db(rendered[name], formula[name], 255) for name in TEST_PHOTOGRAPHS}))
                    for end, (rendered, formula) in ends.items()
                ),
            ),
        ),
        goals=(
            ReproductionGoal("Day to night: light falls with every step (rank correlation)", rise(light), "at most", -0.99),
            ReproductionGoal("Light at night by light at day", light[-1] / light[0], "at most", 0.6),
            ReproductionGoal("Deep to shallow: sharpness of the rest falls with every step", rise(outside), "at most", -0.99),
            ReproductionGoal(
                "What the rest loses of its sharpness, by what the salient parts lose",
                (1 - outside[-1] / outside[0]) / max(1e-9, 1 - inside[-1] / inside[0]),
                "at least",
                1.5,
            ),
            ReproductionGoal(
                "Plane: light follows night's share (correlation)", -_correlate(night_share, by_night), "at least", 0.9
            ),
            ReproductionGoal(
                "Plane: fineness of the rest falls with shallow's share (correlation)",
                -_correlate(shallow_share, by_fineness),
                "at least",
                0.9,
            ),
        ),
        otherwise="The generator is small (16 channels, 6 blocks) and its saliency is guessed from pixels alone.",
        note="Stand-ins: night is a parametric relighting, the depth of field a blur by saliency instead of depth "
        "(benchmarks/paper_reproduction/scenes.py), learned pair by pair from photographs that are not shown here; there are no painters. "
        "The generator is the one with BatchNorm: InstanceNorm takes a picture's own brightness away, and learned no good "
        "identity.",
    )


def _is_salient(saliency: NDArray[np.float32]) -> NDArray[np.bool_]:
    return saliency > 0.95


def _is_background(saliency: NDArray[np.float32]) -> NDArray[np.bool_]:
    return saliency < 0.05


def _triangle(frames: list[Pixels]) -> bytes:
    figure, axes = canvas(5, 5, 9.0 + 5 * 0.25)
    for panel in axes.flat:
        panel.set_axis_off()
    for (n, s, _), pixels in zip(SIMPLEX_POINTS, frames, strict=True):
        show(axes[round(4 * n), round(4 * s)], pixels, f"night {n:g}, shallow {s:g}")
    return png(figure)


def _correlate(coefficients: NDArray[np.float64], values: list[float]) -> float:
    return float(np.corrcoef(coefficients, values)[0, 1])


def _strip(frames: list[Pixels]) -> bytes:
    return strip([frames[SWEEP_ALPHAS.index(alpha)] for alpha in SHOWN_ALPHAS], [f"{alpha:g}" for alpha in SHOWN_ALPHAS])


def _tensor(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None] / 255


def _pixels(image: torch.Tensor) -> Pixels:
    return np.asarray(np.rint(image[0].numpy().transpose(1, 2, 0) * 255), np.uint8)


def _mean(values: Mapping[str, float]) -> float:
    return float(np.mean(list(values.values())))
