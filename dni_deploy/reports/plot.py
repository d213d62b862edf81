"""Plot: PSNR against alpha, by matplotlib (extra `report`) without a display."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.atomic_write import write_bytes_atomically

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def plot_psnr(
    path: str | os.PathLike[str],
    positions: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    levels: Mapping[str, float] | None = None,
    title: str = "",
    axis: str = "alpha",
    ticks: Mapping[float, str] | None = None,
    force: bool = False,
) -> None:
    """Draw curves in dB over the positions and publish the picture; the first curve's best point is marked.

    levels: horizontal lines by name. ticks: texts at positions instead of numbers. Infinite values are left out.
    Raises UsageError for a suffix that is not .png, .svg or .pdf, and as write_file_atomically does.
    """
    check_plot_name(path)
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(curves.items()):
        points = [(x, y) for x, y in zip(positions, values, strict=True) if math.isfinite(y)]
        if not points:
            continue
        style = {"color": "#b8420e", "marker": "o", "markersize": 4} if number == 0 else {"color": "#3b6ea5", "linestyle": "--"}
        axes.plot(*zip(*points, strict=True), label=name, **style)
        if number == 0:
            x, y = max(points, key=lambda point: point[1])
            share = (x - positions[0]) / (positions[-1] - positions[0])  # near an end the text goes inwards
            axes.annotate(
                f"{y:.2f} dB at {x:g}",
                (x, y),
                textcoords="offset points",
                xytext=(0, 9),
                ha="left" if share < 0.15 else "right" if share > 0.85 else "center",
                color="#b8420e",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
                zorder=5,  # above the levels, which may pass behind it
            )
    for number, (name, level) in enumerate((levels or {}).items()):
        if math.isfinite(level):
            axes.axhline(level, color=("#4b5563", "#2f7d5b")[number % 2], linestyle=":", label=f"{name} ({level:.2f} dB)")
    if ticks:
        axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set(xlabel=axis, ylabel="PSNR (dB)", title=title)
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix.lower()[1:], dpi=130)
    write_bytes_atomically(path, buffer.getvalue(), force=force)


def check_plot_name(path: str | os.PathLike[str]) -> None:
    """Raises UsageError for a suffix that is not .png, .svg or .pdf."""
    if Path(path).suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(f"A plot is written as {', '.join(PLOT_SUFFIXES)}; got {escape_name(path)}. Nothing was written.")
