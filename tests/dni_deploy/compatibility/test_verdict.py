"""The verdict follows the bounds of the paper, and every cause is named with its remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dni_deploy.compatibility.correlation import LayerCorrelation
from dni_deploy.compatibility.midpoint import Barrier, BatchNormMismatch, measure_midpoint
from dni_deploy.compatibility.verdict import PairEvidence, judge_pair


def layer(median: float, **more: Any) -> LayerCorrelation:
    return LayerCorrelation("a - b", "w", (40, 4, 3, 3), 40, 0, (median,) * 5, **more)


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
    judged = judge_pair("a - b", PairEvidence([layer(median)], median))
    assert judged.verdict == verdict
    assert judged.reasons
    assert bool(judged.advice) == (verdict != "blends well")


def test_the_midpoint_image_outweighs_the_index() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)

    def verdict(*outputs: Any) -> str:
        return judge_pair("a - b", PairEvidence([layer(0.99)], 0.99, midpoints=[measure_midpoint("a - b", *outputs)])).verdict

    assert verdict(x, x, x) == "blends well"
    assert verdict(x, x * 0, x) == "will not blend"  # faded
    assert verdict(x, x[..., ::-1], x) == "will not blend"  # a different image with the same contrast
    assert verdict(x, x + 0.3, x) == "blends with caveats"
    assert verdict(x, x[..., ::-1] * 1.2, -x) == "blends with caveats"  # the members differ by as much


def test_every_cause_is_named() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    midpoints = [measure_midpoint("a - b", x, x + 0.1, x)]
    flipped = judge_pair("a - b", PairEvidence([layer(0.99, flipped=8)], 0.99, midpoints=midpoints))
    assert (flipped.verdict, flipped.causes) == ("will not blend", ("flipped",))
    permuted = judge_pair("a - b", PairEvidence([layer(0.3, aligned_median=0.99, chance=0.2)], 0.3, midpoints=midpoints))
    assert (permuted.verdict, permuted.causes) == ("will not blend", ("permuted",))
    aligned_by_chance = judge_pair("a - b", PairEvidence([layer(0.05, aligned_median=0.8, chance=0.75)], 0.05))
    assert (aligned_by_chance.verdict, aligned_by_chance.causes) == ("will not blend", ("apart",))
    scaled = judge_pair("a - b", PairEvidence([layer(0.99, scale=10.0)], 0.99))
    assert (scaled.verdict, scaled.causes) == ("blends with caveats", ("scale",))
    noise = judge_pair("a - b", PairEvidence([layer(0.9)], 0.9, distance=0.3, whiteness=1.0))
    assert (noise.verdict, noise.causes) == ("blends with caveats", ("noise",))
    high_barrier = judge_pair("a - b", PairEvidence([layer(0.9)], 0.9, barriers=[Barrier("a - b", "x", 0.01, 0.03, 0.01)]))
    assert (high_barrier.verdict, high_barrier.causes) == ("will not blend", ("barrier",))
    low_barrier = judge_pair("a - b", PairEvidence([layer(0.9)], 0.9, barriers=[Barrier("a - b", "x", 0.01, 0.015, 0.01)]))
    assert (low_barrier.verdict, low_barrier.causes) == ("blends with caveats", ("barrier",))
    drift = judge_pair("a - b", PairEvidence([layer(0.9)], 0.9, norm_mismatches=[BatchNormMismatch("a - b", "bn", 0.3, 0.0)]))
    assert (drift.verdict, drift.causes) == ("blends well", ("drift",))
    assert any("--calibrate" in sentence for sentence in drift.advice)
    left = judge_pair(
        "a - b",
        PairEvidence([layer(0.9)], 0.9, norm_mismatches=[BatchNormMismatch("a - b", "bn", 0.3, 0.0)], is_calibrated=True),
    )
    assert any("what its calibrated statistics say" in sentence for sentence in left.reasons)
    assert any("--force" in sentence for sentence in left.advice)
