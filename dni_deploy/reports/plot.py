"""Plot: PSNR against alpha, by matplotlib (extra `report`) without a display."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
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


BENCH_COLORS = (
    "#b8420e", "#4b5563", "#3b6ea5", "#2f7d5b", "#8a6d3b", "#7a4a8c", "#c98a1b", "#1f8a8a", "#a3476b", "#6b7f2a", "#5a5ac0",
)  # fmt: skip


def plot_bench(
    path: str | os.PathLike[str], networks: Mapping[str, Sequence[Mapping[str, Any]]], *, force: bool = False
) -> None:
    """Draw the rows of one or more reports and publish the picture, .png, .svg or .pdf.

    networks: a title -> the report's rows as JSON objects; the first row is ours, and is 1 in the left panel. The right panel shows
    the alpha change in milliseconds on a logarithmic scale. Raises UsageError for another suffix, and as write_file_atomically does.
    """
    check_plot_name(path)
    names = list(dict.fromkeys(row["name"] for rows in networks.values() for row in rows))
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    places, width = np.arange(len(networks)), 0.8 / len(names)
    for number, name in enumerate(names):
        steady, change = [], []
        for rows in networks.values():
            row = next((row for row in rows if row["name"] == name), None)
            steady.append(row["steady_ms"] / rows[0]["steady_ms"] if row else np.nan)
            change.append(row["change_ms"] if row and row["change_ms"] is not None else np.nan)
        offset = (number - (len(names) - 1) / 2) * width
        colour = BENCH_COLORS[number % len(BENCH_COLORS)]
        left.bar(places + offset, steady, width, label=name, color=colour)
        right.bar(places + offset, change, width, color=colour)
    for axes in (left, right):
        axes.set_xticks(places, list(networks), fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    left.axhline(1, color="black", linewidth=0.6)
    left.set_ylabel(f"steady frame, {names[0]} = 1")
    right.set_yscale("log")
    right.set_ylabel("alpha change, ms")
    figure.legend(loc="outside upper center", ncols=min(len(names), 6), fontsize=8, frameon=False)
    suffix = Path(path).suffix[1:].lower()
    out = io.BytesIO()
    undated = {"Date": None} if suffix == "svg" else None  # the same figures give the same file
    with rc_context({"svg.hashsalt": "dni-deploy"}):  # or its ids are drawn anew each time
        figure.savefig(out, format=suffix, dpi=120, metadata=undated)
    write_bytes_atomically(path, out.getvalue(), force=force)


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
