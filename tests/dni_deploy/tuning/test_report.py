"""The report of a search: the best by each metric, the compromise, and the command to run next."""

from __future__ import annotations

import json
import math
import shlex
from typing import Any

import pytest

from dni_deploy.imaging.metrics.registry import find_metric
from dni_deploy.tuning.report import Evaluation, TuneReport, sort_front

PSNR = find_metric("psnr")
CIEDE = find_metric("ciede2000")


def tune_report(**options: Any) -> TuneReport:
    """Two members, five alphas; PSNR is best at 0.75 and the color difference at 0.25."""
    values = [(27.0, 9.0), (28.0, 2.0), (29.0, 3.0), (30.0, 4.0), (26.0, 8.0)]
    evaluations = tuple(Evaluation((index / 4, 1 - index / 4), row) for index, row in enumerate(values))
    settings: dict[str, Any] = {
        "bundle": "my sr.dni", "members": ("a", "b"), "engine": "none", "engine_reason": "", "scores": (PSNR, CIEDE),
        "evaluations": evaluations, "best_indices": (3, 1), "front": (3, 2, 1), "chosen_index": 2, "image_count": 1,
        "change_seconds": 0.001, "frame_seconds": 0.02, "seconds": 1.0,
    }  # fmt: skip
    return TuneReport(**{**settings, **options})


def test_gains_are_relative_to_the_better_member_for_each_metric() -> None:
    report = tune_report()
    assert report.single_member_indices == (4, 0)
    assert (report.find_best_member(0), report.find_best_member(1)) == (0, 4)
    assert (report.compute_gain(0), report.compute_gain(1)) == (pytest.approx(3.0), pytest.approx(6.0))
    best_psnr, best_color, compromise = report.format_finding()
    assert best_psnr == "Best by psnr: 30.00 dB at a 0.75, b 0.25, 3.00 dB better than the better member alone."
    assert best_color.startswith("Best by ciede2000")
    assert compromise.startswith("Of 3 blends on the front, a 0.5, b 0.5 is the best compromise: psnr 29.00 dB")
    assert tune_report(front=(1,), chosen_index=1).format_finding()[2].startswith("One blend is the best by every metric, ")


def test_the_best_point_may_be_a_member() -> None:
    report = tune_report(scores=(PSNR,), best_indices=(0,), front=(), chosen_index=0)
    assert report.format_finding() == ("Best by psnr: 27.00 dB at a 0, b 1; no blend is better than that member alone.",)
    assert report.compute_gain(0) == 0.0


def test_the_next_command_is_quoted_for_a_shell() -> None:
    assert shlex.split(tune_report().format_next_command())[2:] == [
        "my sr.dni",
        "in.png",
        "-o",
        "out.png",
        "--alpha",
        "a=0.5,b=0.5",
    ]


def test_json_has_no_infinity() -> None:
    endless = tuple(Evaluation((float(index), 1.0 - index), (math.inf, 0.0)) for index in range(2))
    report = tune_report(evaluations=endless, best_indices=(0, 0), front=(0,), chosen_index=0)
    fields = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert fields["evaluations"][0] == {"alpha": {"a": 0.0, "b": 1.0}, "psnr": None, "ciede2000": 0.0}
    assert fields["members_alone"]["a"] == {"psnr": None, "ciede2000": 0.0}


def test_the_front_is_sorted_by_the_first_metric() -> None:
    assert sort_front(tune_report().evaluations, (1, 2, 3), PSNR) == (3, 2, 1)
