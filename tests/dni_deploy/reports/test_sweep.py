"""The report of a sweep: where the best point is, what it gains, and what its JSON says."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dni_deploy.reports.sweep import SweepReport, describe_coefficients, draw_sweep_sheet, find_best_point
from tests.dni_deploy.reports.test_sweep_page import sweep_report


def test_gain_is_relative_to_the_better_member() -> None:
    report = sweep_report([28.0, 30.5, 29.0])
    assert (report.best_index, report.best_is_blend) == (1, True)
    assert report.gain_db == pytest.approx(1.5)
    assert report.format_finding() == (
        "The best is a blend, 30.50 dB at N20 0.5, N60 0.5, 1.50 dB above the better member alone."
    )


@pytest.mark.parametrize(
    ("psnrs", "finding", "gain"),
    [
        ([31.0, 30.0], "The best is an end of the sweep, 31.00 dB at N20 0, N60 1; no blend on this grid is better.", 0.0),
        ([29.0, math.inf, 29.0], "The best is a blend, identical at N20 0.5, N60 0.5.", None),
        ([None, None], "Without a reference there is no best alpha.", None),
    ],
)
def test_finding_names_the_best_point(psnrs: list[float | None], finding: str, gain: float | None) -> None:
    report = sweep_report(psnrs)
    assert (report.format_finding(), report.gain_db) == (finding, gain)
    json.dumps(report.to_json(), allow_nan=False)


def test_times_leave_out_the_first_point() -> None:
    points = sweep_report([1.0, 2.0, 3.0]).points
    slow = SweepReport(("a", "b"), "none", (type(points[0])((1.0, 0.0), None, None, 9.0, 9.0), *points[1:]), None, ())
    assert (slow.change_seconds, slow.frame_seconds) == (0.001, 0.02)


def test_json_names_a_point_by_its_members() -> None:
    first, _, last = sweep_report([28.0, 30.5, 29.0]).to_json()["rows"]
    assert first == {
        "alpha": {"N20": 0.0, "N60": 1.0}, "psnr": 28.0, "identical": False, "pixels_psnr": 28.0, "change_ms": 1.0, "frame_ms": 20.0,
    }  # fmt: skip
    assert last["alpha"] == {"N20": 1.0, "N60": 0.0}
    assert "psnr" not in sweep_report([None, None]).to_json()["rows"][0]


def test_only_members_with_nonzero_coefficients_are_named() -> None:
    assert describe_coefficients(("a", "b", "c"), (0.25, 0.0, 0.75)) == "a 0.25, c 0.75"
    assert describe_coefficients(("a", "b"), (1.0, 0.0)) == "a 1, b 0"
    assert find_best_point(sweep_report([1.0, 3.0, 3.0]).points) == 1  # of equal values the first


def test_the_sheet_has_a_cell_for_each_point() -> None:
    report = sweep_report([28.0, 30.5, 29.0])
    frames = [np.full((40, 40, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = draw_sweep_sheet(frames, report, "title")
    assert all((sheet == value).all(axis=2).sum() >= 40 * 40 for value in (10, 20, 30))
