"""Kernels by row: every weight with shares of its own, the very source compiled for the host, against NumPy in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.lowering.recipes import compute_scale_and_shift
from tests.engines.cuda import host_compiler
from tests.engines.cuda.test_kernels import GUARD, PAIRS, TYPES, aligned, limit, random, table

LINE = 128
SIZES = (1, 127, 128, 129, 1025, 4099)


@pytest.fixture(autouse=True)
def _names(gpu: Any) -> None:
    """engines.cuda.kernels imports the CUDA backend; a fake will do for its constants."""


def blend(
    members: Sequence[NDArray[Any]],
    shares: NDArray[np.float32],
    rows: NDArray[np.uint32],
    dtype: str,
    *,
    shift: int = 0,
    grid: int | None = None,
    block: int = 256,
    lines: NDArray[np.uint32] | None = None,
    scale: NDArray[np.float32] | None = None,
) -> NDArray[Any]:
    """Run the kernel: shares float32 (R, N), rows one per line of the output, which begins `shift` bytes beside a whole line."""
    from engines.cuda import kernels

    count, scaled = members[0].size, lines is not None
    assert len(rows) == -(-count // LINE)
    held = [aligned(member) for member in members]
    out = aligned(np.full(count + GUARD, 77, dtype), shift)
    numbers, places = aligned(shares.astype(np.float32).reshape(-1)), aligned(rows.astype(np.uint32))
    struct = np.zeros((), kernels.PER_TENSOR_ARGUMENTS)
    struct["out"], struct["count"], struct["members"] = out.ctypes.data, count, len(members)
    struct["rows"], struct["shares"] = places.ctypes.data, numbers.ctypes.data
    struct["member"][: len(members)] = [member.ctypes.data for member in held]
    struct["member"][len(members) :] = 1  # not to be looked at, not even for its alignment
    if lines is not None and scale is not None:
        scales, numbered = aligned(scale), aligned(lines.reshape(-1))
        struct["lines"], struct["scale"] = numbered.ctypes.data, scales.ctypes.data
    name = kernels.kernel_name(members[0].dtype, np.dtype(dtype), len(members), scaled=scaled, per_tensor=True)
    tile = kernels.compute_tile_size(members[0].dtype, len(members), scaled=scaled, per_tensor=True)
    host_compiler.launch(name, kernels.compute_grid(count, tile)[0] if grid is None else grid, block, struct.tobytes())
    assert np.all(out[count:] == 77)
    return out[:count]


def some_shares(rows: int, members: int, seed: int = 0) -> NDArray[np.float32]:
    """Every third share is 0, some rows have one share alone, and one share is negative, as in extrapolation."""
    source = np.random.default_rng(seed)
    shares = source.uniform(0.05, 1.0, (rows, members))
    shares[source.random(shares.shape) < 1 / 3] = 0
    shares[np.arange(rows), np.arange(rows) % members] += 0.5
    shares[-1, 0] = -0.25
    if rows > 2:
        shares[1] = np.eye(members)[1 % members]
    return shares.astype(np.float32)


def some_rows(size: int, rows: int) -> NDArray[np.uint32]:
    """Runs of lines of one row, as weights have them, in no order."""
    lines = -(-size // LINE)
    source = np.random.default_rng(size)
    return np.repeat(source.integers(0, rows, lines), source.integers(1, 4, lines))[:lines].astype(np.uint32)


def check(
    got: NDArray[Any], members: Sequence[NDArray[Any]], shares: NDArray[np.float32], rows: NDArray[np.uint32], dtype: str
) -> None:
    """Line by line against float64; the bound is that of the plain kernel for the members that the line's row uses."""
    for line, row in enumerate(rows):
        part = slice(line * LINE, (line + 1) * LINE)
        used = np.flatnonzero(shares[row])
        mine, theirs = [members[index][part].astype(np.float64) for index in used], [float(s) for s in shares[row, used]]
        truth = np.sum([share * member for share, member in zip(theirs, mine, strict=True)], axis=0)
        error = np.abs(got[part].astype(np.float64) - truth)
        assert np.all(error <= limit(mine, theirs, dtype)), (line, row)


