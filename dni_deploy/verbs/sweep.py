"""sweep: one picture at many alphas, in one running engine."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bays import open_door
from dni_deploy.bundle import Bundle
from dni_deploy.errors import MismatchError, UsageError, shown
from dni_deploy.frames import Frame
from dni_deploy.measures import decibels, json_number, psnr
from dni_deploy.pictures import Picture, output_format, read_picture, write_picture
from dni_deploy.progress import MaybeProgress, tell
from dni_deploy.publish import publish_bytes
from dni_deploy.report.page import Shot, check_page_name, page
from dni_deploy.report.sheet import contact_sheet
from dni_deploy.session import Session, open_session
from dni_deploy.tiling import run_tiled

MOST_STEPS = 1001
MOST_PIXELS = 4 * 10**8
"""Of all outputs together, which are held in memory (3 bytes each) until the sheet is drawn."""


@dataclass(frozen=True)
class Row:
    """One alpha: shares in family order, PSNR in dB (None without a reference), and what it took.

    pixels_psnr     the PSNR of blending the two ends' pixels at this alpha instead; None unless there are two members.
    change_seconds  the change of alpha in the running engine, blend and refit together.
    frame_seconds   the frame that followed, the change not counted.
    """

    shares: tuple[float, ...]
    psnr: float | None
    pixels_psnr: float | None
    change_seconds: float
    frame_seconds: float


@dataclass(frozen=True)
class SweepReport:
    """members, engine; one row for each alpha in the order of the sweep; the best row's index; the files that were written."""

    members: tuple[str, ...]
    engine: str
    rows: tuple[Row, ...]
    best: int | None
    files: tuple[str, ...]

    @property
    def change_seconds(self) -> float:
        """Median over the rows but the first, whose alpha may have been live already."""
        return statistics.median(row.change_seconds for row in self.rows[1:])

    @property
    def frame_seconds(self) -> float:
        """Median over the rows but the first, which warms the engine up."""
        return statistics.median(row.frame_seconds for row in self.rows[1:])

    @property
    def interior(self) -> bool | None:
        """Whether the best row is a blend, not a member by itself; None without a reference."""
        return None if self.best is None else max(self.rows[self.best].shares) < 1

    @property
    def gain(self) -> float | None:
        """How many dB the best row is above the best member alone; None without a reference."""
        if self.best is None:
            return None
        best = self.rows[self.best].psnr
        ends = [row.psnr for row in self.rows if max(row.shares) == 1 and row.psnr is not None]
        if best is None or not ends or math.isinf(best):
            return None
        return best - max(ends)

    def finding(self) -> str:
        """One sentence: where the best alpha is and what it gains."""
        if self.best is None:
            return "Without a reference there is no best alpha."
        row = self.rows[self.best]
        where = f"{decibels(row.psnr if row.psnr is not None else math.nan)} at {shares_text(self.members, row.shares)}"
        if not self.interior:
            return f"The best is an end of the sweep, {where}; no blend on this grid is better."
        if self.gain is None:
            return f"The best is a blend, {where}."
        return f"The best is a blend, {where}, {self.gain:.2f} dB above the better member alone."

    def to_json(self) -> dict[str, Any]:
        best = None if self.best is None else self.rows[self.best]
        return {
            "members": list(self.members),
            "engine": self.engine,
            "best_alpha": None if best is None else dict(zip(self.members, best.shares, strict=True)),
            "best_psnr": None if best is None else json_number(best.psnr),
            "best_is_a_blend": self.interior,
            "gain_db": json_number(self.gain),
            "finding": self.finding() if best is not None else None,
            "change_ms": self.change_seconds * 1e3,
            "frame_ms": self.frame_seconds * 1e3,
            "files": list(self.files),
            "rows": [
                {
                    "alpha": dict(zip(self.members, row.shares, strict=True)),
                    **({} if row.psnr is None else {"psnr": json_number(row.psnr), "identical": math.isinf(row.psnr)}),
                    **({} if row.pixels_psnr is None else {"pixels_psnr": json_number(row.pixels_psnr)}),
                    "change_ms": row.change_seconds * 1e3,
                    "frame_ms": row.frame_seconds * 1e3,
                }
                for row in self.rows
            ],
        }


