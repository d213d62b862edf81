"""Pieces: every piece of an array has the blend of its own row, whatever lies beside it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dni_deploy.blending.blend import CHUNK_COLUMNS, blend_rows
from engines.onnxruntime_cpu.per_tensor_blend import MAX_MEMBERS, PerTensorBlender
from tests.dni_deploy.blending.test_blend import HARD, ULP

LENGTHS = (1, 16, 16, 16, 48, 48, 2 * CHUNK_COLUMNS + 16, 36864, 36864, 16, 27)
"""Alone and in bands, below and above a product's size, with and without a divisor near it, and an odd rest."""


def pieces(lengths: tuple[int, ...]) -> tuple[PerTensorBlender, NDArray[np.int64]]:
    borders = np.cumsum([0, *lengths])
    return PerTensorBlender(borders[:-1].tolist(), int(borders[-1])), borders


def rows(count: int, members: int, seed: int) -> NDArray[np.float64]:
    """Shares of every kind: mixed, one-hot, and of some members alone."""
    rng = np.random.default_rng((seed, count, members))
    shares = rng.dirichlet(np.ones(members), count)
    for row in shares:
        match rng.integers(3):
            case 0:
                row[:] = np.eye(members)[rng.integers(members)]
            case 1:
                row[rng.random(members) < 0.5] = 0.0
                row[:] = row / row.sum() if row.any() else np.eye(members)[-1]
    return shares


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(0, 2**16))
def test_each_piece_is_the_blend_of_its_row(members: int, lengths: list[int], seed: int) -> None:
    check(members, tuple(lengths), seed)


@pytest.mark.parametrize("members", [2, 3, 4, 5, MAX_MEMBERS + 1])
def test_long_pieces_too(members: int) -> None:
    for seed in range(3):
        check(members, LENGTHS if members < MAX_MEMBERS else (3, 3, 40), seed)


def check(members: int, lengths: tuple[int, ...], seed: int) -> None:
    cut, borders = pieces(lengths)
    shares = rows(len(lengths), members, seed)
    values = np.random.default_rng(seed).standard_normal((members, borders[-1])).astype(np.float32)
    guarded = np.full(borders[-1] + 32, np.nan, np.float32)
    guarded[:16] = guarded[-16:] = 7
    out = guarded[16:-16]
    cut.blend(values, shares, out)
    assert (guarded[:16] == 7).all()
    assert (guarded[-16:] == 7).all()
    for row, low, high in zip(shares, borders[:-1], borders[1:], strict=True):
        wide = values[:, low:high].astype(np.float64)
        # As for blend_rows: each share rounded once, each product once, and each of n - 1 sums once.
        allowed = (np.count_nonzero(row) + 1) * ULP * (np.abs(row) @ np.abs(wide))
        assert (np.abs(out[low:high] - row @ wide) <= allowed).all()
        if row.max() == 1.0:
            assert out[low:high].tobytes() == values[int(row.argmax()), low:high].tobytes()
    again = np.empty_like(out)
    cut.blend(values, shares, again)
    assert again.tobytes() == out.tobytes()


def test_what_has_no_share_is_not_read_and_bits_are_copied() -> None:
    cut, borders = pieces((8, 8, 8, 8))
    values = np.random.default_rng(1).standard_normal((3, borders[-1])).astype(np.float32)
    values[2, :8] = values[0, 8:16] = values[1, 16:24] = HARD
    shares = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.25, 0.0, 0.75], [0.2, 0.3, 0.5]])
    out = np.empty(borders[-1], np.float32)
    cut.blend(values, shares, out)
    assert np.isfinite(np.delete(out, np.arange(8, 16))).all()
    assert out[8:16].tobytes() == HARD.tobytes()


def test_shares_outside_0_to_1_are_no_copies() -> None:
    """1 beside others that sum to 0, by extrapolation."""
    cut, borders = pieces((4, 4))
    values = np.random.default_rng(2).standard_normal((3, borders[-1])).astype(np.float32)
    shares = np.array([[1.0, 0.5, -0.5], [1.5, -0.5, 0.0]])
    out = np.empty(borders[-1], np.float32)
    cut.blend(values, shares, out)
    alone = np.empty(4, np.float32)
    for number in range(2):
        blend_rows(values[:, 4 * number : 4 * number + 4], shares[number], alone)
        np.testing.assert_allclose(out[4 * number : 4 * number + 4], alone, rtol=1e-6)
