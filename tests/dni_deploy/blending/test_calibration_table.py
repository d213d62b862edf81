"""Calibration: interpolation weights of calibration points, statistics between them, and the correction of estimates."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dni_deploy.blending.blend import blend_float64
from dni_deploy.blending.calibration_table import (
    MAX_CALIBRATION_POINTS,
    CalibrationTable,
    blend_tensors,
    default_steps,
    enumerate_calibration_points,
)
from dni_deploy.calibration.batch_norm import correct_estimates
from dni_deploy.errors import CoefficientsError, LimitError

NAMES = ("bn.running_mean", "bn.running_var")


def members(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        tensors = {
            "bn.weight": rng.normal(size=4),
            "bn.running_mean": rng.normal(size=4),
            "bn.running_var": rng.uniform(0.5, 2, 4),
        }
        result.append({name: values.astype(np.float32) for name, values in tensors.items()})
    return result


def calibration(count: int, steps: int, seed: int = 0) -> CalibrationTable:
    rng = np.random.default_rng(seed)
    inner = comb(steps + count - 1, count - 1) - count
    return CalibrationTable.from_inner_statistics(
        members(count), steps, {name: rng.uniform(0.1, 3, (inner, 4)) for name in NAMES}, {}
    )


@pytest.mark.parametrize(("count", "steps"), [(2, 1), (2, 10), (3, 4), (4, 3), (7, 2)])
def test_calibration_points_are_the_whole_lattice(count: int, steps: int) -> None:
    points = enumerate_calibration_points(count, steps)
    assert points.shape == (comb(steps + count - 1, count - 1), count)
    assert len({tuple(point) for point in points.tolist()}) == len(points)
    assert points.min() == 0
    assert (points.sum(axis=1) == steps).all()
    assert points[0].tolist() == [steps, *[0] * (count - 1)]  # the first member first, as in Eq. 1
    assert points[-1].tolist() == [*[0] * (count - 1), steps]


def test_number_of_calibration_points_is_limited() -> None:
    assert default_steps(2) == 10
    assert [comb(default_steps(count) + count - 1, count - 1) for count in range(2, 8)] == [11, 28, 20, 15, 21, 28]
    assert default_steps(2, 32) == 31
    assert default_steps(3, 10) == 3
    assert default_steps(3, 14) == 3  # the most that fit
    for count, points, message in (
        (8, None, "fewest calibration points are 36"),
        (2, 33, "33 calibration points are more than the 32"),
        (3, 5, "are 6, got 5"),
    ):
        with pytest.raises(LimitError, match=message):
            default_steps(count, points)
    with pytest.raises(LimitError, match="are 3, got 2"):
        default_steps(2, 2)


@st.composite
def families(draw: st.DrawFn) -> tuple[int, int, np.ndarray]:
    count = draw(st.integers(2, 6))
    steps = draw(st.integers(2, default_steps(count, MAX_CALIBRATION_POINTS)))
    parts = np.array(draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)))
    if draw(st.booleans()):
        parts = np.round(parts * steps)
    return count, steps, parts / parts.sum() if parts.sum() > 1e-3 else np.eye(count)[0]


@settings(max_examples=200, deadline=None)
@given(families())
def test_interpolation_weights_are_barycentric_and_sparse(example: tuple[int, int, np.ndarray]) -> None:
    count, steps, point = example
    calibrated = calibration(count, steps)
    weights = calibrated.interpolation_weights(point)
    assert weights.min() >= 0
    assert abs(weights.sum() - 1) < 1e-12
    assert np.count_nonzero(weights) <= count
    # Linear functions are reproduced up to float64 rounding and to values within 1e-9 of a calibration point, which snap to it.
    np.testing.assert_allclose(weights @ calibrated.calibration_points, point, atol=2e-9)


@pytest.mark.parametrize(("count", "steps"), [(2, 10), (2, 31), (3, 6), (5, 2)])
def test_at_a_calibration_point_statistics_are_bit_identical(count: int, steps: int) -> None:
    calibrated = calibration(count, steps)
    for number, point in enumerate(calibrated.calibration_points):
        assert calibrated.interpolation_weights(point)[number] == 1.0
        for name, values in calibrated.interpolate(point).items():
            assert values.tobytes() == calibrated.statistics[name][number].tobytes()
    # Decimals that are meant to be a calibration point: 0.3 * 10 is not 3 in floating point, and neither is 1 - 0.7.
    if steps == 10:
        assert (
            calibrated.interpolation_weights(np.array([0.3, 0.7]))[7]
            == calibrated.interpolation_weights(np.array([1 - 0.7, 0.7]))[7]
            == 1.0
        )


def test_between_two_members_the_weights_interpolate_linearly() -> None:
    calibrated = calibration(2, 7)
    for alpha in np.linspace(0, 1, 57):
        for name, values in calibrated.interpolate(np.array([alpha, 1 - alpha])).items():
            rows = calibrated.statistics[name][::-1]  # by increasing coefficient of the first
            expected = [np.interp(alpha, np.linspace(0, 1, 8), column) for column in rows.T]
            np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_interpolation_weights_are_continuous() -> None:
    # Continuous across simplex faces: a step of d in alpha changes the weights by at most a few steps * d.
    calibrated, rng = calibration(4, 3), np.random.default_rng(3)
    for _ in range(300):
        one, other = rng.dirichlet(np.ones(4), 2)
        near = one + (other - one) * 1e-6
        assert (
            np.abs(calibrated.interpolation_weights(one) - calibrated.interpolation_weights(near)).sum()
            <= 2 * 4 * 3 * np.abs(one - near).sum() + 1e-9
        )


def test_a_single_member_keeps_its_own_statistics() -> None:
    family, calibrated = members(3), calibration(3, 4)
    for number, coefficient in enumerate(np.eye(3)):
        for name, values in calibrated.interpolate(coefficient).items():
            assert values.astype(np.float32).tobytes() == family[number][name].tobytes()
    assert int(calibrated.inner_mask.sum()) == 12
    with pytest.raises(ValueError):
        calibrated.statistics[NAMES[0]][0] = 1.0


def test_interpolation_refuses_group_coefficients_and_extrapolation() -> None:
    calibrated = calibration(2, 10)
    equal = np.tile([0.25, 0.75], (5, 1))
    np.testing.assert_array_equal(calibrated.interpolation_weights(equal), calibrated.interpolation_weights(equal[0]))
    equal[3] = [0.5, 0.5]
    with pytest.raises(CoefficientsError, match=r"groups of weights .*--no-calibration"):
        calibrated.interpolation_weights(equal)
    for row in ([1.1, -0.1], [-0.001, 1.001]):
        with pytest.raises(CoefficientsError, match=r"from 0 to 1, and nothing is known beyond"):
            calibrated.interpolation_weights(np.array(row))
    assert calibrated.interpolation_weights(np.array([0.5, 0.5000005])).sum() == pytest.approx(
        1, abs=1e-12
    )  # within the tolerance of Coefficients


def test_blend_uses_stored_statistics_and_other_tensors_unchanged() -> None:
    family, calibrated = members(2), calibration(2, 4)
    coefficients = np.array([0.3, 0.7])
    blended, plain = blend_tensors(family, coefficients, calibrated), blend_float64(family, coefficients)
    assert blended["bn.weight"].tobytes() == plain["bn.weight"].tobytes()
    for name in NAMES:
        assert blended[name].tobytes() == calibrated.interpolate(coefficients)[name].tobytes() != plain[name].tobytes()
    assert {name: values.tobytes() for name, values in blend_tensors(family, coefficients).items()} == {
        name: values.tobytes() for name, values in plain.items()
    }
    without = [{"bn.weight": tensors["bn.weight"]} for tensors in family]
    assert set(blend_tensors(without, coefficients, calibrated)) == {"bn.weight"}


def test_blending_sets_by_interpolation_weights_equals_the_blend() -> None:
    family, calibrated = members(3), calibration(3, 5)
    sets = calibrated.tensors_at_points(family, ["bn.weight", *NAMES])
    for coefficients in np.random.default_rng(1).dirichlet(np.ones(3), 20):
        expected, weights = blend_tensors(family, coefficients, calibrated), calibrated.interpolation_weights(coefficients)
        for name, values in expected.items():
            actual = sum(weight * tensors[name] for weight, tensors in zip(weights, sets, strict=True))
            np.testing.assert_allclose(
                actual, values, rtol=1e-9, atol=1e-9
            )  # a value within 1e-9 of a calibration point may snap to it


# ----- correction of estimates

Pair = tuple[np.ndarray, np.ndarray]


def true_statistics(points: np.ndarray) -> list[Pair]:
    """Makes plausible statistics: the variance drops between the members, as it does for two distant networks."""
    variance_factor = 1 - 0.8 * np.prod(points * 2, axis=1)
    return [
        (np.full(3, point @ np.arange(len(point))), np.array([1.0, 4.0, 0.2]) * factor)
        for point, factor in zip(points, variance_factor, strict=True)
    ]


def corrected(estimates: list[Pair], member_statistics: list[Pair], points: np.ndarray) -> list[Pair]:
    return correct_estimates(points, [{"bn": pair} for pair in estimates], {"bn": member_statistics}, {"bn": 1e-5})["bn"]


def test_errors_of_the_images_that_all_members_share_cancel() -> None:
    points = enumerate_calibration_points(2, 10) / 10
    truth = true_statistics(points)
    # Images with 1.7 times the contrast, and darker by half a standard deviation.
    estimates = [(mean - 0.5 * np.sqrt(variance), variance * 1.7) for mean, variance in truth]
    corrected_set = corrected(estimates, [truth[0], truth[-1]], points)
    for (mean, variance), (expected_mean, expected_variance) in zip(corrected_set, truth, strict=True):
        np.testing.assert_allclose(variance, expected_variance, rtol=1e-3)  # epsilon of 1e-5 beside variances of 0.04
        np.testing.assert_allclose(mean, expected_mean, rtol=0, atol=1e-3)


def test_equal_members_keep_their_statistics_for_any_images() -> None:
    points = enumerate_calibration_points(3, 4) / 4
    member_statistics = (np.array([0.3, -2.0, 0.0]), np.array([1.0, 1e-8, 25.0]))
    anything = (np.array([5.0, 1.0, -1.0]), np.array([0.01, 3.0, 0.0]))
    for mean, variance in corrected([anything] * len(points), [member_statistics] * 3, points):
        np.testing.assert_allclose(mean, member_statistics[0], atol=1e-12)
        np.testing.assert_allclose(variance, member_statistics[1], atol=1e-10)  # the epsilon is added and subtracted in float64


def test_corrected_variances_stay_positive() -> None:
    rng = np.random.default_rng(0)
    points = enumerate_calibration_points(2, 10) / 10
    for _ in range(50):
        estimates = [(rng.normal(size=3), 10 ** rng.uniform(-12, 6, 3)) for _ in points]
        member_statistics = [(rng.normal(size=3), 10 ** rng.uniform(-12, 6, 3)) for _ in range(2)]
        for mean, variance in corrected(estimates, member_statistics, points):
            assert np.isfinite(mean).all()
            assert np.isfinite(variance).all()
            assert (variance >= 0).all()
