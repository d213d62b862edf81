"""The page of a sweep: a slider over its outputs, with the PSNR of each where there is a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dni_deploy.imaging.frame_encoding import encode_data_uri
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.metrics.psnr import format_db
from dni_deploy.reports.page import render_page
from dni_deploy.reports.sweep import SweepReport, describe_coefficients

MAX_LOSSLESS_PIXELS = 8_000_000
"""Up to this many pixels in all, the images are written without loss; beyond, as JPEG of quality 95."""

MAX_IMAGE_SIDE_PX = 1600
"""Longest side in pixels of an image on the page."""

CHART_WIDTH, CHART_HEIGHT = 440, 250
CHART_LEFT, CHART_RIGHT, CHART_TOP, CHART_BOTTOM = 48, 428, 16, 214
"""The edges of the chart's plot area, in the chart's own units."""


def render_sweep_page(
    frames: Sequence[Frame],
    report: SweepReport,
    input_frame: Frame,
    title: str,
    reference_psnrs: Mapping[str, float] | None = None,
    reference_frame: Frame | None = None,
) -> str:
    """Renders the page; the slider starts at the best alpha, or in the middle without a reference.

    Two members can be compared with a blend of the pixels of the two ends.

    Args:
        frames: The output at each point of the report, uint8 (H, W, 3), at least two.
        report: The sweep.
        input_frame: What went into the network, uint8 (h, w, 3).
        title: The heading.
        reference_psnrs: PSNR in dB by name, drawn as horizontal lines.
        reference_frame: What the outputs are compared with, uint8, of their size.

    Returns:
        The HTML text.
    """
    members, points, count = report.members, report.points, len(report.points)
    has_two_members = len(members) == 2
    start = count // 2 if report.best_index is None else report.best_index
    height, width = frames[0].shape[:2]
    is_lossless = max(height, width) <= MAX_IMAGE_SIDE_PX and height * width * count <= MAX_LOSSLESS_PIXELS
    images = [encode_data_uri(frame, MAX_IMAGE_SIDE_PX, lossless=is_lossless) for frame in frames]
    chart = _PsnrChart(report, reference_psnrs or {})
    rows = [
        {
            "alpha": (f"alpha {point.coefficients[0]:.4g}: " if has_two_members else "")
            + describe_coefficients(members, point.coefficients),
            "network": _format_method("blended weights", point.psnr),
            "pixels": _format_method("blended pixels", point.pixel_blend_psnr),
            "position": index / (count - 1),
            "x": chart.x_of_index(index),
            "network_y": chart.y_of_psnr(point.psnr),
            "pixels_y": chart.y_of_psnr(point.psnr if point.pixel_blend_psnr is None else point.pixel_blend_psnr),
        }
        for index, point in enumerate(points)
    ]
    introduction = (
        f"Move the slider: {count} settings of alpha, each computed by one {report.engine} engine whose weights were changed "
        "in place. It was never rebuilt. "
    )
    values = {
        "title": title,
        "command": "sweep",
        "introduction": introduction + (report.format_finding() if report.best_index is not None else ""),
        "max_width": max(width, 640),
        "frames": [
            {"alpha": row["alpha"], "image": image, "is_start": index == start}
            for index, (row, image) in enumerate(zip(rows, images, strict=True))
        ],
        "last_frame": images[-1] if has_two_members else None,
        "reference_frame": (
            None if reference_frame is None else encode_data_uri(reference_frame, MAX_IMAGE_SIDE_PX, lossless=is_lossless)
        ),
        "has_views": has_two_members or reference_frame is not None,
        "input_frame": encode_data_uri(input_frame, MAX_IMAGE_SIDE_PX, lossless=is_lossless),
        "start": start,
        "last_index": count - 1,
        "left_label": f"all {members[1 if has_two_members else 0]}",
        "right_label": f"all {members[0 if has_two_members else -1]}",
        "start_alpha": rows[start]["alpha"],
        "start_status": rows[start]["network"],
        "chart": chart.to_values(start),
        "measured": [
            {"name": "one change of alpha", "value": f"{report.change_seconds * 1e3:.2f} ms (median)"},
            {"name": "one frame", "value": f"{_format_seconds(report.frame_seconds)} (median), {width} x {height} pixels"},
            {"name": "engine", "value": report.engine},
        ],
        "table": _make_table(report, [str(row["alpha"]) for row in rows]),
        "footnote": f"The images are kept {'without loss' if is_lossless else 'as JPEG of quality 95'}.",
    }
    return render_page("dni_deploy.reports", "sweep_page", values, {"start": start, "rows": rows})


def _format_seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _format_method(name: str, psnr: float | None) -> str:
    return name if psnr is None else f"{name}: {format_db(psnr)}"


def _make_table(report: SweepReport, alphas: Sequence[str]) -> dict[str, Any] | None:
    if report.best_index is None:
        return None
    has_pixels = report.points[0].pixel_blend_psnr is not None
    if len(report.members) == 2:  # one number says both shares, and the table fits on a phone
        alphas = [f"{point.coefficients[0]:.4g}" for point in report.points]
    return {
        "columns": [
            f"alpha ({report.members[0]})" if len(report.members) == 2 else "alpha",
            "blended weights",
            *["blended pixels"] * has_pixels,
        ],
        "rows": [
            {
                "is_best": index == report.best_index,
                "cells": [alpha, *(format_db(psnr) for psnr in (point.psnr, point.pixel_blend_psnr) if psnr is not None)],
            }
            for index, (alpha, point) in enumerate(zip(alphas, report.points, strict=True))
        ],
    }


class _PsnrChart:
    """PSNR over the slider's positions."""

    def __init__(self, report: SweepReport, reference_psnrs: Mapping[str, float]) -> None:
        self._report = report
        self._curves = {
            "pixel-curve": [point.pixel_blend_psnr for point in report.points],
            "curve": [point.psnr for point in report.points],
        }
        self._levels = {name: psnr for name, psnr in reference_psnrs.items() if math.isfinite(psnr)}
        drawn = [
            psnr
            for psnr in (*self._curves["curve"], *self._curves["pixel-curve"], *self._levels.values())
            if psnr is not None and math.isfinite(psnr)
        ]
        low, high = (min(drawn), max(drawn)) if drawn else (0.0, 1.0)
        margin = max(0.05 * (high - low), 0.05)
        self._axis_min, self._axis_max = low - margin, high + margin

    def x_of_index(self, index: int) -> float:
        return round(CHART_LEFT + (CHART_RIGHT - CHART_LEFT) * index / (len(self._report.points) - 1), 1)

    def y_of_psnr(self, psnr: float | None) -> float:
        """The height of a value; one that is infinite or absent is at the top."""
        if psnr is None or not math.isfinite(psnr):
            return CHART_TOP
        fraction = (self._axis_max - psnr) / (self._axis_max - self._axis_min)
        return round(CHART_TOP + (CHART_BOTTOM - CHART_TOP) * fraction, 1)

    def to_values(self, start: int) -> dict[str, Any] | None:
        """What the template draws; None where no point has a finite PSNR."""
        points = {name: self._list_points(psnrs) for name, psnrs in self._curves.items()}
        if not points["curve"]:
            return None
        step = _choose_grid_step(self._axis_max - self._axis_min)
        grid = range(math.ceil(self._axis_min / step), math.floor(self._axis_max / step) + 1)
        best_index = self._report.best_index or 0
        return {
            "description": f"PSNR over the sweep, best at position {best_index + 1} of {len(self._report.points)}",
            "width": CHART_WIDTH,
            "height": CHART_HEIGHT,
            "left": CHART_LEFT,
            "right": CHART_RIGHT,
            "ticks": [{"y": self.y_of_psnr(number * step), "value": f"{number * step:g}"} for number in grid],
            "levels": [
                {"y": self.y_of_psnr(psnr), "name": name, "value": format_db(psnr)} for name, psnr in self._levels.items()
            ],
            "curves": [{"css_class": name, "points": " ".join(pairs)} for name, pairs in points.items() if len(pairs) > 1],
            "has_pixel_curve": bool(points["pixel-curve"]),
            "marker_x": self.x_of_index(start),
            "marker_y": self.y_of_psnr(self._report.points[start].psnr),
        }

    def _list_points(self, psnrs: Sequence[float | None]) -> list[str]:
        return [
            f"{self.x_of_index(index)},{self.y_of_psnr(psnr)}"
            for index, psnr in enumerate(psnrs)
            if psnr is not None and math.isfinite(psnr)
        ]


def _choose_grid_step(span: float) -> float:
    """Returns 1, 2 or 5 times a power of ten, so that about five lines fit."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next((factor * power for factor in (1, 2, 5) if span / (factor * power) <= 6), 10 * power)
