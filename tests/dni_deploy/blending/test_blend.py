"""Blend: exact at the members, within a bound in between, and the same bytes however often alpha changed before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dni_deploy.blending.blend import CHUNK_COLUMNS, blend_float64, blend_rows, iterate_blended

ULP = 2.0**-24
"""Unit roundoff of float32."""
SIZES = (0, 1, 15, 16, 17, CHUNK_COLUMNS - 1, CHUNK_COLUMNS, CHUNK_COLUMNS + 1, 3 * CHUNK_COLUMNS + 16, 10_003)

# A negative zero, a quiet NaN with a payload, the smallest denormal, the largest denormal, both infinities, the largest number.
HARD = np.array(
    [0x80000000, 0x7FC12345, 0xFFC00001, 0x00000001, 0x807FFFFF, 0x7F800000, 0xFF800000, 0x7F7FFFFF], np.uint32
).view(np.float32)


def members(n: int, size: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng((seed, n, size)).standard_normal((n, size)).astype(np.float32)


def simplex(n: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng((seed, n)).dirichlet(np.ones(n))


def blend_into_guarded_array(rows: NDArray[np.float32], coefficients: NDArray[np.float64]) -> NDArray[np.float32]:
    """Blends into an array that held NaN before, between guard values that must stay."""
    memory = np.full(rows.shape[1] + 32, np.nan, np.float32)
    memory[:16] = memory[-16:] = 7
    out = memory[16 : 16 + rows.shape[1]]
    blend_rows(rows, coefficients, out)
    assert (memory[:16] == 7).all()
    assert (memory[-16:] == 7).all()
    return out


def assert_within_bound(rows: NDArray[np.float32], coefficients: NDArray[np.float64], actual: NDArray[np.float32]) -> None:
    """Each coefficient, each product and each of n - 1 sums is rounded once: at most n + 1 roundings per term."""
    used = np.flatnonzero(coefficients)
    wide = rows[used].astype(np.float64)
    truth, size = coefficients[used] @ wide, np.abs(coefficients[used]) @ np.abs(wide)
    # 2^-149 per operation: rounding among denormals has an absolute error of one step, not a relative one.
    allowed = (len(used) + 1) * ULP * size + 2 * len(used) * 2.0**-149
    assert (np.abs(actual - truth) <= allowed).all()


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("size", [8, CHUNK_COLUMNS + 5])
def test_one_hot_copies_the_bytes(n: int, size: int) -> None:
    rows = members(n, size)
    rows[:, :8] = HARD
    for member in range(n):
        actual = blend_into_guarded_array(rows, np.eye(n)[member])
        assert actual.tobytes() == rows[member].tobytes()


@pytest.mark.parametrize("skipped", [(0,), (1,), (3,), (0, 1), (1, 3), (0, 3), (1, 2), (0, 2, 3)])
def test_a_member_with_coefficient_zero_is_not_read(skipped: tuple[int, ...]) -> None:
    """Reading it would show: 0 * NaN is NaN, and 0 * infinity too."""
    rows = members(4, CHUNK_COLUMNS + 3)
    rows[list(skipped)] = np.nan
    rows[skipped[0], ::2] = np.inf
    remaining = [member for member in range(4) if member not in skipped]
    coefficients = np.zeros(4)
    coefficients[remaining] = simplex(len(remaining))
    actual = blend_into_guarded_array(rows, coefficients)
    assert np.isfinite(actual).all()
    assert_within_bound(rows, coefficients, actual)


def test_zero_coefficients_give_zeros() -> None:
    assert not blend_into_guarded_array(members(3, 40), np.zeros(3)).any()


@pytest.mark.parametrize("n", range(2, 9))
@pytest.mark.parametrize("size", SIZES)
def test_error_bound_at_every_size(n: int, size: int) -> None:
    rows, coefficients = members(n, size), simplex(n)
    assert_within_bound(rows, coefficients, blend_into_guarded_array(rows, coefficients))


@pytest.mark.parametrize("n", [2, 3, 8, 16])
def test_error_bound_over_a_million(n: int) -> None:
    rows, coefficients = members(n, 10**6 + 3, 1), simplex(n, 1)
    assert_within_bound(rows, coefficients, blend_into_guarded_array(rows, coefficients))


@pytest.mark.parametrize("used", [(0, 2), (1, 4), (0, 3, 4), (0, 2, 4), (1, 3), (2, 3, 4), (0, 1, 3), (2,)])
def test_any_subset_of_members(used: tuple[int, ...]) -> None:
    """Adjacent members, every second one, and indices that no stride describes."""
    rows, coefficients = members(5, 2 * CHUNK_COLUMNS + 7), np.zeros(5)
    coefficients[list(used)] = simplex(len(used)) * 0.999
    actual = blend_into_guarded_array(rows, coefficients)
    assert_within_bound(rows, coefficients, actual)


def test_members_with_padded_rows() -> None:
    """Rows of a wider matrix, as in an aligned matrix."""
    rows = members(3, 2 * CHUNK_COLUMNS + 64)[:, 5 : 2 * CHUNK_COLUMNS + 28]
    coefficients = simplex(3)
    assert_within_bound(rows, coefficients, blend_into_guarded_array(rows, coefficients))


@pytest.mark.parametrize("n", [2, 3, 8])
def test_identical_members_give_that_member(n: int) -> None:
    """Up to the rounding of the coefficients, which in float32 need not sum to 1."""
    rows, coefficients = np.repeat(members(1, 100_003), n, axis=0), simplex(n)
    assert_within_bound(rows, coefficients, blend_into_guarded_array(rows, coefficients))


def test_halves_of_identical_members_lose_nothing() -> None:
    rows = np.repeat(members(1, 100_003), 2, axis=0)
    assert blend_into_guarded_array(rows, np.array([0.5, 0.5])).tobytes() == rows[0].tobytes()


def test_extrapolation_is_within_the_bound() -> None:
    rows, coefficients = members(2, 10_000), np.array([-0.75, 1.75])
    assert_within_bound(rows, coefficients, blend_into_guarded_array(rows, coefficients))


def test_blending_very_different_members_does_not_overflow() -> None:
    """m1 - m0 would be infinite; a weighted sum is not."""
    rows = np.array([[3e38, -3e38, 1e-45], [-3e38, 3e38, 1e38]], np.float32)
    actual = blend_into_guarded_array(rows, np.array([0.5, 0.5]))
    assert actual.tolist() == [0.0, 0.0, np.float32(5e37)]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.integers(0, 3), st.sampled_from([1, 17, CHUNK_COLUMNS + 1]))
@settings(max_examples=150, deadline=None)
def test_any_coefficients_stay_within_the_error_bound(example: list[float], seed: int, size: int) -> None:
    total = sum(example)
    coefficients = np.array(example) / total if total > 1e-300 else np.eye(len(example))[0]
    rows = members(len(coefficients), size, seed)
    actual = blend_into_guarded_array(rows, coefficients)
    assert_within_bound(rows, coefficients, actual)
    assert actual.tobytes() == blend_into_guarded_array(rows, coefficients).tobytes()


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_blend_bytes_do_not_depend_on_output_alignment(n: int) -> None:
    """The output need not begin on a cache line."""
    rows, coefficients = members(n, 2 * CHUNK_COLUMNS + 33), simplex(n)
    memory = np.zeros(rows.shape[1] + 16, np.float32)
    outputs = set()
    for start in range(16):
        blend_rows(rows, coefficients, memory[start : start + rows.shape[1]])
        outputs.add(memory[start : start + rows.shape[1]].tobytes())
    assert len(outputs) == 1


@pytest.mark.parametrize("changes", [20_000, pytest.param(10**6, marks=pytest.mark.slow)])
def test_blends_do_not_drift(changes: int) -> None:
    """After random blends into one array, A equals A in a fresh array, and the members are unchanged."""
    rows = members(3, 64)
    before = rows.tobytes()
    out = np.zeros(64, np.float32)
    random = np.random.default_rng(5)
    first = simplex(3)
    fresh = blend_into_guarded_array(rows, first).tobytes()
    for _ in range(changes // 10_000):
        for coefficients in random.dirichlet(np.ones(3), 10_000):
            blend_rows(rows, coefficients, out)
    blend_rows(rows, first, out)
    assert out.tobytes() == fresh
    assert rows.tobytes() == before


def test_float64_blend_is_the_plain_sum() -> None:
    tensors = [{"a": members(1, 6, seed)[0].reshape(2, 3), "b": np.array(float(seed), np.float16)} for seed in range(3)]
    coefficients = np.array([0.25, 0.0, 0.75])
    actual = blend_float64(tensors, coefficients)
    assert actual["a"].dtype == actual["b"].dtype == np.float64
    assert actual["a"].shape == (2, 3)
    assert actual["b"].shape == ()
    np.testing.assert_array_equal(actual["a"], 0.25 * tensors[0]["a"].astype(float) + 0.75 * tensors[2]["a"].astype(float))
    assert float(actual["b"]) == 1.5


def test_float64_blend_skips_members_with_coefficient_zero_and_copies_one_hot() -> None:
    tensors = [{"a": HARD.copy()}, {"a": np.full(8, np.nan, np.float32)}]
    assert blend_float64(tensors, np.array([1.0, 0.0]))["a"].astype(np.float32).tobytes() == HARD.tobytes()
    finite = [{"a": np.ones(2, np.float32)}, {"a": np.full(2, np.nan)}, {"a": np.zeros(2, np.float32)}]
    assert blend_float64(finite, np.array([0.5, 0.0, 0.5]))["a"].tolist() == [0.5, 0.5]


def test_float64_rows_give_each_tensor_its_own_coefficients() -> None:
    rng = np.random.default_rng(5)
    shapes = {"a": (3, 2), "b": (4,), "c": ()}
    family = [{name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(3)]
    family[1]["b"][0] = np.nan  # of a member with coefficient zero in b
    coefficients = np.array([[0.25, 0.5, 0.25], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0]])
    actual = blend_float64(family, coefficients)
    for name, row in zip(shapes, coefficients, strict=True):
        alone = blend_float64([{name: tensors[name]} for tensors in family], row)
        assert np.array_equal(actual[name], alone[name])
        assert np.isfinite(actual[name]).all()
    assert np.array_equal(actual["c"].astype(np.float32), family[2]["c"])


def test_float64_blend_of_one_tensor_reads_no_other() -> None:
    family = [{"a": np.ones(2, np.float32), "b": np.zeros(3, np.float32)} for _ in range(2)]
    blended = iterate_blended(family, np.array([0.5, 0.5]))
    name, tensor = next(blended)
    assert (name, tensor.tolist()) == ("a", [1.0, 1.0])
    del family[1]["b"]
    with pytest.raises(KeyError):
        next(blended)
