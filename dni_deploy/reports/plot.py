"""Plots of a sweep and of a benchmark, by matplotlib (extra `report`) without a display, and how every plot becomes a file."""

from __future__ import annotations

import io
import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.reports.sweep import SweepReport

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
MAIN_COLOR, SECOND_COLOR, INK_COLOR = "#b8420e", "#3b6ea5", "#1d2329"
"""As in page.css."""
LEVEL_COLORS = ("#4b5563", "#2f7d5b")
SERIES_STYLES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#56b4e9", "v"), ("#e69f00", "P"))
"""Color and marker of each series: the colors of Okabe and Ito, which color-blind readers can tell apart, and shapes besides."""
LABEL_HEIGHT = 0.12
"""Fraction of the axis that a label above a point takes, the gap included."""
WAY_WIDTH = 38
"""Characters of a line beside the axis."""
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
    levels = {name: psnr for name, psnr in (reference_psnrs or {}).items() if math.isfinite(psnr)}
    for psnr in levels.values():
        axes.axhline(psnr, color=LEVEL_COLORS[0], linestyle=":")
    axes.set(ylabel="PSNR (dB)", title=title)
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)
    if curve:
        _label_best(axes, curve, positions, levels.values())
    _label_levels(axes, levels, curve)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return encode_figure(figure, kind)


def _plot_curve(
    axes: Any, positions: Sequence[float], psnrs: Sequence[float | None], **style: Any
) -> list[tuple[float, float]]:
    """Plots the finite points and returns them."""
    points = [(x, y) for x, y in zip(positions, psnrs, strict=True) if y is not None and math.isfinite(y)]
    if points:
        axes.plot(*zip(*points, strict=True), **style)
    return points


def _label_best(axes: Any, curve: Sequence[tuple[float, float]], positions: Sequence[float], levels: Iterable[float]) -> None:
    """Labels the highest point: above it, or below where a horizontal line would pass through the label."""
    x, y = max(curve, key=lambda point: point[1])
    fraction = (x - positions[0]) / (positions[-1] - positions[0])
    low, high = axes.get_ylim()
    is_free_above = not any(0 <= level - y < LABEL_HEIGHT * (high - low) for level in levels)
    axes.annotate(
        f"{y:.2f} dB at {x:g}",
        (x, y),
        textcoords="offset points",
        xytext=(0, 9 if is_free_above else -9),
        ha="left" if fraction < LABEL_MARGIN else "right" if fraction > 1 - LABEL_MARGIN else "center",
        va="bottom" if is_free_above else "top",
        color=MAIN_COLOR,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        zorder=5,  # above the lines, which may pass behind it
    )


def _label_levels(axes: Any, levels: Mapping[str, float], curve: Sequence[tuple[float, float]]) -> None:
    """Labels each horizontal line on the line itself, at that end of the axis from which the curve is farther."""
    for number, (name, psnr) in enumerate(levels.items()):
        is_left = bool(curve) and abs(curve[0][1] - psnr) > abs(curve[-1][1] - psnr)
        axes.annotate(
            f"{name}: {psnr:.2f} dB",
            (0.0 if is_left else 1.0, psnr),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            xytext=(5 if is_left else -5, 3),
            ha="left" if is_left else "right",
            va="bottom",
            color=LEVEL_COLORS[number % len(LEVEL_COLORS)],
            fontsize=9,
        )


def plot_bench(networks: Mapping[str, Sequence[Mapping[str, Any]]], kind: str) -> bytes:
    """Plots the rows of one or more benchmark reports.

    A line for each way to change alpha, the first row's, which is ours, at the top. The left panel shows the steady frame as a
    multiple of ours, the right one the alpha change in milliseconds on a logarithmic scale.

    Args:
        networks: A report's rows as JSON objects, by title; the first row is ours.
        kind: "png", "svg" or "pdf".

    Returns:
        The file.
    """
    titles = {row["name"]: row.get("title", row["name"]) for rows in networks.values() for row in rows}
    places = {name: place for place, name in enumerate(titles)}
    figure = Figure(figsize=(9.5, 1.3 + 0.42 * len(titles)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for number, (title, rows) in enumerate(networks.items()):
        color, marker = SERIES_STYLES[number % len(SERIES_STYLES)]
        style = {"color": color, "marker": marker, "linestyle": "none", "markersize": 6}
        steady = [(row["steady_ms"] / rows[0]["steady_ms"], places[row["name"]]) for row in rows]
        left.plot(*zip(*steady, strict=True), label=title, **style)
        change = [(row["change_ms"], places[row["name"]]) for row in rows if row["change_ms"] is not None]
        if change:
            right.plot(*zip(*change, strict=True), **style)
    changed = {row["name"] for rows in networks.values() for row in rows if row["change_ms"] is not None}
    for name in titles.keys() - changed:
        right.text(0.5, places[name], "cannot change alpha", transform=right.get_yaxis_transform(), ha="center", va="center",
                   fontsize=8, color=LEVEL_COLORS[0])  # fmt: skip
    left.set_yticks(list(places.values()), [textwrap.fill(title, WAY_WIDTH) for title in titles.values()], fontsize=8)
    left.get_yticklabels()[0].set_fontweight("bold")
    left.set_ylim(len(titles) - 0.5, -0.5)
    left.axvline(1, color=INK_COLOR, linewidth=0.8)
    left.set_xlim(left=0)
    left.set_xlabel("steady frame, ours = 1 (left is faster)")
    right.set_xscale("log")
    right.set_xlabel("one change of alpha, ms (left is faster)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(len(networks), 4), fontsize=8, frameon=False)
    return encode_figure(figure, kind)
