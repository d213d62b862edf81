"""What a calibration would give a blend, on images that its fit has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.compatibility.output_calibration import calibrate_outputs
from dni_deploy.compatibility.probes import SampleInput

SHAPES = ((2, 3, 8, 12), (2, 3, 10, 6), (2, 3, 8, 8))
SCALE, SHIFT = (np.array(numbers, np.float32).reshape(1, 3, 1, 1) for numbers in ([0.5, 0.8, 1.25], [0.1, -0.2, 0.0]))


def make_samples(noises: tuple[int, ...]) -> list[SampleInput]:
    random = np.random.default_rng(0)
    return [
        SampleInput("x", random.random(shape, np.float32), noise=noise) for shape, noise in zip(SHAPES, noises, strict=True)
    ]


@pytest.mark.parametrize("residual", [False, True])
def test_blend_that_is_off_by_scale_and_shift_is_put_right(residual: bool) -> None:
    samples, random = make_samples((0, 0, 0)), np.random.default_rng(1)
    images, rights = [], []
    for sample in samples:
        first, second = (random.random(sample.x.shape, np.float32) for _ in range(2))
        mean = (first + second) / 2
        middle = (mean - SHIFT) / SCALE
        outputs = (first, middle, second)
        images.append(tuple(sample.x - output for output in outputs) if residual else outputs)
        rights.append(sample.x - mean if residual else mean)
    for corrected, right in zip(calibrate_outputs(samples, images, residual), rights, strict=True):
        assert corrected is not None
        # Exact but for the rounding of float32, which the scale passes on.
        assert np.abs(corrected - right).max() < 1e-5


def test_fit_does_not_see_the_image_that_it_is_measured_on() -> None:
    samples = make_samples((10, 10, 30))
    images = [(sample.x, sample.x * 0.5, sample.x) for sample in samples]
    images[1] = (samples[1].x, samples[1].x * 0.25, samples[1].x)
    first, second, alone = calibrate_outputs(samples, images, False)
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(first, samples[0].x * 2, rtol=1e-5)  # by the second image, which takes 4
    np.testing.assert_allclose(second, samples[1].x * 0.5, rtol=1e-5)
    assert alone is None  # no other image has its noise


def test_nothing_is_said_of_outputs_that_are_not_finite() -> None:
    samples = make_samples((0, 0, 0))
    images = [(sample.x, sample.x * np.float32("nan"), sample.x) for sample in samples]
    assert calibrate_outputs(samples, images, False) == [None, None, None]
