"""Relative error and PSNR: by hand, on integers, and for arrays that cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dni_deploy.utils.compare_arrays import mse_to_psnr_db, psnr_db, relative_error

NOT_COMPARABLE = [
    (np.ones(2), np.ones(3)),
    (np.ones((1, 2)), np.ones(2)),
    (np.array([np.nan, 1.0]), np.ones(2)),
    (np.ones(2), np.array([np.inf, 1.0])),
    (np.array([np.inf, 1.0]), np.array([np.inf, 1.0])),
]


def test_relative_error_is_a_fraction_of_the_largest_expected_value() -> None:
    assert relative_error(np.array([1.0, -2.0]), np.array([1.0, -4.0])) == 0.5
    assert relative_error(np.array([0.5]), np.array([0.5])) == 0
    assert relative_error(np.array([1e-3]), np.array([0.0])) > 1e20


def test_psnr_against_the_largest_expected_value_or_a_peak() -> None:
    ones = np.ones((2, 2), np.float32)
    assert psnr_db(ones, ones) == math.inf
    assert psnr_db(ones * np.float32(1.01), ones) == pytest.approx(40, abs=1e-3)  # 1.01 is no float32: 4e-6 of the difference
    assert psnr_db(-2 * ones, -2.02 * ones) == pytest.approx(20 * math.log10(2.02 / 0.02), abs=1e-3)
    assert psnr_db(np.zeros(3), np.full(3, 255.0), 255) == 0
    assert psnr_db(np.full(3, 0.1), np.zeros(3), 1.0) == pytest.approx(20)


def test_unsigned_integers_do_not_wrap_around() -> None:
    black, nearly = np.zeros((2, 3, 3), np.uint8), np.ones((2, 3, 3), np.uint8)
    assert psnr_db(black, nearly, 255) == psnr_db(nearly, black, 255) == pytest.approx(20 * math.log10(255))
    assert relative_error(black, nearly) == 1


@pytest.mark.parametrize(("actual", "expected"), NOT_COMPARABLE)
@pytest.mark.filterwarnings("error")
def test_arrays_that_cannot_be_compared_have_infinite_error(actual: np.ndarray, expected: np.ndarray) -> None:
    assert relative_error(actual, expected) == math.inf
    assert psnr_db(actual, expected) == psnr_db(actual, expected, 255) == -math.inf


def test_a_mean_squared_error_as_psnr() -> None:
    assert mse_to_psnr_db(0, 255) == math.inf
    assert mse_to_psnr_db(255**2 / 100, 255) == pytest.approx(20)
