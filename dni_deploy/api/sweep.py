"""sweep: one picture at many alphas, in one running engine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.group_rules import Rule
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import MismatchError, UsageError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import Picture, output_format, read_picture, write_picture
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.imaging.tiling import run_tiled
from dni_deploy.reports.page import check_page_name
from dni_deploy.reports.sweep import Row, SweepReport, best_of, shares_text
from dni_deploy.reports.sweep_views import draw_page, draw_plot, draw_sheet
from dni_deploy.session.session import Session, open_session
from dni_deploy.utils.atomic_write import publish_bytes
from dni_deploy.utils.optional_packages import open_door
from dni_deploy.utils.outputs import check_outputs
from dni_deploy.utils.progress import MaybeProgress, tell

__all__ = ["Row", "SweepReport", "sweep"]

MOST_STEPS = 1001
MOST_PIXELS = 4 * 10**8
"""Of all outputs together, which are held in memory (3 bytes each) until the sheet is drawn."""


def sweep(
    bundle_path: Bundle | str | os.PathLike[str],
    picture: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    steps: int = 11,
    even: bool = False,
    reference: str | os.PathLike[str] | None = None,
    html: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    engine: str = "auto",
    precision: str | None = None,
    device: int = 0,
    tile: int | None = None,
    overlap: int | None = None,
    threads: int = 0,
    rules: Sequence[str | Rule] | None = None,
    force: bool = False,
    progress: MaybeProgress = None,
    title: str = "",
    levels: Mapping[str, float] | None = None,
) -> SweepReport:
    """Process one picture at `steps` alphas and draw a contact sheet, and on request a page with a slider and a plot.

    Two members: alpha 0 to 1, the first member's share. More members: from each to the next, in family order, with `steps`
    alphas on each way (where two ways meet, the member stands once).
    even        take equal steps of the slider that the bundle holds, not of alpha.
    reference   a clean picture of the output's size: adds PSNR and the best alpha.  html, plot: files to write.
    engine, precision, device   as in open_session.
    rules       for groups of weights that keep an alpha of their own on the way, as open_session takes them.
    title, levels: a heading, and PSNR values by name to draw as lines for comparison.
    Raises UsageError (outputs that exist or have no known format, steps out of 2 to 1001, a plot without a reference),
    MismatchError (the reference's size), and what read_picture and open_session raise; nothing is written then.
    """
    outputs = _check_outputs(output, html, plot, reference, steps, force)
    bundle = Bundle.of(bundle_path) if even else None
    source = read_picture(picture)
    clean = None if reference is None else read_picture(reference).rgb
    with open_session(
        bundle or bundle_path, engine=engine, threads=threads, precision=precision, device=device, rules=rules
    ) as session:
        path = alphas(len(session.members), steps)
        if even and bundle is not None:
            path = [(at, 1 - at) for at in (bundle.alpha_at(position) for position, _ in path)]
        _check_sizes(session, source.rgb, clean, len(path))
        frames, rows = measure(session, source.rgb, path, clean, tile=tile, overlap=overlap, progress=progress)
        report = SweepReport(session.members, session.engine.name, rows, best_of(rows), outputs, session.why)
    heading = (
        title
        or f"{Path(picture).name}: {' to '.join(reversed(report.members) if len(report.members) == 2 else report.members)}"
    )
    write_picture(output, Picture(draw_sheet(frames, report, heading)), force=force)
    if html is not None:
        publish_bytes(html, draw_page(frames, report, source.rgb, heading, levels).encode(), force=force)
    if plot is not None:
        draw_plot(plot, report, heading, levels, force)
    tell(progress, len(path), len(path), "done")
    return report


def alphas(members: int, steps: int) -> list[tuple[float, ...]]:
    """The shares along the path: for two members alpha 0 to 1, for more from the first to the second, third, ..."""
    if members == 2:
        return [(step / (steps - 1), 1 - step / (steps - 1)) for step in range(steps)]
    path = [tuple(float(index == 0) for index in range(members))]
    for first, second in pairwise(range(members)):
        for step in range(1, steps):
            share = step / (steps - 1)
            path.append(tuple(1 - share if index == first else share if index == second else 0.0 for index in range(members)))
    return path


def measure(
    session: Session,
    frame: Frame,
    path: Sequence[tuple[float, ...]],
    clean: Frame | None = None,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    progress: MaybeProgress = None,
) -> tuple[list[Frame], tuple[Row, ...]]:
    """The frame at each alpha of the path, and what each took; the engine is neither rebuilt nor reloaded."""
    frames: list[Frame] = []
    taken: list[tuple[float, float]] = []
    for done, shares in enumerate(path):
        tell(progress, done, len(path), shares_text(session.members, shares))
        generation = session.generation
        started = time.perf_counter()
        session.alpha = shares
        session.settle()  # on a GPU the change would else be queued, and counted as the frame's
        changed = time.perf_counter()
        frames.append(run_tiled(session, frame, session.signature, tile, overlap))
        taken.append((changed - started if session.generation != generation else 0.0, time.perf_counter() - changed))
    return frames, tuple(
        Row(
            shares,
            None if clean is None else psnr(output, clean),
            None if clean is None or len(shares) != 2 else psnr(blended_pixels(frames[0], frames[-1], shares[0]), clean),
            change,
            seconds,
        )
        for shares, output, (change, seconds) in zip(path, frames, taken, strict=True)
    )


def blended_pixels(start: Frame, end: Frame, share: float) -> NDArray[np.float32]:
    """What DNI is compared with: the outputs of the two ends averaged pixel by pixel, unrounded; `share` is that of `end`."""
    blend: NDArray[np.float32] = np.float32(1 - share) * start + np.float32(share) * end
    return blend


def _check_outputs(
    output: str | os.PathLike[str],
    html: str | os.PathLike[str] | None,
    plot: str | os.PathLike[str] | None,
    reference: str | os.PathLike[str] | None,
    steps: int,
    force: bool,
) -> tuple[str, ...]:
    if not isinstance(steps, int) or not 2 <= steps <= MOST_STEPS:
        raise UsageError(f"A sweep has 2 to {MOST_STEPS} steps, got {shown(steps)}.")
    if plot is not None and reference is None:
        raise UsageError("A plot shows PSNR against alpha and needs the clean picture: give --reference.")
    output_format(output)
    if html is not None:
        check_page_name(html)
    if plot is not None:
        open_door("dni_deploy.reports.plot").check_plot_name(plot)
    return check_outputs((output, html, plot), force)


def _check_sizes(session: Session, frame: Frame, clean: Frame | None, count: int) -> None:
    scale = session.signature.scale
    height, width = frame.shape[0] * scale, frame.shape[1] * scale
    if clean is not None and clean.shape[:2] != (height, width):
        raise MismatchError(
            f"The reference is {clean.shape[1]}x{clean.shape[0]} pixels and the output will be {width}x{height}; "
            "they must be of one size. Nothing was written."
        )
    if height * width * count > MOST_PIXELS:
        raise UsageError(
            f"{count} outputs of {width}x{height} pixels are more than a sweep holds ({MOST_PIXELS:,}); take fewer steps or a part "
            "of the picture. Nothing was written."
        )
