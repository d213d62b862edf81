"""Plots of a search, metrics against alpha and against each other, and of a slider, by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dni_deploy.errors import escape_name
from dni_deploy.imaging.metrics.registry import Metric
from dni_deploy.reports.plot import INK_COLOR, MAIN_COLOR, SECOND_COLOR, encode_figure
from dni_deploy.tuning.report import TuneReport

MUTED_COLOR = "#9aa3ab"
PANEL_WIDTH, PANEL_HEIGHT = 5.4, 4.4
"""Of a panel, in inches."""
PHONE_SCALE = 0.8
"""Of a panel on a page, so that its labels can be read where the page is 390 pixels wide."""


def plot_tuning(report: TuneReport, kind: str) -> bytes:
    """Plots a panel for each metric, and with several metrics one of the first against the second.

    Two members: a curve over alpha. Three: a map of the triangle. More: the best so far, evaluation by evaluation.

    Args:
        report: The search.
        kind: "png", "svg" or "pdf".

    Returns:
        The file. The same report gives the same bytes.
    """
    panels = _count_panels(report)
    figure = Figure(
        figsize=(PANEL_WIDTH * panels + (0.6 if len(report.members) == 3 else 0), PANEL_HEIGHT), layout="constrained"
    )
    for panel, axes in enumerate(figure.subplots(1, panels, squeeze=False)[0]):
        _draw_panel(figure, axes, report, panel)
    return encode_figure(figure, kind)


def plot_tuning_panels(report: TuneReport) -> list[bytes]:
    """Plots what `plot_tuning` does as one SVG for each panel, for a page that has room for one beside another or not."""
    drawn = []
    for panel in range(_count_panels(report)):
        figure = Figure(figsize=(PHONE_SCALE * PANEL_WIDTH, PHONE_SCALE * PANEL_HEIGHT), layout="constrained")
        _draw_panel(figure, figure.subplots(), report, panel)
        drawn.append(encode_figure(figure, "svg"))
    return drawn


def _count_panels(report: TuneReport) -> int:
    return len(report.scores) + (len(report.scores) > 1)


def _draw_panel(figure: Figure, axes: Any, report: TuneReport, panel: int) -> None:
    if panel == len(report.scores):
        _draw_pareto_front(axes, report)
        return
    draw = {2: _draw_curve, 3: _draw_triangle}.get(len(report.members), _draw_progress)
    draw(figure, axes, report, panel)


def _format_alpha_label(members: Sequence[str]) -> str:
    first, second = (escape_name(name, 30) for name in members)
    return f"alpha (share of {first}; the rest is {second})"


def _format_axis_label(score: Metric) -> str:
    return (
        escape_name(score.name, 40)
        + (f" ({score.unit})" if score.unit else "")
        + ("" if score.higher_is_better else ", lower is better")
    )


def _draw_curve(figure: Figure, axes: Any, report: TuneReport, metric_index: int) -> None:
    score = report.scores[metric_index]
    points = sorted(
        (row.coefficients[0], row.values[metric_index]) for row in report.evaluations if math.isfinite(row.values[metric_index])
    )
    if points:
        axes.plot(*zip(*points, strict=True), color=SECOND_COLOR, marker="o", markersize=3.5, linewidth=1.2)
    best = report.evaluations[report.best_indices[metric_index]]
    if math.isfinite(best.values[metric_index]):
        _mark_point(
            axes,
            best.coefficients[0],
            best.values[metric_index],
            f"{score.format_value(best.values[metric_index])} at {best.coefficients[0]:g}",
            is_lowest=not score.higher_is_better,
        )
    axes.set(xlabel=_format_alpha_label(report.members), ylabel=_format_axis_label(score))
    axes.margins(y=0.15)
    axes.grid(alpha=0.3)


def _draw_triangle(figure: Figure, axes: Any, report: TuneReport, metric_index: int) -> None:
    """Draws a map in which the corners are the members and every coefficient is a height; it is interpolated between points."""
    score = report.scores[metric_index]
    corners = np.array([[0.5, math.sqrt(0.75)], [0.0, 0.0], [1.0, 0.0]])
    finite = [row for row in report.evaluations if math.isfinite(row.values[metric_index])]
    places = np.array([row.coefficients for row in finite]) @ corners
    values = np.array([row.values[metric_index] for row in finite])
    if np.ptp(values) > 0:
        filled = axes.tricontourf(
            places[:, 0], places[:, 1], values, levels=24, cmap="viridis" if score.higher_is_better else "viridis_r"
        )
        figure.colorbar(filled, ax=axes, label=_format_axis_label(score), shrink=0.85)
    axes.plot(places[:, 0], places[:, 1], "o", color="white", markeredgecolor=INK_COLOR, markersize=3.5, markeredgewidth=0.6)
    best = report.evaluations[report.best_indices[metric_index]]
    x, y = np.array(best.coefficients) @ corners
    _mark_point(axes, float(x), float(y), score.format_value(best.values[metric_index]))
    for (x, y), name, side in zip(corners, report.members, ("bottom", "top", "top"), strict=True):
        axes.annotate(
            escape_name(name, 30),
            (x, y),
            textcoords="offset points",
            xytext=(0, 6 if side == "bottom" else -6),
            ha="center",
            va=side,
        )
    axes.set_aspect("equal")
    axes.margins(0.1)
    axes.set_axis_off()


def _draw_progress(figure: Figure, axes: Any, report: TuneReport, metric_index: int) -> None:
    score = report.scores[metric_index]
    values = [row.values[metric_index] for row in report.evaluations]
    best = list(np.maximum.accumulate([score.to_utility(value) for value in values]))
    numbers = range(1, len(values) + 1)
    axes.plot(numbers, values, "o", color=SECOND_COLOR, markersize=3.5, label="evaluated")
    axes.plot(numbers, [score.to_utility(value) for value in best], color=MAIN_COLOR, label="best so far")
    axes.set(xlabel="evaluation", ylabel=_format_axis_label(score))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _draw_pareto_front(axes: Any, report: TuneReport) -> None:
    first, second = report.scores[:2]
    pairs = [row.values[:2] for row in report.evaluations]
    axes.plot([pair[0] for pair in pairs], [pair[1] for pair in pairs], "o", color=MUTED_COLOR, markersize=3, label="evaluated")
    line = [pairs[index] for index in report.front if all(map(math.isfinite, pairs[index]))]
    if line:
        axes.plot(*zip(*line, strict=True), color=SECOND_COLOR, marker="o", markersize=4.5, linewidth=1.2, label="front")
    if all(map(math.isfinite, pairs[report.chosen_index])):
        _mark_point(axes, pairs[report.chosen_index][0], pairs[report.chosen_index][1], "knee")
    axes.set(xlabel=_format_axis_label(first), ylabel=_format_axis_label(second))
    axes.margins(0.12)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _mark_point(axes: Any, x: float, y: float, text: str, *, is_lowest: bool = False) -> None:
    """Marks a point and labels it above, or below where it is the lowest of a curve."""
    axes.plot([x], [y], "o", color=MAIN_COLOR, markersize=8, markeredgecolor="white")
    axes.annotate(
        text, (x, y), textcoords="offset points", xytext=(0, -9 if is_lowest else 9), ha="center",
        va="top" if is_lowest else "bottom", color=MAIN_COLOR,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
    )  # fmt: skip


def plot_slider(
    slider_points: Sequence[tuple[float, float]],
    alpha_distances: Sequence[float],
    slider_distances: Sequence[float],
    members: Sequence[str],
    kind: str,
) -> bytes:
    """Plots a slider at the left, and at the right how far the image moves in each of its steps and of equal steps of alpha.

    Args:
        slider_points: Position and alpha of each point.
        alpha_distances: Mean CIEDE2000 of each equal step of alpha.
        slider_distances: Mean CIEDE2000 of each equal step of the slider, as many.
        members: Both names.
        kind: "png", "svg" or "pdf".

    Returns:
        The file. The same numbers give the same bytes.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*zip(*slider_points, strict=True), color=MAIN_COLOR, marker="o", markersize=3)
    left.plot([0, 1], [0, 1], color="#6b7280", linestyle=":")
    left.set(xlabel="position of the slider", ylabel=_format_alpha_label(members))
    edges = np.linspace(0, 1, len(alpha_distances) + 1)
    right.stairs(alpha_distances, edges, fill=True, color=MUTED_COLOR, label="in equal steps of alpha")
    right.stairs(slider_distances, edges, color=MAIN_COLOR, linewidth=2, label="in equal steps of the slider")
    right.set(xlabel="alpha, or position of the slider", ylabel="change per step (mean CIEDE2000)")
    right.set_ylim(bottom=0)
    figure.legend(loc="outside lower right", ncols=2, fontsize=9, frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return encode_figure(figure, kind)
