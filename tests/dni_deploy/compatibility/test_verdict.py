"""The verdict follows the bounds of the paper, and every cause is named with its remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dni_deploy.compatibility.correlation import LayerCorrelation
from dni_deploy.compatibility.midpoint import Barrier, BatchNormMismatch, measure_midpoint
from dni_deploy.compatibility.verdict import PairEvidence, judge_pair

X = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
HOLDS = [measure_midpoint("a - b", X, X, X)]
LEAVES = [measure_midpoint("a - b", X, X + 0.1, X)]


def layer(median: float, **more: Any) -> LayerCorrelation:
    return LayerCorrelation("a - b", "w", (40, 4, 3, 3), 40, 0, (median,) * 5, **more)


def barrier(loss: float, *, gap: float = 0.0, pixel_blend: float = 0.0, **more: Any) -> Barrier:
    """A barrier of `loss` dB against the worse end, which is `gap` dB below the better one."""
    first, middle, second, mean = (1e-3 * 10 ** (0.1 * decibels) for decibels in (-gap, loss, 0.0, pixel_blend))
    return Barrier("a - b", "x", first, middle, second, mean, **more)


@pytest.mark.parametrize(
    ("median", "verdict"),
    [
        (1.0, "blends well"),
        (0.689, "blends well"),
        (0.688, "blends with caveats"),
        (0.1, "blends with caveats"),
        (0.099, "will not blend"),
    ],
)
def test_the_bounds_of_the_paper(median: float, verdict: str) -> None:
    """They decide where no right image is known."""
    judged = judge_pair("a - b", PairEvidence([layer(median)], median, midpoints=HOLDS))
    assert judged.verdict == verdict
    assert judged.reasons
    assert bool(judged.advice) == (verdict != "blends well")


@pytest.mark.parametrize("median", [1.0, 0.5, 0.0])
def test_without_a_midpoint_nothing_is_known(median: float) -> None:
    judged = judge_pair("a - b", PairEvidence([layer(median)], median))
    assert (judged.verdict, judged.loss) == ("not known", None)


@pytest.mark.parametrize("median", [1.0, 0.5, 0.05])
@pytest.mark.parametrize(
    ("loss", "verdict"),
    [(-1.0, "blends well"), (0.99, "blends well"), (1.01, "blends with caveats"), (2.99, "blends with caveats"),
     (3.01, "will not blend")],
)  # fmt: skip
def test_the_measured_loss_outranks_filters_and_image(median: float, loss: float, verdict: str) -> None:
    judged = judge_pair("a - b", PairEvidence([layer(median, scale=9.0)], median, midpoints=LEAVES, barriers=[barrier(loss)]))
    assert judged.verdict == verdict
    assert judged.loss is not None
    assert judged.loss.loss == pytest.approx(loss)
    assert f"{abs(loss):.2f} dB {'below' if loss > 0 else 'above'} that of the worse end" in judged.reasons[0]
    assert bool(judged.advice) == (verdict != "blends well")
    assert ("barrier" in judged.causes) == (verdict != "blends well")


def test_images_are_averaged_and_the_worst_noise_level_counts() -> None:
    rows = [barrier(loss, noise=noise) for noise, losses in ((10, (0.5, 2.5)), (60, (-3.0, -2.0))) for loss in losses]
    judged = judge_pair("a - b", PairEvidence([layer(0.9)], 0.9, midpoints=HOLDS, barriers=rows))
    assert judged.loss is not None
    mean_error = (10**0.05 + 10**0.25) / 2  # of the squared errors, not of their decibels
    assert (judged.loss.noise, judged.loss.loss) == (10, pytest.approx(10 * np.log10(mean_error)))
    assert judged.verdict == "blends with caveats"
    assert "on 2 test images with noise 10 the PSNR halfway is" in judged.reasons[0]


def test_a_member_that_fails_the_task_decides_nothing() -> None:
    """Better than noise is easy: then the filters decide as without a right image."""
    evidence = PairEvidence([layer(0.05)], 0.05, midpoints=HOLDS, barriers=[barrier(-5.0, gap=11.0)])
    judged = judge_pair("a - b", evidence)
    assert (judged.verdict, judged.causes, judged.loss) == ("will not blend", ("apart",), None)
    assert any("what the blend loses is not known" in sentence for sentence in judged.reasons)
    assert judge_pair("a - b", replace(evidence, barriers=[barrier(-5.0, gap=9.0)])).verdict == "blends well"
    for fields, is_known in (({"input": 0.9e-4}, False), ({"input": 1.1e-4}, True), ({"input": 0.9e-3, "noise": 10}, False),
                             ({"input": 1.1e-3, "noise": 10}, True)):  # fmt: skip
        judged = judge_pair("a - b", replace(evidence, barriers=[barrier(0.0, **fields)]))
        assert (judged.loss is not None) == is_known, fields


def test_a_dark_blend_is_advised_to_calibrate_and_pixel_blending_is_compared() -> None:
    dark = [measure_midpoint("a - b", X, 0.8 * X - 0.05, X)]

    def advise(midpoints: Any, **more: Any) -> str:
        evidence = PairEvidence([layer(0.9)], 0.9, midpoints=midpoints, barriers=[barrier(5.0, **more)])
        return " ".join(judge_pair("a - b", evidence).advice)

    assert "--calibrate" in advise(dark)
    assert "--calibrate" not in advise(HOLDS)
    assert "--calibrate" not in advise(dark, pixel_blend=2.0)
    assert "Pixel blending" in advise(HOLDS)
    assert "Pixel blending" not in advise(HOLDS, pixel_blend=2.0)
    gained = advise(HOLDS, calibrated=1e-3)
    assert "from 25.00 to 30.00 dB" in gained
    assert "--calibrate" not in advise(HOLDS, calibrated=3e-3)  # 0.2 dB
    flipped = PairEvidence([layer(0.99, flipped=8)], 0.99, midpoints=dark)
    assert "--calibrate" not in " ".join(judge_pair("a - b", flipped).advice)


def test_the_midpoint_image_outweighs_the_index() -> None:
    x = X

    def verdict(*outputs: Any) -> str:
        return judge_pair("a - b", PairEvidence([layer(0.99)], 0.99, midpoints=[measure_midpoint("a - b", *outputs)])).verdict

    assert verdict(x, x, x) == "blends well"
    assert verdict(x, x * 0, x) == "will not blend"  # faded
    assert verdict(x, x[..., ::-1], x) == "will not blend"  # a different image with the same contrast
    assert verdict(x, x + 0.3, x) == "blends with caveats"
    assert verdict(x, x[..., ::-1] * 1.2, -x) == "blends with caveats"  # the members differ by as much


def test_every_cause_is_named() -> None:
    flipped = judge_pair("a - b", PairEvidence([layer(0.99, flipped=8)], 0.99, midpoints=LEAVES))
    assert (flipped.verdict, flipped.causes) == ("will not blend", ("flipped",))
    permuted = judge_pair("a - b", PairEvidence([layer(0.3, aligned_median=0.99, chance=0.2)], 0.3, midpoints=LEAVES))
    assert (permuted.verdict, permuted.causes) == ("will not blend", ("permuted",))
    aligned_by_chance = judge_pair("a - b", PairEvidence([layer(0.05, aligned_median=0.8, chance=0.75)], 0.05, midpoints=HOLDS))
    assert (aligned_by_chance.verdict, aligned_by_chance.causes) == ("will not blend", ("apart",))
    scaled = judge_pair("a - b", PairEvidence([layer(0.99, scale=10.0)], 0.99, midpoints=HOLDS))
    assert (scaled.verdict, scaled.causes) == ("blends with caveats", ("scale",))
    noise = judge_pair("a - b", PairEvidence([layer(0.9)], 0.9, distance=0.3, whiteness=1.0, midpoints=HOLDS))
    assert (noise.verdict, noise.causes) == ("blends with caveats", ("noise",))
    drift = judge_pair(
        "a - b", PairEvidence([layer(0.9)], 0.9, midpoints=HOLDS, norm_mismatches=[BatchNormMismatch("a - b", "bn", 0.3, 0.0)])
    )
    assert (drift.verdict, drift.causes) == ("blends well", ("drift",))
    assert any("--calibrate" in sentence for sentence in drift.advice)
    left = judge_pair(
        "a - b",
        PairEvidence(
            [layer(0.9)],
            0.9,
            midpoints=HOLDS,
            norm_mismatches=[BatchNormMismatch("a - b", "bn", 0.3, 0.0)],
            is_calibrated=True,
        ),
    )
    assert any("what its calibrated statistics say" in sentence for sentence in left.reasons)
    assert any("--force" in sentence for sentence in left.advice)
