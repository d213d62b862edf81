"""The page of a check: the verdict and what to do, each pair with images and layers, and every figure as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dni_deploy.compatibility.correlation import MAX_UNRELATED_INDEX, MIN_BLENDING_INDEX, REPORTED_PERCENTILES, LayerCorrelation
from dni_deploy.compatibility.report import CheckReport, PairReport, PathReport
from dni_deploy.compatibility.trial import PairContactSheet
from dni_deploy.imaging.frame_encoding import encode_data_uri
from dni_deploy.reports.page import render_page

MAX_IMAGE_SIDE_PX = 256
"""Longest side in pixels of an image on the page."""

MAX_OPEN_LAYERS = 40
"""Up to this many layers the chart of a pair is unfolded."""

CSS_CLASS_BY_VERDICT = {
    "blends well": "good",
    "blends with caveats": "caution",
    "not known": "unknown",
    "will not blend": "bad",
}
LOSS_TITLES = {
    "images": "test images",
    "first, dB": "PSNR of the first member, dB",
    "halfway": "halfway, dB",
    "second": "second member, dB",
    "calibrated": "halfway with its output calibrated on the other test images, dB",
    "pixel blending": "pixel blending, dB",
    "loss": "loss halfway against the worse end, dB",
}
ARROW = " \N{RIGHTWARDS ARROW} "


def render_check_page(report: CheckReport, contact_sheets: Sequence[PairContactSheet]) -> str:
    """Renders the page.

    Args:
        report: The check.
        contact_sheets: The outputs of its pairs, pair by pair.

    Returns:
        The HTML text.
    """
    names = ", ".join(report.members)
    values = {
        "title": f"{names}: {report.verdict}",
        "command": "check",
        "members": names,
        "verdict": report.verdict,
        "verdict_class": CSS_CLASS_BY_VERDICT[report.verdict],
        "has_several_pairs": len(report.pairs) > 1,
        "obstacle": report.obstacle,
        "reasons": [sentence for sentence in report.reasons if sentence != report.obstacle],
        "has_advice": bool(report.advice),
        "advice": report.advice,
        "has_notes": bool(report.notes),
        "notes": report.notes,
        "has_losses": any(pair.loss for pair in report.pairs),
        "path": _make_path(report.path),
        "matrix": _make_matrix(report),
        "pairs": [_make_pair(report, pair, contact_sheets) for pair in report.pairs],
        "tables": [table for table in _make_tables(report) if table["rows"]],
        "footnote": f"The two colored lines across the bar of a layer: {MAX_UNRELATED_INDEX}, below which unrelated networks lie, and "
        f"{MIN_BLENDING_INDEX}, above which families that blend lie (Deep Network Interpolation, CVPR 2019). The thick line is the "
        "layer's median, the dark bar the middle half of its filters, the light one 5 to 95 %.",
    }
    return render_page("dni_deploy.compatibility", "page", values)


def _make_matrix(report: CheckReport) -> dict[str, Any] | None:
    """The network distances; of two members, the pair's own figures say it."""
    if len(report.compared) < 3:
        return None
    return {
        "names": report.compared,
        "rows": [
            {"name": name, "distances": [f"{distance:.3f}" for distance in row]}
            for name, row in zip(report.compared, report.distances, strict=True)
        ],
    }


def _make_path(path: PathReport | None) -> dict[str, Any] | None:
    if path is None:
        return None
    return {
        "path_members": ARROW.join(path.members),
        "weak_link": path.weak_link,
        "weak_verdict": path.verdict,
        "weak_class": CSS_CLASS_BY_VERDICT[path.verdict],
    }


def _make_pair(report: CheckReport, pair: PairReport, contact_sheets: Sequence[PairContactSheet]) -> dict[str, Any]:
    figures = {"correlation index, median": pair.median, "network distance": pair.distance}
    loss = pair.loss.format_figures() if pair.loss else {}
    errors = {row.test_image: row.error for row in report.midpoints if row.pair == pair.pair}
    first, _, second = pair.pair.partition(" - ")
    sheets = []
    for sheet in contact_sheets:
        if sheet.pair == pair.pair:
            images = [encode_data_uri(frame, MAX_IMAGE_SIDE_PX) for frame in sheet.frames]
            sheets.append(
                {
                    **dict(zip(("first_image", "middle_image", "mean_image", "second_image"), images, strict=True)),
                    "test_image": sheet.test_image,
                    "error": f"{errors[sheet.test_image]:.3f}",
                    "first": first,
                    "second": second,
                }
            )
    return {
        "pair": pair.pair,
        "verdict": pair.verdict,
        "verdict_class": CSS_CLASS_BY_VERDICT[pair.verdict],
        "causes": ", ".join(pair.causes) or "-",
        "index": _format_figure(pair.median),
        "distance": _format_figure(pair.distance),
        "loss_halfway": loss.get("loss", "-"),
        "loss_pixel_blend": f"{pair.loss.pixel_blend_loss:+.2f}" if pair.loss else "-",
        "pair_reasons": pair.reasons,
        "figures": [
            *({"name": name, "value": _format_figure(value)} for name, value in figures.items() if value is not None),
            *({"name": LOSS_TITLES[name], "value": value} for name, value in loss.items()),
        ],
        "sheets": sheets,
        "chart": _make_layer_chart([row for row in report.layers if row.pair == pair.pair]),
    }


