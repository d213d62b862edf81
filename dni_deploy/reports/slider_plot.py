"""Slider plot: alpha against the slider's position, and how far the picture moves at each step, before and after."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dni_deploy.errors import escape_name


def plot_slider(
    slider_points: Sequence[tuple[float, float]],
    before: Sequence[float],
    after: Sequence[float],
    members: Sequence[str],
    kind: str,
) -> bytes:
    """The warp at the left; at the right the mean CIEDE2000 of each equal step of alpha and of the slider. As a file of that kind.

    The same numbers give the same bytes.
    """
    with rc_context({"svg.hashsalt": "dni-deploy"}):
        figure = Figure(figsize=(9.6, 4.0), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        left.plot(*zip(*slider_points, strict=True), color="#b8420e", marker="o", markersize=3)
        left.plot([0, 1], [0, 1], color="#6b7280", linestyle=":")
        left.set(
            xlabel="position of the slider",
            ylabel=f"alpha (share of {escape_name(members[0], 30)}; the rest is {escape_name(members[1], 30)})",
        )
        count = len(before)
        places = [(step + 0.5) / count for step in range(count)]
        right.bar([place - 0.2 / count for place in places], before, 0.4 / count, color="#9aa3ab", label="equal steps of alpha")
        right.bar(
            [place + 0.2 / count for place in places], after, 0.4 / count, color="#b8420e", label="equal steps of the slider"
        )
        right.axhline(sum(after) / count, color="#1d2329", linewidth=0.8, linestyle=":")
        right.set(xlabel="along alpha, along the slider", ylabel="the picture moves by (mean CIEDE2000)")
        right.legend(fontsize=8, loc="upper center")
        for axes in (left, right):
            axes.grid(alpha=0.3)
        buffer = io.BytesIO()
        dates: dict[str, Any] = {"CreationDate" if kind == "pdf" else "Date": None}
        figure.savefig(buffer, format=kind, dpi=130, metadata=dates if kind != "png" else None)
    return buffer.getvalue()
