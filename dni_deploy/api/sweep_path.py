"""The alphas of a sweep, and what images are at each of them in one running engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame, convert_depth
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.imaging.metrics.registry import Metric
from dni_deploy.reports.sweep import ImageScores
from dni_deploy.session.session import Session
from dni_deploy.session.tiles import render_tiled
from dni_deploy.tuning.trials import TestImage

MAX_SWEEP_STEPS = 1001

Coefficients = tuple[float, ...]


def check_steps(steps: int) -> None:
    """Checks the number of alphas.

    Raises:
        UsageError: It is out of range.
    """
    if not isinstance(steps, int) or not 2 <= steps <= MAX_SWEEP_STEPS:
        raise UsageError(f"A sweep has 2 to {MAX_SWEEP_STEPS} steps, got {escape_name(steps)}.")


def plan_alphas(members: int, steps: int) -> list[Coefficients]:
    """Lists the coefficients along the path: for two members alpha 0 to 1, for more from the first to the second, to the
    third, ..."""
    if members == 2:
        return [(step / (steps - 1), 1 - step / (steps - 1)) for step in range(steps)]
    path = [tuple(float(index == 0) for index in range(members))]
    for first, second in pairwise(range(members)):
        for step in range(1, steps):
            share = step / (steps - 1)
            path.append(tuple(1 - share if index == first else share if index == second else 0.0 for index in range(members)))
    return path


def plan_even_steps(bundle: Bundle, path: Sequence[Coefficients]) -> list[Coefficients]:
    """Replaces equal steps of alpha by equal steps of the bundle's slider.

    Raises:
        UsageError: As `Bundle.alpha_at`: the bundle has no slider.
    """
    return [(at, 1 - at) for at in (bundle.alpha_at(position) for position, _ in path)]


@dataclass
class _Measurements:
    """What one image has been so far.

    Attributes:
        psnrs: In dB at each alpha.
        values: Of the metrics by name, at each alpha.
        frame_seconds: Time of the frame at each alpha.
        ends: The first frame and the newest one.
    """

    psnrs: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)
    frame_seconds: list[float] = field(default_factory=list)
    ends: list[Frame] = field(default_factory=list)

    def to_scores(self, image: TestImage, path: Sequence[Coefficients]) -> ImageScores:
        """Returns the scores, with those of the two ends blended pixel by pixel."""
        pixel_psnrs = None
        if image.reference is not None and len(path[0]) == 2:
            reference = image.reference_levels
            pixel_psnrs = tuple(psnr(blend_pixels(self.ends[0], self.ends[-1], shares[0]), reference) for shares in path)
        return ImageScores(
            image.name,
            None if image.reference is None else tuple(self.psnrs),
            pixel_psnrs,
            {name: tuple(values) for name, values in self.values.items()},
            tuple(self.frame_seconds),
        )


@dataclass(frozen=True)
class PathResult:
    """What images are along a path.

    Attributes:
        scores: In the order of the images, those left out that failed.
        failures: The error of each image that failed, by its index.
        change_seconds: Time of each change of alpha.
    """

    scores: list[ImageScores]
    failures: dict[int, DniError]
    change_seconds: list[float]


def measure_path(
    session: Session,
    images: Sequence[TestImage],
    path: Sequence[Coefficients],
    metrics: Sequence[Metric] = (),
    *,
    tile: int | None = None,
    overlap: int | None = None,
    report_frame: Callable[[int, Frame], None] | None = None,
) -> PathResult:
    """Renders images at each alpha of a path, and measures what each took; the engine is neither rebuilt nor reloaded.

    Args:
        session: The session.
        images: The images, with a reference where they are to be compared.
        path: Coefficients in family order.
        metrics: What is measured besides PSNR; needs references.
        tile: Side of the tiles in input pixels.
        overlap: Number of input pixels that tiles share.
        report_frame: Called with the index of each alpha and the output there in 8 bits, in the colors of the file.

    Returns:
        What each image is at each alpha. An image that fails is left out from there on.
    """
    measured = [_Measurements() for _ in images]
    failures: dict[int, DniError] = {}
    change_seconds: list[float] = []
    for index, shares in enumerate(path):
        generation = session.generation
        started = time.perf_counter()
        session.alpha = shares
        session.wait_until_applied()  # on a GPU the change would else be queued, and counted as the frame's
        change_seconds.append(time.perf_counter() - started if session.generation != generation else 0.0)
        for position, (image, row) in enumerate(zip(images, measured, strict=True)):
            if position in failures:
                continue
            try:
                frame = _measure_frame(session, image, row, metrics, (tile, overlap))
            except DniError as error:
                failures[position] = error
                continue
            if report_frame is not None:
                report_frame(index, frame)
    kept = [position for position in range(len(images)) if position not in failures]
    return PathResult([measured[position].to_scores(images[position], path) for position in kept], failures, change_seconds)


def _measure_frame(
    session: Session, image: TestImage, row: _Measurements, metrics: Sequence[Metric], tiling: tuple[int | None, int | None]
) -> Frame:
    """Renders an image at the session's alpha and adds what it is to a row; returns the output in 8 bits."""
    started = time.perf_counter()
    output = render_tiled(session, image.frame, *tiling).output
    row.frame_seconds.append(time.perf_counter() - started)
    frame = image.to_frame(output)
    if image.reference is not None:
        row.psnrs.append(psnr(image.to_levels(output), image.reference_levels))
        for metric in metrics:
            row.values.setdefault(metric.name, []).append(metric.measure(frame, image.reference_frame))
    row.ends[1:] = [frame]
    shown: Frame = convert_depth(output, np.uint8)
    return shown


def blend_pixels(start: Frame, end: Frame, fraction: float) -> NDArray[np.float32]:
    """Averages the outputs of two members pixel by pixel, which DNI is compared with.

    Args:
        start: uint8 (H, W, 3).
        end: uint8 (H, W, 3).
        fraction: The share of `end`.

    Returns:
        float32 (H, W, 3), not rounded.
    """
    blend: NDArray[np.float32] = np.float32(1 - fraction) * start + np.float32(fraction) * end
    return blend