def _format_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _make_layer_chart(layers: Sequence[LayerCorrelation]) -> dict[str, Any] | None:
    """5 to 95 %, the middle half and the median of each layer, and the paper's bounds; None where there are no filters."""
    rows = [row for row in layers if row.quantiles]
    if not rows:
        return None
    low = -1.0 if min(row.quantiles[0] for row in rows) < 0 else 0.0

    def to_percent(value: float) -> float:
        return 100 * (min(max(value, low), 1.0) - low) / (1 - low)

    bars = []
    for row in rows:
        left, quarter, median, three_quarters, right = map(to_percent, row.quantiles)
        bars.append(
            {
                "layer": row.layer,
                "outer_left": f"{left:.2f}",
                "outer_width": f"{right - left:.2f}",
                "inner_left": f"{quarter:.2f}",
                "inner_width": f"{three_quarters - quarter:.2f}",
                "median_left": f"{median:.2f}",
                "median": _format_figure(row.median),
                "is_low": row.has_low_median,
            }
        )
    bounds = (MAX_UNRELATED_INDEX, MIN_BLENDING_INDEX)  # on a line of their own, where they keep clear of the axis' ends
    return {
        "is_open": len(layers) <= MAX_OPEN_LAYERS,
        "layers": bars,
        "bounds": [f"{to_percent(bound):.2f}" for bound in bounds],
        "marks": [
            {"left": f"{to_percent(mark):.2f}", "value": f"{mark:g}", "is_lower": mark in bounds}
            for mark in (low, *bounds, 1.0)
        ],
    }


def _make_tables(report: CheckReport) -> Iterator[dict[str, Any]]:
    def make_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> dict[str, Any]:
        return {"title": title, "headers": headers, "rows": [{"cells": row} for row in rows]}

    percentiles = [f"{percentile} %" for percentile in REPORTED_PERCENTILES]
    yield make_table(
        "Correlation index",
        ("pair", "layer", "shape", "filters", "left out", *percentiles, "sign-flipped", "scale", "aligned"),
        [
            (
                row.pair, row.layer, "x".join(map(str, row.shape)), row.filters, row.constant,
                *([f"{value:.3f}" for value in row.quantiles] or ["-"] * len(percentiles)),
                row.flipped, f"{row.scale:.2f}", _format_figure(row.aligned_median),
            )
            for row in report.layers
        ],
    )  # fmt: skip
    yield make_table(
        "Halfway",
        ("pair", "test image", "finite", "error", "departure", "brightness", "contrast"),
        [
            (
                row.pair, row.test_image, "yes" if row.finite else "no", f"{row.error:.3f}", f"{row.departure:.3f}",
                f"{row.brightness:+.3f}", f"{row.contrast:.3f}",
            )
            for row in report.midpoints
        ],
    )  # fmt: skip
    yield make_table(
        "Loss barrier",
        (
            "pair", "test image", "first", "halfway", "second", "pixel blending", "barrier", "dB", "beyond the worse end, dB",
            "pixel blending beyond it, dB",
        ),
        [
            (
                row.pair, row.test_image, f"{row.first:.2e}", f"{row.middle:.2e}", f"{row.second:.2e}", f"{row.pixel_blend:.2e}",
                f"{row.barrier:+.2e}", f"{row.decibels:+.2f}", f"{row.beyond:+.2f}", f"{row.pixel_blend_beyond:+.2f}",
            )
            for row in report.barriers
        ],
    )  # fmt: skip
    yield make_table(
        "BatchNorm halfway",
        ("pair", "layer", "measured variance / blended", "mean, in standard deviations"),
        [(row.pair, row.layer, f"{row.variance:.3f}", f"{row.mean:.3f}") for row in report.norms],
    )
    yield make_table(
        "BatchNorm between the members",
        ("pair", "layer", "shift of the mean, in standard deviations", "variance ratio"),
        [(row.pair, row.layer, f"{row.mean:.3f}", f"{row.variance:.3f}") for row in report.drifts],
    )
    yield make_table(
        "Members of another network",
        ("member", "tensor", "difference", "of the first", "of this one"),
        [
            (row.member, difference.key, difference.kind, difference.expected, difference.got)
            for row in report.mismatches
            for difference in row.differences
        ],
    )
