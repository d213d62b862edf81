"""Sweep views: a sweep drawn as a contact sheet, as a page and as a plot."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.metrics.psnr import format_db
from dni_deploy.reports.contact_sheet import draw_contact_sheet
from dni_deploy.reports.page import SweepFrame, render_slider_page
from dni_deploy.reports.sweep import SweepReport, describe_coefficients
from dni_deploy.utils.optional_packages import import_optional


def draw_sweep_sheet(frames: Sequence[Frame], report: SweepReport, heading: str) -> Frame:
    """The contact sheet: alpha, both names with their shares, and PSNR above each frame; the best is framed."""
    labels = [
        [describe_coefficients(report.members, row.coefficients), *([] if row.psnr is None else [format_db(row.psnr)])]
        for row in report.points
    ]
    if len(report.members) == 2:
        labels = [[f"alpha {row.coefficients[0]:.4g}", *lines] for row, lines in zip(report.points, labels, strict=True)]
    return draw_contact_sheet(frames, labels, best_index=report.best_index, caption=heading)


def render_sweep_page(
    frames: Sequence[Frame], report: SweepReport, input_frame: Frame, heading: str, levels: Mapping[str, float] | None
) -> str:
    """The page as text: the slider starts at the best alpha; two members can be compared with a blend of pixels."""
    members, rows = report.members, report.points
    two = len(members) == 2
    shots = [
        SweepFrame(
            frame,
            (f"alpha {row.coefficients[0]:.4g}: " if two else "") + describe_coefficients(members, row.coefficients),
            row.psnr,
            row.pixel_blend_psnr,
        )
        for frame, row in zip(frames, rows, strict=True)
    ]
    lead = (
        f"Move the slider: {len(rows)} settings of alpha, each computed by one {report.engine} engine whose weights were changed "
        "in place. It was never rebuilt. "
    )
    return render_slider_page(
        shots,
        input_frame,
        title=heading,
        introduction=lead + (report.format_finding() if report.best_index is not None else ""),
        end_labels=(f"all {members[1 if two else 0]}", f"all {members[0 if two else -1]}"),
        best_index=report.best_index,
        blend_pixels=two,
        levels=levels,
        summary={
            "one change of alpha": f"{report.change_seconds * 1e3:.2f} ms (median)",
            "one frame": f"{report.frame_seconds * 1e3:.0f} ms (median), {frames[0].shape[1]} x {frames[0].shape[0]} pixels",
            "engine": report.engine,
        },
    )


def plot_sweep(
    path: str | os.PathLike[str], report: SweepReport, heading: str, levels: Mapping[str, float] | None, force: bool
) -> None:
    """PSNR against alpha, published at `path`. Raises UnavailableError where the extra `report` is not installed."""
    rows, members = report.points, report.members
    curves = {"blended weights": [math.nan if row.psnr is None else row.psnr for row in rows]}
    ticks = None
    if len(members) == 2:
        positions = [row.coefficients[0] for row in rows]
        curves["blended pixels"] = [math.nan if row.pixel_blend_psnr is None else row.pixel_blend_psnr for row in rows]
        axis = f"alpha (share of {members[0]}; the rest is {members[1]})"
    else:
        way = (len(rows) - 1) / (len(members) - 1)
        positions = [index / way for index in range(len(rows))]
        ticks = {float(index): name for index, name in enumerate(members)}
        axis = "from member to member"
    import_optional("dni_deploy.reports.plot").plot_psnr(
        path, positions, curves, levels=levels, title=heading, axis=axis, ticks=ticks, force=force
    )
