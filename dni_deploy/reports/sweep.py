"""Sweep report: one row for each alpha, where the best is, and what it gains."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.metrics.psnr import format_db, to_json_number
from dni_deploy.reports.contact_sheet import draw_contact_sheet
from dni_deploy.utils.optional_packages import import_optional


@dataclass(frozen=True)
class SweepPoint:
    """One alpha: shares in family order, PSNR in dB (None without a reference), and what it took.

    pixel_blend_psnr     the PSNR of blending the two ends' pixels at this alpha instead; None unless there are two members.
    change_seconds  the change of alpha in the running engine, blend and refit together.
    frame_seconds   the frame that followed, the change not counted.
    """

    coefficients: tuple[float, ...]
    psnr: float | None
    pixel_blend_psnr: float | None
    change_seconds: float
    frame_seconds: float


@dataclass(frozen=True)
class SweepReport:
    """members, engine; one row for each alpha in the order of the sweep; the best row's index; the files that were written.

    engine_reason: how the engine came to be the one.
    """

    members: tuple[str, ...]
    engine: str
    points: tuple[SweepPoint, ...]
    best_index: int | None
    files: tuple[str, ...]
    engine_reason: str = ""

    @property
    def change_seconds(self) -> float:
        """Median over the rows but the first, whose alpha may have been live already."""
        return statistics.median(row.change_seconds for row in self.points[1:])

    @property
    def frame_seconds(self) -> float:
        """Median over the rows but the first, which warms the engine up."""
        return statistics.median(row.frame_seconds for row in self.points[1:])

    @property
    def best_is_blend(self) -> bool | None:
        """Whether the best row is a blend, not a member by itself; None without a reference."""
        return None if self.best_index is None else max(self.points[self.best_index].coefficients) < 1

    @property
    def gain_db(self) -> float | None:
        """How many dB the best row is above the best member alone; None without a reference."""
        if self.best_index is None:
            return None
        best = self.points[self.best_index].psnr
        ends = [row.psnr for row in self.points if max(row.coefficients) == 1 and row.psnr is not None]
        if best is None or not ends or math.isinf(best):
            return None
        return best - max(ends)

    def format_finding(self) -> str:
        """One sentence: where the best alpha is and what it gains."""
        if self.best_index is None:
            return "Without a reference there is no best alpha."
        row = self.points[self.best_index]
        where = f"{format_db(row.psnr if row.psnr is not None else math.nan)} at {describe_coefficients(self.members, row.coefficients)}"
        if not self.best_is_blend:
            return f"The best is an end of the sweep, {where}; no blend on this grid is better."
        if self.gain_db is None:
            return f"The best is a blend, {where}."
        return f"The best is a blend, {where}, {self.gain_db:.2f} dB above the better member alone."

    def to_json(self) -> dict[str, Any]:
        best = None if self.best_index is None else self.points[self.best_index]
        return {
            "members": list(self.members),
            "engine": self.engine,
            "engine_reason": self.engine_reason,
            "best_alpha": None if best is None else dict(zip(self.members, best.coefficients, strict=True)),
            "best_psnr": None if best is None else to_json_number(best.psnr),
            "best_is_a_blend": self.best_is_blend,
            "gain_db": to_json_number(self.gain_db),
            "finding": self.format_finding() if best is not None else None,
            "change_ms": self.change_seconds * 1e3,
            "frame_ms": self.frame_seconds * 1e3,
            "files": list(self.files),
            "rows": [
                {
                    "alpha": dict(zip(self.members, row.coefficients, strict=True)),
                    **({} if row.psnr is None else {"psnr": to_json_number(row.psnr), "identical": math.isinf(row.psnr)}),
                    **({} if row.pixel_blend_psnr is None else {"pixels_psnr": to_json_number(row.pixel_blend_psnr)}),
                    "change_ms": row.change_seconds * 1e3,
                    "frame_ms": row.frame_seconds * 1e3,
                }
                for row in self.points
            ],
        }


def find_best_point(points: Sequence[SweepPoint]) -> int | None:
    """Index of the highest PSNR; None without a reference."""
    if any(row.psnr is None for row in points):
        return None
    return max(range(len(points)), key=lambda index: points[index].psnr or 0.0)


def describe_coefficients(members: Sequence[str], coefficients: Sequence[float]) -> str:
    """Both names with their shares, on every surface: "N20 0.35, N60 0.65". Of more than two members only those with a share."""
    named = [(name, share) for name, share in zip(members, coefficients, strict=True) if share or len(members) == 2]
    return ", ".join(f"{name} {share:.4g}" for name, share in named)


def draw_sweep_sheet(frames: Sequence[Frame], report: SweepReport, heading: str) -> Frame:
    """The contact sheet: alpha, both names with their shares, and PSNR above each frame; the best is framed."""
    labels = [
        [describe_coefficients(report.members, row.coefficients), *([] if row.psnr is None else [format_db(row.psnr)])]
        for row in report.points
    ]
    if len(report.members) == 2:
        labels = [[f"alpha {row.coefficients[0]:.4g}", *lines] for row, lines in zip(report.points, labels, strict=True)]
    return draw_contact_sheet(frames, labels, best_index=report.best_index, caption=heading)


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
