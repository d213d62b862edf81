"""PSNR along alpha between the two ends of a denoising family, as in section 3.2 of the paper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.paper_reproduction.bench import ReproductionBench
from benchmarks.photographs import TEST_PHOTOGRAPHS, add_noise, middle
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.session.session import Session

END_MEMBERS = ("n20", "n60")
INNER_LEVELS = (30, 40, 50)
SWEEP_ALPHAS = tuple(round(0.05 * step, 2) for step in range(21))
"""Coefficient of N60, as in the paper's sweep."""


@dataclass(frozen=True)
class LevelSweep:
    """Mean PSNR in dB over the test photographs at one noise level.

    curve   of (1 - alpha) * N20 + alpha * N60, for each of SWEEP_ALPHAS.
    tuned   of the net that was fine-tuned for this level.
    """

    level: int
    curve: tuple[float, ...]
    tuned_psnr: float

    @property
    def best_alpha(self) -> float:
        return SWEEP_ALPHAS[int(np.argmax(self.curve))]

    @property
    def best(self) -> float:
        return max(self.curve)

    @property
    def to_tuned(self) -> float:
        """The blend at its best minus the net fine-tuned for the level, in dB."""
        return self.best - self.tuned_psnr

    @property
    def to_ends(self) -> float:
        """The blend at its best minus the better of the two ends, in dB."""
        return self.best - max(self.curve[0], self.curve[-1])


def level_sweep(bench: ReproductionBench, family: str, level: int) -> LevelSweep:
    """Measures the sweep once per bench, family and level."""

    def measure() -> LevelSweep:
        tuned = test_psnr(bench.at(family, f"n{level}"), level)
        curve = tuple(test_psnr(bench.between(family, *END_MEMBERS, alpha), level) for alpha in SWEEP_ALPHAS)
        return LevelSweep(level, curve, tuned)

    return bench.measure_once(f"level_sweep {family} {level}", measure)


def test_psnr(session: Session, level: float) -> float:
    """Measures the mean PSNR in dB over the central 256 x 256 pixels of the test photographs, 8 bits in and out."""
    return float(np.mean([psnr(session(add_noise(middle(name), level)), middle(name)) for name in TEST_PHOTOGRAPHS]))
