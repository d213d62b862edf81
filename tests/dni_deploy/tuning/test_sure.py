"""SURE: the error estimated without the clean image equals the true error, clipped noise included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm, truncnorm

from dni_deploy.errors import MismatchError
from dni_deploy.imaging.frames import Frame
from dni_deploy.signature import Signature
from dni_deploy.tuning.sure import Infer, SureEstimator, moments_before_clipping
from tests.dni_deploy.imaging.test_noise import noised

RGB = Signature(radius=8)
SIGMA = 40.0


def blur(width: float) -> Infer:
    """Makes a denoiser: a Gaussian of that width over rows and columns, on arrays in 0..1."""
    from scipy.ndimage import gaussian_filter

    return lambda x: gaussian_filter(x, (0, 0, width, width)).astype(np.float32)


def to_frame(y: NDArray[np.float32]) -> Frame:
    return np.clip(np.rint(255 * y[0].transpose(1, 2, 0).astype(np.float64)), 0, 255).astype(np.uint8)


def middle() -> Frame:
    """Waves between 90 and 165: with sigma 20, nothing is clipped."""
    rows, columns = np.mgrid[:192, :192]
    wave = 128 + 18 * np.sin(columns / 9) + 18 * np.cos(rows / 7)
    return np.rint(np.stack([wave, wave.T, 255 - wave], axis=2)).astype(np.uint8)


def ends() -> Frame:
    """Half of the image is black, a quarter white: with sigma 40, a third of all values is clipped."""
    image = middle()
    image[:, :96] = 0
    image[:96, 96:] = 255
    return image


def errors(clean: Frame, sigma: float, make: Callable[..., SureEstimator] = SureEstimator) -> tuple[list[float], list[float]]:
    """Returns true and estimated mean squared errors of increasingly wide blurs."""
    noisy = noised(clean, sigma)
    risk = make(noisy, sigma, RGB, blur(1.5))
    true, estimated = [], []
    for width in (0.6, 1.2, 2.5, 4.0):
        x = (noisy.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)
        true.append(float(np.mean((255 * blur(width)(x)[0].transpose(1, 2, 0).astype(np.float64) - clean) ** 2)))
        estimated.append(risk.estimate_mean_squared_error(blur(width)))
    return true, estimated


def test_sure_estimates_the_true_error() -> None:
    true, estimated = errors(middle(), 20)
    # Deviation of the estimate: sigma^2 * sqrt(2 / 110,592 values) = 1.7 for the noise power, more for probe and image.
    np.testing.assert_allclose(estimated, true, atol=6)
    assert np.argmin(estimated) == np.argmin(true)


def test_sure_ranks_blends_where_noise_is_clipped() -> None:
    """Differences matter: what all blends share (the pilot's error on clipped pixels) does not change the best one."""
    true, estimated = errors(ends(), SIGMA)
    assert np.argmin(estimated) == np.argmin(true)
    gaps, estimated_gaps = np.array(true) - min(true), np.array(estimated) - min(estimated)
    np.testing.assert_allclose(estimated_gaps, gaps, rtol=0.25, atol=12)  # 0.25: the pilot is a blur, 12: as above at sigma 40


def test_sure_without_clipping_correction_ranks_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The textbook estimate fails on the same image, which shows that the test above detects the correction."""
    monkeypatch.setattr("dni_deploy.tuning.sure.moments_before_clipping", lambda noisy, clean, sigma: (noisy, noisy**2))
    true, estimated = errors(ends(), SIGMA)
    gaps, estimated_gaps = np.array(true) - min(true), np.array(estimated) - min(estimated)
    assert np.abs(estimated_gaps - gaps).max() > 100


@pytest.mark.parametrize("mean", [-20.0, 3.0, 128.0, 240.0, 255.0])
@pytest.mark.parametrize("sigma", [2.0, 35.0])
def test_moments_before_clipping_equal_scipy(mean: float, sigma: float) -> None:
    mean = min(max(mean, 0.0), 255.0)
    first, second = moments_before_clipping(np.array([0.0, 100.0, 255.0]), np.full(3, mean), sigma)
    for index, (low, high) in {0: (-np.inf, 0.0), 2: (255.0, np.inf)}.items():
        if norm.logsf(abs(np.nan_to_num(low, neginf=high) if index == 2 else mean) / sigma) < -600:
            continue  # SciPy's truncated normal loses precision there
        cut = truncnorm((low - mean) / sigma, (high - mean) / sigma, loc=mean, scale=sigma)
        # 1e-6: SciPy's truncated normal far out in the tail
        assert first[index] == pytest.approx(cut.mean(), rel=1e-6, abs=1e-6)
        assert second[index] == pytest.approx(cut.var() + cut.mean() ** 2, rel=1e-6, abs=1e-6)
    assert (first[1], second[1]) == (100.0, 10000.0)


def test_sure_handles_another_value_range_and_residual_networks() -> None:
    noisy = noised(middle(), 20)
    expected = SureEstimator(noisy, 20, RGB, blur(1)).estimate_mean_squared_error(blur(1))
    signed = Signature(low=-1.0, high=1.0, radius=8)
    # 0.05: float32 of 255 * 2 instead of 255, through a squared difference of hundreds
    assert SureEstimator(noisy, 20, signed, blur(1)).estimate_mean_squared_error(blur(1)) == pytest.approx(expected, abs=0.05)
    noise = Signature(residual=True, radius=8)
    predicts_noise: Infer = lambda x: x - blur(1)(x)  # noqa: E731
    assert SureEstimator(noisy, 20, noise, predicts_noise).estimate_mean_squared_error(predicts_noise) == pytest.approx(
        expected, abs=0.05
    )


def test_sure_refuses_a_network_that_enlarges() -> None:
    with pytest.raises(MismatchError, match=r"enlarges by 4\. Give --reference"):
        SureEstimator(middle(), 20, Signature(scale=4), blur(1))
