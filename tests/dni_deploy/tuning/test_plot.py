"""Plots of a search and of a slider work for any number of members, and have the same bytes every time."""

from __future__ import annotations

import pytest

from dni_deploy.tuning.report import Evaluation
from tests.dni_deploy.tuning.test_report import PSNR, tune_report

pytest.importorskip("matplotlib", reason="plots need the extra `report`")
from dni_deploy.tuning.plot import plot_slider, plot_tuning


@pytest.mark.parametrize("members", [2, 3, 4])
def test_the_same_search_gives_the_same_bytes(members: int) -> None:
    corners = [tuple(float(place == index) for place in range(members)) for index in range(members)]
    middle = (1 / members,) * members
    evaluations = tuple(Evaluation(point, (28.0 + index,)) for index, point in enumerate([*corners, middle]))
    report = tune_report(
        members=tuple("abcd"[:members]), scores=(PSNR,), evaluations=evaluations, best_indices=(members,), front=(),
        chosen_index=members,
    )  # fmt: skip
    data = plot_tuning(report, "svg")
    assert data.startswith(b"<?xml")
    assert plot_tuning(report, "svg") == data


def test_two_metrics_add_the_front() -> None:
    assert plot_tuning(tune_report(), "png") != plot_tuning(tune_report(scores=tune_report().scores[:1]), "png")


def test_a_slider_is_plotted_with_its_steps() -> None:
    points = [(0.0, 0.0), (0.5, 0.2), (1.0, 1.0)]
    data = plot_slider(points, [1.0, 3.0], [2.0, 2.0], ("a", "b"), "pdf")
    assert data.startswith(b"%PDF")
    assert plot_slider(points, [1.0, 3.0], [2.0, 2.0], ("a", "b"), "pdf") == data
