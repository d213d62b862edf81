"""Plots of a sweep and of a benchmark, by matplotlib (extra `report`) without a display, and how every plot becomes a file."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.reports.sweep import SweepReport

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
MAIN_COLOR, SECOND_COLOR, INK_COLOR = "#b8420e", "#3b6ea5", "#1d2329"
"""As in page.css."""
LEVEL_COLORS = ("#4b5563", "#2f7d5b")
BENCH_COLORS = (
    "#b8420e", "#4b5563", "#3b6ea5", "#2f7d5b", "#8a6d3b", "#7a4a8c", "#c98a1b", "#1f8a8a", "#a3476b", "#6b7f2a", "#5a5ac0",
    "#9aa3ad", "#d98f7a", "#8fb8de", "#7fc4a0",
)  # fmt: skip
LABEL_MARGIN = 0.15
"""Fraction of the axis from an end, within which a label is written inwards."""


def check_plot_name(path: str | os.PathLike[str]) -> None:
    """Checks that a file name ends as a plot's does.

    Raises:
        UsageError: The suffix is not .png, .svg or .pdf.
    """
    if Path(path).suffix.lower() not in PLOT_SUFFIXES:
        raise UsageError(f"A plot is written as {', '.join(PLOT_SUFFIXES)}; got {escape_name(path)}. Nothing was written.")


def encode_figure(figure: Figure, kind: str) -> bytes:
    """Encodes a figure as a file; the same figure gives the same bytes.

    Args:
        figure: The figure.
        kind: "png", "svg" or "pdf".
    """
    buffer = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with rc_context({"svg.hashsalt": "dni-deploy"}):  # or the ids of an SVG are drawn anew each time
        figure.savefig(buffer, format=kind, dpi=130, metadata=undated)
    return buffer.getvalue()


def plot_sweep(report: SweepReport, title: str, reference_psnrs: Mapping[str, float] | None, kind: str) -> bytes:
    """Plots PSNR against alpha; infinite values are left out, and the best point is labeled.

    Args:
        report: A sweep with a reference.
        title: The heading.
        reference_psnrs: PSNR in dB by name, drawn as horizontal lines.
        kind: "png", "svg" or "pdf".

    Returns:
        The file.
    """
    points, members = report.points, report.members
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    if len(members) == 2:
        positions = [point.coefficients[0] for point in points]
        axes.set_xlabel(f"alpha (share of {members[0]}; the rest is {members[1]})")
    else:
        steps = (len(points) - 1) / (len(members) - 1)
        positions = [index / steps for index in range(len(points))]
        axes.set_xlabel("from member to member")
        axes.set_xticks(range(len(members)), members)
    weights_style = {"label": "blended weights", "color": MAIN_COLOR, "marker": "o", "markersize": 4}
    curve = _plot_curve(axes, positions, [point.psnr for point in points], **weights_style)
    pixels_style = {"label": "blended pixels", "color": SECOND_COLOR, "linestyle": "--"}
    _plot_curve(axes, positions, [point.pixel_blend_psnr for point in points], **pixels_style)
    if curve:
        _label_best(axes, curve, positions)
    for number, (name, psnr) in enumerate((reference_psnrs or {}).items()):
        if math.isfinite(psnr):
            color = LEVEL_COLORS[number % len(LEVEL_COLORS)]
            axes.axhline(psnr, color=color, linestyle=":", label=f"{name} ({psnr:.2f} dB)")
    axes.set(ylabel="PSNR (dB)", title=title)
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    return encode_figure(figure, kind)


def _plot_curve(
    axes: Any, positions: Sequence[float], psnrs: Sequence[float | None], **style: Any
) -> list[tuple[float, float]]:
    """Plots the finite points and returns them."""
    points = [(x, y) for x, y in zip(positions, psnrs, strict=True) if y is not None and math.isfinite(y)]
    if points:
        axes.plot(*zip(*points, strict=True), **style)
    return points


def _label_best(axes: Any, curve: Sequence[tuple[float, float]], positions: Sequence[float]) -> None:
    x, y = max(curve, key=lambda point: point[1])
    fraction = (x - positions[0]) / (positions[-1] - positions[0])
    axes.annotate(
        f"{y:.2f} dB at {x:g}",
        (x, y),
        textcoords="offset points",
        xytext=(0, 9),
        ha="left" if fraction < LABEL_MARGIN else "right" if fraction > 1 - LABEL_MARGIN else "center",
        color=MAIN_COLOR,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        zorder=5,  # above the horizontal lines, which may pass behind it
    )


def plot_bench(networks: Mapping[str, Sequence[Mapping[str, Any]]], kind: str) -> bytes:
    """Plots the rows of one or more benchmark reports.

    The left panel shows the steady frame as a multiple of the first row's, the right one the alpha change in milliseconds on a
    logarithmic scale.

    Args:
        networks: A report's rows as JSON objects, by title; the first row is ours.
        kind: "png", "svg" or "pdf".

    Returns:
        The file.
    """
    names = list(dict.fromkeys(row["name"] for rows in networks.values() for row in rows))
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    places, width = np.arange(len(networks)), 0.8 / len(names)
    for number, name in enumerate(names):
        steady, change = [], []
        for rows in networks.values():
            row = next((row for row in rows if row["name"] == name), None)
            steady.append(row["steady_ms"] / rows[0]["steady_ms"] if row else np.nan)
            change.append(row["change_ms"] if row and row["change_ms"] is not None else np.nan)
        offset = (number - (len(names) - 1) / 2) * width
        color = BENCH_COLORS[number % len(BENCH_COLORS)]
        left.bar(places + offset, steady, width, label=name, color=color)
        right.bar(places + offset, change, width, color=color)
    for axes in (left, right):
        axes.set_xticks(places, list(networks), fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    left.axhline(1, color="black", linewidth=0.6)
    left.set_ylabel(f"steady frame, {names[0]} = 1")
    right.set_yscale("log")
    right.set_ylabel("alpha change, ms")
    figure.legend(loc="outside upper center", ncols=min(len(names), 6), fontsize=8, frameon=False)
    return encode_figure(figure, kind)