@pytest.mark.parametrize(("stored", "dtype"), PAIRS)
@pytest.mark.parametrize("count", range(1, 17))
def test_sums(count: int, stored: str, dtype: str) -> None:
    """Members whose share is 0 in a row are NaN there: they are not multiplied."""
    for size in SIZES:
        for number in sorted({1, 2, 7, -(-size // LINE)}):
            shares, rows = some_shares(number, count), some_rows(size, number)
            members = random(size, count, stored)
            for index, member in enumerate(members):
                member[np.repeat(shares[rows, index] == 0, LINE)[:size]] = np.nan
            check(blend(members, shares, rows, dtype), members, shares, rows, dtype)


@pytest.mark.parametrize(("stored", "dtype"), PAIRS)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11])
def test_rows_that_are_all_equal_give_the_plain_kernels_bytes(count: int, stored: str, dtype: str) -> None:
    from tests.engines.cuda.test_kernels import blend as plain
    from tests.engines.cuda.test_kernels import weights

    members, shares = random(20_003, count, stored), np.array(weights(count), np.float32)
    members[0][:3] = (-0.0, 0.0, 6e-8)
    for member in members[1:]:
        member[:2] = -0.0  # the sign of a zero survives in both or in neither
    rows = some_rows(20_003, 5)
    expected = plain(members, shares.tolist(), dtype)
    assert blend(members, np.tile(shares, (5, 1)), rows, dtype).tobytes() == expected.tobytes()


@pytest.mark.parametrize(("stored", "dtype"), PAIRS)
@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_members_that_a_row_does_not_use_change_no_bit(count: int, stored: str, dtype: str) -> None:
    """As the plain kernel on the others alone: zeros keep their sign, whatever the unused ones hold."""
    from tests.engines.cuda.test_kernels import blend as plain

    members = [*random(1024, count - 1, stored), np.full(1024, np.nan, stored)]
    for member in members[:-1]:
        member[::5] = -0.0
    shares = np.random.default_rng(1).uniform(0.1, 1, (2, count)).astype(np.float32)
    shares[0, -1] = 0
    got = blend(members, shares, np.zeros(8, np.uint32), dtype)
    if count == 2:
        shares[0, 0] = 0.75
        got = blend(members, shares, np.zeros(8, np.uint32), dtype)
    assert got.tobytes() == plain(members[:-1], shares[0, :-1].tolist(), dtype).tobytes()


@pytest.mark.parametrize(("stored", "dtype"), PAIRS)
@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_every_path_gives_the_same_bytes(count: int, stored: str, dtype: str) -> None:
    """Wide accesses and one number at a time, full tiles and what is left, few blocks and many, blocks of another size."""
    members, shares, rows = random(20_003, count, stored), some_shares(9, count), some_rows(20_003, 9)
    expected = blend(members, shares, rows, dtype).tobytes()
    for options in ({"grid": 1}, {"grid": 1000}, {"block": 32}, {"block": 1024, "grid": 3}, {"shift": 8}):
        assert blend(members, shares, rows, dtype, **options).tobytes() == expected, options  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_a_row_with_one_share_of_1_copies_every_bit(count: int, shift: int, dtype: str) -> None:
    """NaNs with what they carry, signalling ones too, -0.0, subnormal numbers, infinities; beside rows that blend."""
    source = np.random.default_rng(1)
    size = 4 * 1003
    bits = [source.integers(0, 2**16, size * np.dtype(dtype).itemsize // 2, np.uint16).view(dtype) for _ in range(count)]
    shares = np.concatenate([np.eye(count), np.full((1, count), 1 / count)]).astype(np.float32)
    rows = some_rows(size, count + 1)
    got = blend(bits, shares, rows, dtype, shift=shift)
    for line, row in enumerate(rows):
        part = slice(line * LINE, (line + 1) * LINE)
        if row < count:
            assert got[part].tobytes() == bits[row][part].tobytes(), (line, row)
    assert {int(row) for row in rows} == set(range(count + 1))


@pytest.mark.parametrize("count", [2, 5])
def test_another_single_share_is_no_copy(count: int) -> None:
    members = random(512, count, "float32")
    shares = np.zeros((2, count), np.float32)
    shares[:, 1] = (0.5, 2.0)
    got = blend(members, shares, np.array([0, 1, 1, 0]), "float32")
    assert np.array_equal(got, members[1] * np.repeat(np.float32([0.5, 2, 2, 0.5]), LINE))


@pytest.mark.parametrize(("stored", "dtype"), PAIRS)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(("shape", "axis"), [((40, 16, 3, 3), 0), ((20, 12, 4, 4), 1), ((33, 1, 3, 3), 0), ((300,), 0)])
def test_rows_of_a_convolution_are_scaled(shape: tuple[int, ...], axis: int, count: int, stored: str, dtype: str) -> None:
    """Two weights side by side, each with a row of its own. Axis 1 is ConvTranspose."""
    size, channels = int(np.prod(shape)), shape[axis]
    padded = -(-size // LINE) * LINE
    shares, members = some_shares(2, count), random(2 * padded, count, stored)
    rows = np.repeat(np.array([1, 0]), padded // LINE)
    for index, member in enumerate(members):
        member[np.repeat(shares[rows, index] == 0, LINE)] = np.nan
    scale = np.random.default_rng(3).uniform(0.5, 2.0, 2 * channels).astype(np.float32)
    lines = np.concatenate([table(shape, axis, 0), table(shape, axis, channels)])
    along = [1] * len(shape)
    along[axis] = -1
    for options in ({}, {"shift": 8}, {"grid": 1}):
        got = blend(members, shares, rows, dtype, lines=lines, scale=scale, **options)  # type: ignore[arg-type]
        for half, row in enumerate((1, 0)):
            part = slice(half * padded, half * padded + size)
            used = np.flatnonzero(shares[row])
            mine, theirs = [members[index][part].astype(np.float64) for index in used], shares[row, used].tolist()
            each = np.broadcast_to(scale[half * channels :][:channels].reshape(along), shape).reshape(-1).astype(np.float64)
            truth = np.sum([share * member for share, member in zip(theirs, mine, strict=True)], axis=0) * each
            # One more rounding than without scales, of the product with the scale, which is at most 2.
            assert np.all(np.abs(got[part].astype(np.float64) - truth) <= limit(mine, theirs, dtype, more=1) * 2), options


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 16, 32])
@pytest.mark.parametrize("channels", [1, 255, 300])
def test_fold(channels: int, count: int, dtype: str) -> None:
    """Five statistics of a channel, each by another row; what a row does not use is NaN."""
    from engines.cuda import kernels

    source = np.random.default_rng(channels)
    statistics = source.standard_normal((count, 5, channels))
    statistics[:, 0] = source.uniform(0.1, 2.0, (count, channels))
    shares = np.abs(some_shares(11, count)).astype(np.float64)
    shares[0] = np.eye(count)[0]
    rows = source.integers(0, 11, (5, channels)).astype(np.uint32)
    statistics[np.moveaxis(shares[rows], 2, 0) == 0] = np.nan
    held = [aligned(row.reshape(-1)) for row in statistics]
    size = np.dtype(dtype).itemsize
    live, scale = aligned(np.full(channels + GUARD, 77, dtype)), aligned(np.full(channels + GUARD, 77, np.float32))
    places = aligned(np.arange(channels, dtype=np.uint64) * size * 2 + (size == 2))
    table, numbered = aligned(shares.reshape(-1)), aligned(rows.reshape(-1))
    struct = np.zeros((), kernels.PER_TENSOR_ARGUMENTS)
    struct["out"], struct["lines"], struct["scale"] = live.ctypes.data, places.ctypes.data, scale.ctypes.data
    struct["rows"], struct["shares"] = numbered.ctypes.data, table.ctypes.data
    struct["count"], struct["members"] = channels, count
    struct["member"][:count] = [row.ctypes.data for row in held]
    host_compiler.launch("fold_by_row", kernels.compute_grid(channels, 256)[0], 256, struct.tobytes())
    each = np.moveaxis(shares[rows], 2, 0)
    expected, shift = compute_scale_and_shift(np.where(each != 0, each * np.nan_to_num(statistics), 0).sum(0))
    assert np.all(scale[channels:] == 77)
    assert np.all(live[channels:] == 77)
    assert np.all(np.abs(scale[:channels] - expected) <= np.abs(expected) * 2.0**-24 * 1.001)  # float64 below, rounded once
    # As in test_kernels.test_fold: float64 keeps 29 bits more than what the shift is rounded to, and shifts are below 100.
    step = 2.0**-24 if dtype == "float32" else 2.0**-11 + 2.0**-24
    error = np.abs(live[:channels].astype(np.float64) - shift)
    assert np.all(error <= np.maximum(np.abs(shift) * step, 2.0**-25) + 1e-13)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_fold_with_rows_that_are_all_equal_gives_the_plain_kernels_bytes(count: int) -> None:
    from engines.cuda import kernels

    source = np.random.default_rng(5)
    statistics = source.uniform(0.1, 2.0, (count, 5, 300))
    shares = source.uniform(0.1, 1.0, count)
    held = [aligned(row.reshape(-1)) for row in statistics]
    places, rows = aligned(np.arange(300, dtype=np.uint64) * 8), aligned(source.integers(0, 4, 1500).astype(np.uint32))
    table = aligned(np.tile(shares, 4))
    found = []
    for name, argument in (("fold", kernels.FOLD_ARGUMENTS), ("fold_by_row", kernels.PER_TENSOR_ARGUMENTS)):
        out = [aligned(np.zeros(300, np.float32)) for _ in range(2)]
        struct = np.zeros((), argument)
        heads = ("live", "places") if name == "fold" else ("out", "lines")
        struct[heads[0]], struct[heads[1]], struct["scale"] = out[0].ctypes.data, places.ctypes.data, out[1].ctypes.data
        struct["count"], struct["members"] = 300, count
        struct["member"][:count] = [row.ctypes.data for row in held]
        if name == "fold":
            struct["share"][:count] = shares
        else:
            struct["rows"], struct["shares"] = rows.ctypes.data, table.ctypes.data
        host_compiler.launch(name, 2, 256, struct.tobytes())
        found.append(out[0].tobytes() + out[1].tobytes())
    assert found[0] == found[1]