def sweep(
    bundle_path: Bundle | str | os.PathLike[str],
    picture: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    steps: int = 11,
    reference: str | os.PathLike[str] | None = None,
    html: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    engine: str = "auto",
    tile: int | None = None,
    overlap: int | None = None,
    threads: int = 0,
    force: bool = False,
    progress: MaybeProgress = None,
    title: str = "",
    levels: Mapping[str, float] | None = None,
) -> SweepReport:
    """Process one picture at `steps` alphas and draw a contact sheet, and on request a page with a slider and a plot.

    Two members: alpha 0 to 1, the first member's share. More members: from each to the next, in family order, with `steps`
    alphas on each way (where two ways meet, the member stands once).
    reference   a clean picture of the output's size: adds PSNR and the best alpha.  html, plot: files to write.
    title, levels: a heading, and PSNR values by name to draw as lines for comparison.
    Raises UsageError (outputs that exist or have no known format, steps out of 2 to 1001, a plot without a reference),
    MismatchError (the reference's size), and what read_picture and open_session raise; nothing is written then.
    """
    outputs = _check_outputs(output, html, plot, reference, steps, force)
    source = read_picture(picture)
    clean = None if reference is None else read_picture(reference).rgb
    with open_session(bundle_path, engine=engine, threads=threads) as session:
        path = alphas(len(session.members), steps)
        _check_sizes(session, source.rgb, clean, len(path))
        frames, rows = measure(session, source.rgb, path, clean, tile=tile, overlap=overlap, progress=progress)
        report = SweepReport(session.members, session.engine.name, rows, best_of(rows), outputs)
    heading = (
        title
        or f"{Path(picture).name}: {' to '.join(reversed(report.members) if len(report.members) == 2 else report.members)}"
    )
    write_picture(output, Picture(_sheet(frames, report, heading)), force=force)
    if html is not None:
        publish_bytes(html, _page(frames, report, source.rgb, heading, levels).encode(), force=force)
    if plot is not None:
        _plot(plot, report, heading, levels, force)
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
        frames.append(run_tiled(session, frame, session.signature, tile, overlap))
        seconds = time.perf_counter() - started
        change = session.change_seconds if session.generation != generation else 0.0
        taken.append((change, seconds - change))
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
    return np.float32(1 - share) * start + np.float32(share) * end


def best_of(rows: Sequence[Row]) -> int | None:
    """Index of the highest PSNR; None without a reference."""
    if any(row.psnr is None for row in rows):
        return None
    return max(range(len(rows)), key=lambda index: rows[index].psnr or 0.0)


def shares_text(members: Sequence[str], shares: Sequence[float]) -> str:
    """Both names with their shares, on every surface: "N20 0.35, N60 0.65". Of more than two members only those with a share."""
    named = [(name, share) for name, share in zip(members, shares, strict=True) if share or len(members) == 2]
    return ", ".join(f"{name} {share:.4g}" for name, share in named)


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
        open_door("dni_deploy.report.plot").check_plot_name(plot)
    outputs = [os.fspath(path) for path in (output, html, plot) if path is not None]
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise UsageError(f"Two outputs have one name: {', '.join(shown(path) for path in outputs)}. Nothing was written.")
    for path in outputs:
        if not Path(path).absolute().parent.is_dir():
            raise UsageError(f"The folder of {shown(path)} does not exist. Nothing was written.")
        if os.path.lexists(path) and not force:
            raise UsageError(f"{shown(path)} exists; give --force to replace it. Nothing was written.")
    return tuple(outputs)


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


def _sheet(frames: Sequence[Frame], report: SweepReport, heading: str) -> Frame:
    labels = [
        [shares_text(report.members, row.shares), *([] if row.psnr is None else [decibels(row.psnr)])] for row in report.rows
    ]
    if len(report.members) == 2:
        labels = [[f"alpha {row.shares[0]:.4g}", *lines] for row, lines in zip(report.rows, labels, strict=True)]
    return contact_sheet(frames, labels, best=report.best, caption=heading)


def _page(frames: Sequence[Frame], report: SweepReport, before: Frame, heading: str, levels: Mapping[str, float] | None) -> str:
    members, rows = report.members, report.rows
    two = len(members) == 2
    shots = [
        Shot(
            frame,
            (f"alpha {row.shares[0]:.4g}: " if two else "") + shares_text(members, row.shares),
            row.psnr,
            row.pixels_psnr,
        )
        for frame, row in zip(frames, rows, strict=True)
    ]
    lead = (
        f"Move the slider: {len(rows)} settings of alpha, each computed by one {report.engine} engine whose weights were changed "
        "in place. It was never rebuilt. "
    )
    return page(
        shots,
        before,
        title=heading,
        lead=lead + (report.finding() if report.best is not None else ""),
        ends=(f"all {members[1 if two else 0]}", f"all {members[0 if two else -1]}"),
        best=report.best,
        blend_pixels=two,
        levels=levels,
        facts={
            "one change of alpha": f"{report.change_seconds * 1e3:.2f} ms (median)",
            "one frame": f"{report.frame_seconds * 1e3:.0f} ms (median), {frames[0].shape[1]} x {frames[0].shape[0]} pixels",
            "engine": report.engine,
        },
    )


def _plot(
    path: str | os.PathLike[str], report: SweepReport, heading: str, levels: Mapping[str, float] | None, force: bool
) -> None:
    rows, members = report.rows, report.members
    curves = {"blended weights": [math.nan if row.psnr is None else row.psnr for row in rows]}
    ticks = None
    if len(members) == 2:
        positions = [row.shares[0] for row in rows]
        curves["blended pixels"] = [math.nan if row.pixels_psnr is None else row.pixels_psnr for row in rows]
        axis = f"alpha (share of {members[0]}; the rest is {members[1]})"
    else:
        way = (len(rows) - 1) / (len(members) - 1)
        positions = [index / way for index in range(len(rows))]
        ticks = {float(index): name for index, name in enumerate(members)}
        axis = "from member to member"
    open_door("dni_deploy.report.plot").plot_psnr(
        path, positions, curves, levels=levels, title=heading, axis=axis, ticks=ticks, force=force
    )
