"""Sweep report: one row for each alpha, where the best is, and what it gains."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dni_deploy.imaging.metrics.psnr import decibels, json_number


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
    """members, engine; one row for each alpha in the order of the sweep; the best row's index; the files that were written.

    engine_why: how the engine came to be the one.
    """

    members: tuple[str, ...]
    engine: str
    rows: tuple[Row, ...]
    best: int | None
    files: tuple[str, ...]
    engine_why: str = ""

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
            "engine_why": self.engine_why,
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


def best_of(rows: Sequence[Row]) -> int | None:
    """Index of the highest PSNR; None without a reference."""
    if any(row.psnr is None for row in rows):
        return None
    return max(range(len(rows)), key=lambda index: rows[index].psnr or 0.0)


def shares_text(members: Sequence[str], shares: Sequence[float]) -> str:
    """Both names with their shares, on every surface: "N20 0.35, N60 0.65". Of more than two members only those with a share."""
    named = [(name, share) for name, share in zip(members, shares, strict=True) if share or len(members) == 2]
    return ", ".join(f"{name} {share:.4g}" for name, share in named)
