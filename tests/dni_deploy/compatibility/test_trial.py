"""Members and pairs are run on the test images, and networks that restore images on noise as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from dni_deploy.api.check import check
from dni_deploy.compatibility.probes import SampleInput
from dni_deploy.compatibility.trial import measure_pairs
from dni_deploy.signature import Signature

pytest.importorskip("torch")
from tests.support.pico_architectures import pico_family


def test_a_restoration_network_is_also_run_on_noise() -> None:
    """With a hundredth of its last layer the pico DnCNN nearly returns its input: noise stays, so all blends err alike."""
    family = pico_family("dncnn", 2)
    for state in family:
        state["model.6.weight"], state["model.6.bias"] = state["model.6.weight"] / 100, state["model.6.bias"] / 100
    report = check(dict(zip("ab", family, strict=True)))
    names = [f"{name}, noise {sigma}" for sigma in (10, 30, 60) for name in ("astronaut", "chelsea")]
    assert [row.test_image for row in report.barriers] == names
    # Clipped noise of sigma 10 of 255: a mean squared error of (10 / 255)^2, reduced by clipping, here by at most a fifth.
    assert report.barriers[0].first == pytest.approx((10 / 255) ** 2, rel=0.2)
    assert report.barriers[0].input == pytest.approx(report.barriers[0].first, rel=0.05)
    assert all(abs(row.decibels) < 0.5 for row in report.barriers)
    assert check(dict(zip("ab", pico_family("cyclegan", 2), strict=True))).barriers == ()


class ScalingRunner:
    """The output is the input times the blend of the members' factors; counts how often a blend is set."""

    signature = Signature()
    architecture = "scaling"
    weight_names = ("w",)
    calibration = None

    def __init__(self, **factors: float) -> None:
        self.factors = factors
        self.blends: list[dict[str, float]] = []

    def infer(self, coefficients: dict[str, float], inputs: Sequence[Any]) -> list[Any]:
        self.blends.append(dict(coefficients))
        factor = sum(self.factors[name] * value for name, value in coefficients.items())
        return [np.float32(factor) * x for x in inputs]


def test_each_blend_is_set_once_for_all_test_images() -> None:
    runner: Any = ScalingRunner(a=0.2, b=0.6)
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    samples = [SampleInput(name, x, 0.4 * x) for name in ("one", "two")]
    steps: list[int] = []
    result = measure_pairs(runner, [("a", "b")], samples, lambda finished, total, text: steps.append(finished))
    assert runner.blends == [{"a": 1.0}, {"b": 1.0}, {"a": 0.5, "b": 0.5}]
    assert [row.test_image for row in result.midpoints] == ["one", "two"]
    assert all(row.error < 1e-5 for row in result.midpoints)  # float32 rounding of a linear network
    assert all(row.barrier < 0 for row in result.barriers)
    assert [row.pixel_blend for row in result.barriers] == pytest.approx([0.0, 0.0], abs=1e-12)  # 0.4 x is the reference
    assert [len(sheet.frames) for sheet in result.contact_sheets] == [4, 4]
    assert result.norm_mismatches == []
    assert steps == sorted(steps)
