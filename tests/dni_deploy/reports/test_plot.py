"""Plots have the requested file type and the same bytes every time; infinite values are omitted."""

from __future__ import annotations

import math

import pytest

from dni_deploy.errors import UsageError
from dni_deploy.reports.sweep import SweepPoint, SweepReport
from tests.dni_deploy.reports.test_sweep_page import sweep_report

pytest.importorskip("matplotlib", reason="plots need the extra `report`")
from matplotlib.figure import Figure

from dni_deploy.reports.plot import SERIES_STYLES, _label_best, _label_levels, check_plot_name, plot_bench, plot_sweep

STARTS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("kind", STARTS)
def test_the_same_sweep_gives_the_same_bytes(kind: str) -> None:
    report = sweep_report([28.0, math.inf, 29.0])
    data = plot_sweep(report, "title", {"N40": 28.5, "none": math.inf}, kind)
    assert data.startswith(STARTS[kind])
    assert plot_sweep(report, "title", {"N40": 28.5, "none": math.inf}, kind) == data


@pytest.mark.parametrize(("level", "side"), [(28.6, "top"), (29.9, "bottom"), (28.0, "bottom")])
def test_the_best_point_is_labeled_beside_the_lines(level: float, side: str) -> None:
    axes = Figure().subplots()
    curve = [(0.0, 26.0), (0.3, 28.4), (1.0, 23.0)]
    axes.set_ylim(22.5, 30.5)
    _label_best(axes, curve, [0.0, 0.3, 1.0], [level])
    assert axes.texts[0].get_va() == side  # the label is on the other side of the point


def test_a_line_is_labeled_where_the_curve_is_far() -> None:
    axes = Figure().subplots()
    _label_levels(axes, {"N40": 28.6, "N0": 23.0}, [(0.0, 26.0), (1.0, 23.5)])
    assert [(label.get_text(), label.get_ha()) for label in axes.texts] == [
        ("N40: 28.60 dB", "right"),
        ("N0: 23.00 dB", "left"),
    ]


def test_series_can_be_told_apart_without_color() -> None:
    assert len({marker for _, marker in SERIES_STYLES}) == len(SERIES_STYLES)


def test_with_many_members_the_plot_axis_is_the_path() -> None:
    corners = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    points = tuple(SweepPoint(coefficients, 30.0, None, 0.001, 0.02) for coefficients in corners)
    assert plot_sweep(SweepReport(("a", "b", "c"), "none", points, 0, ()), "t", None, "svg").startswith(STARTS["svg"])


def test_a_bench_row_that_one_network_lacks_is_not_plotted() -> None:
    row: dict[str, object] = {"name": "ours", "steady_ms": 2.0, "change_ms": 1.0}
    row["title"] = "ours: a way that is said in so many words that they do not fit on one line"
    networks = {"one": [row, {"name": "rebuild", "steady_ms": 3.0, "change_ms": None}], "two": [row]}
    assert plot_bench(networks, "svg") == plot_bench(networks, "svg")


def test_a_plot_has_the_suffix_of_its_kind() -> None:
    check_plot_name("a.PDF")
    with pytest.raises(UsageError, match=r"A plot is written as \.png, \.svg, \.pdf; got a\.jpg"):
        check_plot_name("a.jpg")
