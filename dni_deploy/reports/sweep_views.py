"""Sweep views: a sweep drawn as a contact sheet, as a page and as a plot."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.metrics.psnr import decibels
from dni_deploy.reports.contact_sheet import contact_sheet
from dni_deploy.reports.page import Shot, page
from dni_deploy.reports.sweep import SweepReport, shares_text
from dni_deploy.utils.optional_packages import open_door


def draw_sheet(frames: Sequence[Frame], report: SweepReport, heading: str) -> Frame:
    """The contact sheet: alpha, both names with their shares, and PSNR above each frame; the best is framed."""
    labels = [
        [shares_text(report.members, row.shares), *([] if row.psnr is None else [decibels(row.psnr)])] for row in report.rows
    ]
    if len(report.members) == 2:
        labels = [[f"alpha {row.shares[0]:.4g}", *lines] for row, lines in zip(report.rows, labels, strict=True)]
    return contact_sheet(frames, labels, best=report.best, caption=heading)


def draw_page(
    frames: Sequence[Frame], report: SweepReport, before: Frame, heading: str, levels: Mapping[str, float] | None
) -> str:
    """The page as text: the slider starts at the best alpha; two members can be compared with a blend of pixels."""
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


def draw_plot(
    path: str | os.PathLike[str], report: SweepReport, heading: str, levels: Mapping[str, float] | None, force: bool
) -> None:
    """PSNR against alpha, published at `path`. Raises EnvironmentProblem where the extra `report` is not installed."""
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
    open_door("dni_deploy.reports.plot").plot_psnr(
        path, positions, curves, levels=levels, title=heading, axis=axis, ticks=ticks, force=force
    )
