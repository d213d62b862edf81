"""The correlation index equals NumPy's in float64 at any scale, and is undefined for constant filters."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.compatibility.correlation import (
    correlate_filters,
    find_filter_layers,
    measure_batchnorm_differences,
    measure_layer_correlations,
)

random = np.random.default_rng(0)
A = random.standard_normal((6, 4, 3, 3))
B = A + 0.5 * random.standard_normal(A.shape)


def reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(a, b, strict=True)])


# 36 numbers per filter: two summation orders differ by about 36 roundings of 1e-16 each, far below 1e-13.
CLOSE = 1e-13


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (3, 2, 9), (5, 7), (2, 3, 1, 1), (1, 1, 3, 3), (2, 2, 2, 2, 2)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_correlation_equals_numpy(shape: tuple[int, ...], dtype: type) -> None:
    a, b = (random.standard_normal(shape).astype(dtype) for _ in range(2))
    np.testing.assert_allclose(
        correlate_filters(a, b), reference(a.astype(np.float64), b.astype(np.float64)), rtol=0, atol=CLOSE
    )


def test_correlation_ignores_scale_and_shift() -> None:
    """With the denominator as the paper prints it, the first of these would change by a factor of ten."""
    for changed in (100 * B, B + 7, 3 * B - 2):
        np.testing.assert_allclose(correlate_filters(A, changed), correlate_filters(A, B), rtol=0, atol=CLOSE)
    np.testing.assert_allclose(correlate_filters(A, -B), -correlate_filters(A, B), rtol=0, atol=CLOSE)
    np.testing.assert_allclose(correlate_filters(A, A), 1, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e170, 1e300])
def test_correlation_handles_tiny_and_huge_numbers(scale: float) -> None:
    np.testing.assert_allclose(correlate_filters(A * scale, B), correlate_filters(A, B), rtol=0, atol=CLOSE)


def test_constant_filters_have_no_correlation() -> None:
    a = A.copy()
    a[1], a[2], a[3] = 0, 0.1, 1e9  # 0.1 has no exact mean: rounding must not look like variation
    index = correlate_filters(a, B)
    assert np.isnan(index[1:4]).all()
    assert np.isfinite(index[[0, 4, 5]]).all()


def test_transposed_convolutions_have_their_filters_on_the_second_axis() -> None:
    np.testing.assert_allclose(
        correlate_filters(A, B, filter_axis=1), reference(A.swapaxes(0, 1), B.swapaxes(0, 1)), rtol=0, atol=CLOSE
    )


def test_unrelated_filters_are_near_zero() -> None:
    """The correlation of two random filters of 576 numbers has deviation 1/24; the median of 64 stays well inside 0.03."""
    a, b = (random.standard_normal((64, 64, 3, 3)) for _ in range(2))
    assert abs(np.median(correlate_filters(a, b))) < 0.03
    assert abs(np.median(correlate_filters(a, a[random.permutation(64)]))) < 0.1


def test_layers_in_natural_order_with_the_axis_of_their_filters() -> None:
    tensors = {
        "body.10.weight": np.ones((4, 4, 3, 3)), "body.2.weight": np.ones((4, 3, 3, 3)), "body.2.bias": np.ones(4),
        "act.weight": np.ones((4, 1, 1)), "up.weight": np.ones((8, 5, 4, 4)), "up.bias": np.ones(5),
        "seed.weight": np.ones((7, 6, 4, 4)), "seed_norm.weight": np.ones(6), "fc.weight": np.ones((2, 9)),
        "table": np.ones((3, 3), np.int64),
    }  # fmt: skip
    assert find_filter_layers(tensors) == {
        "body.2.weight": 0,
        "body.10.weight": 0,
        "fc.weight": 0,
        "seed.weight": 1,
        "up.weight": 1,
    }
    assert list(find_filter_layers(tensors))[:2] == ["body.2.weight", "body.10.weight"]
    assert find_filter_layers(tensors, {"body.2.weight"})["body.2.weight"] == 1


def test_a_layer_has_the_quantiles_of_its_filters() -> None:
    constant = A.copy()
    constant[0] = 1
    (row,), everything = measure_layer_correlations("a - b", {"w": constant}, {"w": B}, {"w": 0})
    assert (row.filters, row.constant, len(everything)) == (6, 1, 5)
    np.testing.assert_allclose(row.quantiles, np.percentile(reference(A, B)[1:], (5, 25, 50, 75, 95)), rtol=0, atol=CLOSE)
    assert row.median == row.quantiles[2]
    (none,), nothing = measure_layer_correlations("a - b", {"w": np.ones((2, 4))}, {"w": np.ones((2, 4))}, {"w": 0})
    assert (none.median, none.quantiles, nothing) == (None, (), [])


def test_drift_of_batch_statistics_is_measured() -> None:
    one = {"bn.running_mean": np.zeros(3), "bn.running_var": np.full(3, 4.0), "stray.running_mean": np.ones(2)}
    other = {"bn.running_mean": np.full(3, 2.0), "bn.running_var": np.full(3, 4.0), "stray.running_mean": np.ones(2)}
    (row,) = measure_batchnorm_differences("a - b", one, other)
    assert (row.layer, row.mean, row.variance) == ("bn", 1.0, 1.0)
    (row,) = measure_batchnorm_differences("a - b", one, {**one, "bn.running_var": np.full(3, 2.0)})
    assert (row.mean, row.variance) == (0.0, 2.0)
