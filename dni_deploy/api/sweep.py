"""Processes one image at many alphas in one running engine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import MismatchError, UsageError, escape_name
from dni_deploy.imaging.frames import WHITE_LEVELS, AnyFrame, Frame, convert_depth
from dni_deploy.imaging.image_file import ImageFile, read_image, write_image
from dni_deploy.imaging.image_formats import output_format
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.reports.page import check_page_name
from dni_deploy.reports.sweep import (
    SweepPoint,
    SweepReport,
    describe_coefficients,
    draw_sweep_sheet,
    find_best_point,
)
from dni_deploy.reports.sweep_page import render_sweep_page
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session
from dni_deploy.session.tiles import render_tiled
from dni_deploy.utils.atomic_write import check_outputs, write_bytes_atomically
from dni_deploy.utils.log_duration import log_duration
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress, report_progress

log = logging.getLogger(__name__)

__all__ = ["SweepPoint", "SweepReport", "sweep"]

MAX_SWEEP_STEPS = 1001
MAX_OUTPUT_PIXELS = 4 * 10**8
"""Of all outputs together, which are held in memory (3 bytes each) until the sheet is drawn."""


class SweepLabels(NamedTuple):
    """What the outputs of a sweep say besides its results.

    Attributes:
        heading: Heading of contact sheet, page and plot; empty: the names of image and members.
        reference_psnrs: PSNR by name, in dB, drawn as lines to compare with.
    """

    heading: str = ""
    reference_psnrs: Mapping[str, float] | None = None


def sweep(
    bundle_path: Bundle | str | os.PathLike[str],
    image: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    steps: int = 11,
    even: bool = False,
    reference: str | os.PathLike[str] | None = None,
    html: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    options: SessionOptions | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    force: bool = False,
    progress: OptionalProgress = None,
    labels: SweepLabels | None = None,
) -> SweepReport:
    """Processes one image at many alphas and draws a contact sheet, and on request a page with a slider and a plot.

    Two members: alpha 0 to 1, the first member's share. More members: from each to the next, in family order, with `steps`
    alphas between each two (where two paths meet, the member occurs once).

    Args:
        bundle_path: The bundle or its path.
        image: The image.
        output: The contact sheet to write.
        steps: Number of alphas, ends included, 2 to 1001.
        even: Take equal steps of the bundle's slider, not of alpha.
        reference: A clean image of the output's size: adds PSNR and the best alpha.
        html: A page to write.
        plot: A plot to write; needs the reference.
        options: Options of the session; groups of weights that have rules keep their own alpha.
        tile: Side of the tiles in input pixels; None: tiles of at most 512 output pixels.
        overlap: Number of input pixels that tiles share; None: the network's radius.
        force: Replace files that exist.
        progress: Called with the alphas done.
        labels: A heading of your own, and PSNR values to compare with.

    Returns:
        The report.

    Raises:
        UsageError: Outputs exist or have no known format, `steps` is out of range, or a plot has no reference. Nothing was
            written.
        MismatchError: The reference has another size. Nothing was written.
        DniError: As read_image and open_session raise.
    """
    labels = labels or SweepLabels()
    outputs = _check_outputs(output, html, plot, reference, steps, force)
    bundle = Bundle.ensure_open(bundle_path) if even else None
    source = read_image(image)
    clean = None if reference is None else to_levels(read_image(reference).rgb)
    with open_session(bundle or bundle_path, options) as session:
        path = plan_alphas(len(session.members), steps)
        if even and bundle is not None:
            path = [(at, 1 - at) for at in (bundle.alpha_at(position) for position, _ in path)]
        _check_sizes(session, source.rgb, clean, len(path))
        with log_duration(log, "rendering the sweep"):
            frames, rows = measure_path(session, source.rgb, path, clean, tile=tile, overlap=overlap, progress=progress)
        report = SweepReport(session.members, session.engine.name, rows, find_best_point(rows), outputs, session.engine_reason)
    frames = [source.color.convert_for_screen(frame) for frame in frames]
    heading = (
        labels.heading
        or f"{Path(image).name}: {' to '.join(reversed(report.members) if len(report.members) == 2 else report.members)}"
    )
    write_image(output, ImageFile(draw_sweep_sheet(frames, report, heading)), force=force)
    if html is not None:
        write_bytes_atomically(
            html,
            render_sweep_page(
                frames, report, source.color.convert_for_screen(source.to_frame()), heading, labels.reference_psnrs
            ).encode(),
            force=force,
        )
    if plot is not None:
        kind = Path(plot).suffix.lower()[1:]
        drawn = import_optional("dni_deploy.reports.plot").plot_sweep(report, heading, labels.reference_psnrs, kind)
        write_bytes_atomically(plot, drawn, force=force)
    report_progress(progress, len(path), len(path), "done")
    return report


def plan_alphas(members: int, steps: int) -> list[tuple[float, ...]]:
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


def measure_path(
    session: Session,
    frame: AnyFrame,
    path: Sequence[tuple[float, ...]],
    reference: NDArray[Any] | None = None,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    progress: OptionalProgress = None,
) -> tuple[list[Frame], tuple[SweepPoint, ...]]:
    """Renders a frame at each alpha of a path, and measures what each took; the engine is neither rebuilt nor reloaded.

    Args:
        session: The session.
        frame: uint8, uint16 or float32 (H, W, 3).
        path: Coefficients in family order.
        reference: A clean frame of the output's size in 0..255 (`to_levels`), for PSNR.
        tile: Side of the tiles in input pixels.
        overlap: Number of input pixels that tiles share.
        progress: Called with the alphas done.

    Returns:
        The rendered frames in 8 bits, and a row for each.
    """
    frames: list[Frame] = []
    psnrs: list[float | None] = []
    times_s: list[tuple[float, float]] = []
    for done, shares in enumerate(path):
        report_progress(progress, done, len(path), describe_coefficients(session.members, shares))
        generation = session.generation
        started = time.perf_counter()
        session.alpha = shares
        session.wait_until_applied()  # on a GPU the change would else be queued, and counted as the frame's
        changed = time.perf_counter()
        output = render_tiled(session, frame, tile, overlap).output
        times_s.append((changed - started if session.generation != generation else 0.0, time.perf_counter() - changed))
        levels = to_levels(output)
        psnrs.append(None if reference is None else psnr(levels, reference))
        frames.append(convert_depth(output, np.uint8))
    return frames, tuple(
        SweepPoint(
            shares,
            psnr_of_output,
            None if reference is None or len(shares) != 2 else psnr(blend_pixels(frames[0], frames[-1], shares[0]), reference),
            change,
            seconds,
        )
        for shares, psnr_of_output, (change, seconds) in zip(path, psnrs, times_s, strict=True)
    )


def to_levels(frame: AnyFrame) -> NDArray[Any]:
    """Converts a frame to levels of 8 bits that are not rounded: float32 in 0..255, or a uint8 frame itself."""
    return frame if frame.dtype == np.uint8 else frame * np.float32(255 / WHITE_LEVELS[frame.dtype])


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


def _check_outputs(
    output: str | os.PathLike[str],
    html: str | os.PathLike[str] | None,
    plot: str | os.PathLike[str] | None,
    reference: str | os.PathLike[str] | None,
    steps: int,
    force: bool,
) -> tuple[str, ...]:
    if not isinstance(steps, int) or not 2 <= steps <= MAX_SWEEP_STEPS:
        raise UsageError(f"A sweep has 2 to {MAX_SWEEP_STEPS} steps, got {escape_name(steps)}.")
    if plot is not None and reference is None:
        raise UsageError("A plot shows PSNR against alpha and needs the clean image: give --reference.")
    output_format(output)
    if html is not None:
        check_page_name(html)
    if plot is not None:
        import_optional("dni_deploy.reports.plot").check_plot_name(plot)
    return check_outputs((output, html, plot), force)


def _check_sizes(session: Session, frame: AnyFrame, reference: NDArray[Any] | None, count: int) -> None:
    scale = session.signature.scale
    height, width = frame.shape[0] * scale, frame.shape[1] * scale
    if reference is not None and reference.shape[:2] != (height, width):
        raise MismatchError(
            f"The reference is {reference.shape[1]}x{reference.shape[0]} pixels and the output will be {width}x{height}; "
            "they must be of one size. Nothing was written."
        )
    if height * width * count > MAX_OUTPUT_PIXELS:
        raise UsageError(
            f"{count} outputs of {width}x{height} pixels are more than a sweep holds ({MAX_OUTPUT_PIXELS:,}); take fewer steps or a part "
            "of the image. Nothing was written."
        )
