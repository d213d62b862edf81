"""Recalibration: shares of knots, statistics between them, and the correction of estimates by what the members say."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dni_deploy.blending.batchnorm_stats import (
    MAX_CALIBRATION_POINTS,
    BatchNormTable,
    blend_tensors,
    correct_estimates,
    default_steps,
    enumerate_calibration_points,
)
from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import CoefficientsError, LimitError

NAMES = ("bn.running_mean", "bn.running_var")


def members(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        tensors = {
            "bn.weight": rng.normal(size=4),
            "bn.running_mean": rng.normal(size=4),
            "bn.running_var": rng.uniform(0.5, 2, 4),
        }
        made.append({name: values.astype(np.float32) for name, values in tensors.items()})
    return made


def recalibration(count: int, steps: int, seed: int = 0) -> BatchNormTable:
    rng = np.random.default_rng(seed)
    inner = comb(steps + count - 1, count - 1) - count
    return BatchNormTable.from_inner_statistics(
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
    for count, knots, message in (
        (8, None, "fewest calibration points are 36"),
        (2, 33, "33 calibration points are more than the 32"),
        (3, 5, "are 6, got 5"),
    ):
        with pytest.raises(LimitError, match=message):
            default_steps(count, knots)
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
def test_interpolation_weights_are_barycentric_and_sparse(drawn: tuple[int, int, np.ndarray]) -> None:
    count, steps, point = drawn
    made = recalibration(count, steps)
    shares = made.interpolation_weights(point)
    assert shares.min() >= 0
    assert abs(shares.sum() - 1) < 1e-12
    assert np.count_nonzero(shares) <= count
    # What is linear in alpha comes out exactly: float64's own rounding, and a share within 1e-9 of a knot that was taken for it.
    np.testing.assert_allclose(shares @ made.calibration_points, point, atol=2e-9)


@pytest.mark.parametrize(("count", "steps"), [(2, 10), (2, 31), (3, 6), (5, 2)])
def test_at_a_calibration_point_statistics_are_bit_identical(count: int, steps: int) -> None:
    made = recalibration(count, steps)
    for number, knot in enumerate(made.calibration_points):
        assert made.interpolation_weights(knot)[number] == 1.0
        for name, values in made.interpolate(knot).items():
            assert values.tobytes() == made.statistics[name][number].tobytes()
    # Decimals that are meant to be a knot: 0.3 * 10 is not 3 in floating point, and neither is 1 - 0.7.
    if steps == 10:
        assert (
            made.interpolation_weights(np.array([0.3, 0.7]))[7]
            == made.interpolation_weights(np.array([1 - 0.7, 0.7]))[7]
            == 1.0
        )


def test_between_two_members_the_weights_interpolate_linearly() -> None:
    made = recalibration(2, 7)
    for alpha in np.linspace(0, 1, 57):
        for name, values in made.interpolate(np.array([alpha, 1 - alpha])).items():
            rows = made.statistics[name][::-1]  # by rising share of the first
            expected = [np.interp(alpha, np.linspace(0, 1, 8), column) for column in rows.T]
            np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_interpolation_weights_are_continuous() -> None:
    # Continuous across the faces of the simplices: a step of d in alpha moves the shares by at most a few steps * d.
    made, rng = recalibration(4, 3), np.random.default_rng(3)
    for _ in range(300):
        one, other = rng.dirichlet(np.ones(4), 2)
        near = one + (other - one) * 1e-6
        assert (
            np.abs(made.interpolation_weights(one) - made.interpolation_weights(near)).sum()
            <= 2 * 4 * 3 * np.abs(one - near).sum() + 1e-9
        )


def test_a_single_member_keeps_its_own_statistics() -> None:
    family, made = members(3), recalibration(3, 4)
    for number, share in enumerate(np.eye(3)):
        for name, values in made.interpolate(share).items():
            assert values.astype(np.float32).tobytes() == family[number][name].tobytes()
    assert int(made.inner_mask.sum()) == 12
    with pytest.raises(ValueError):
        made.statistics[NAMES[0]][0] = 1.0


def test_interpolation_refuses_group_coefficients_and_extrapolation() -> None:
    made = recalibration(2, 10)
    equal = np.tile([0.25, 0.75], (5, 1))
    np.testing.assert_array_equal(made.interpolation_weights(equal), made.interpolation_weights(equal[0]))
    equal[3] = [0.5, 0.5]
    with pytest.raises(CoefficientsError, match=r"groups of weights .*--no-recalibration"):
        made.interpolation_weights(equal)
    for row in ([1.1, -0.1], [-0.001, 1.001]):
        with pytest.raises(CoefficientsError, match=r"from 0 to 1, and nothing is known beyond"):
            made.interpolation_weights(np.array(row))
    assert made.interpolation_weights(np.array([0.5, 0.5000005])).sum() == pytest.approx(
        1, abs=1e-12
    )  # within what Coefficients take


def test_blend_uses_stored_statistics_and_other_tensors_unchanged() -> None:
    family, made = members(2), recalibration(2, 4)
    shares = np.array([0.3, 0.7])
    found, plain = blend_tensors(family, shares, made), blend_float64(family, shares)
    assert found["bn.weight"].tobytes() == plain["bn.weight"].tobytes()
    for name in NAMES:
        assert found[name].tobytes() == made.interpolate(shares)[name].tobytes() != plain[name].tobytes()
    assert {name: values.tobytes() for name, values in blend_tensors(family, shares).items()} == {
        name: values.tobytes() for name, values in plain.items()
    }
    without = [{"bn.weight": tensors["bn.weight"]} for tensors in family]
    assert set(blend_tensors(without, shares, made)) == {"bn.weight"}


def test_blending_sets_by_interpolation_weights_equals_the_blend() -> None:
    family, made = members(3), recalibration(3, 5)
    sets = made.tensors_at_points(family, ["bn.weight", *NAMES])
    for shares in np.random.default_rng(1).dirichlet(np.ones(3), 20):
        expected, knots = blend_tensors(family, shares, made), made.interpolation_weights(shares)
        for name, values in expected.items():
            got = sum(share * tensors[name] for share, tensors in zip(knots, sets, strict=True))
            np.testing.assert_allclose(got, values, rtol=1e-9, atol=1e-9)  # a share within 1e-9 of a knot may be taken for it


# The correction.

Pair = tuple[np.ndarray, np.ndarray]


def true_statistics(knots: np.ndarray) -> list[Pair]:
    """What some network would have: a variance that dips between the members, as that of two nets far apart does."""
    dip = 1 - 0.8 * np.prod(knots * 2, axis=1)
    return [
        (np.full(3, knot @ np.arange(len(knot))), np.array([1.0, 4.0, 0.2]) * factor)
        for knot, factor in zip(knots, dip, strict=True)
    ]


def corrected(estimates: list[Pair], own: list[Pair], knots: np.ndarray) -> list[Pair]:
    return correct_estimates(knots, [{"bn": pair} for pair in estimates], {"bn": own}, {"bn": 1e-5})["bn"]


def test_errors_of_the_images_that_all_members_share_cancel() -> None:
    knots = enumerate_calibration_points(2, 10) / 10
    truth = true_statistics(knots)
    # Pictures of 1.7 times the contrast, and darker: by half a deviation.
    estimates = [(mean - 0.5 * np.sqrt(variance), variance * 1.7) for mean, variance in truth]
    found = corrected(estimates, [truth[0], truth[-1]], knots)
    for (mean, variance), (expected_mean, expected_variance) in zip(found, truth, strict=True):
        np.testing.assert_allclose(variance, expected_variance, rtol=1e-3)  # epsilon of 1e-5 beside variances of 0.04
        np.testing.assert_allclose(mean, expected_mean, rtol=0, atol=1e-3)


def test_equal_members_keep_their_statistics_for_any_images() -> None:
    knots = enumerate_calibration_points(3, 4) / 4
    own = (np.array([0.3, -2.0, 0.0]), np.array([1.0, 1e-8, 25.0]))
    anything = (np.array([5.0, 1.0, -1.0]), np.array([0.01, 3.0, 0.0]))
    for mean, variance in corrected([anything] * len(knots), [own] * 3, knots):
        np.testing.assert_allclose(mean, own[0], atol=1e-12)
        np.testing.assert_allclose(variance, own[1], atol=1e-10)  # the epsilon is added and taken away in float64


def test_corrected_variances_stay_positive() -> None:
    rng = np.random.default_rng(0)
    knots = enumerate_calibration_points(2, 10) / 10
    for _ in range(50):
        estimates = [(rng.normal(size=3), 10 ** rng.uniform(-12, 6, 3)) for _ in knots]
        own = [(rng.normal(size=3), 10 ** rng.uniform(-12, 6, 3)) for _ in range(2)]
        for mean, variance in corrected(estimates, own, knots):
            assert np.isfinite(mean).all()
            assert np.isfinite(variance).all()
            assert (variance >= 0).all()
