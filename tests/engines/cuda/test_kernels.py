"""Kernels: the very source that a GPU runs, compiled for the host, against NumPy in float64."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.lowering.recipes import compute_scale_and_shift
from tests.engines.cuda import host_compiler

SIZES = (0, 1, 3, 4, 5, 255, 256, 257, 10**6 + 3)
SMALL = SIZES[:-1]
TYPES = ("float32", "float16")
PAIRS = [(member, output) for member in TYPES for output in TYPES]
GUARD = 64
"""Numbers behind the output that stay as they are."""


@pytest.fixture(autouse=True)
def _names(gpu: Any) -> None:
    """engines.cuda.kernels imports the CUDA backend; a fake will do for its constants."""


def aligned(values: NDArray[Any], shift: int = 0) -> NDArray[Any]:
    """A copy that begins `shift` bytes behind a multiple of 256."""
    memory = np.zeros(values.nbytes + 512, np.uint8)
    start = -memory.ctypes.data % 256 + shift
    copy = memory[start : start + values.nbytes].view(values.dtype)
    copy[:] = values
    return copy


def blend(
    members: Sequence[NDArray[Any]],
    shares: Sequence[float],
    dtype: str,
    *,
    shifts: Sequence[int] = (),
    grid: int | None = None,
    block: int = 256,
    lines: NDArray[np.uint32] | None = None,
    scale: NDArray[np.float32] | None = None,
) -> NDArray[Any]:
    """Run the kernel for these members, all of them; the guard behind the output is checked."""
    from engines.cuda import kernels

    count, scaled = members[0].size, lines is not None
    shifts = shifts or [0] * (len(members) + 1)
    held = [aligned(member, shift) for member, shift in zip(members, shifts[1:], strict=True)]
    out = aligned(np.full(count + GUARD, 77, dtype), shifts[0])
    struct = np.zeros((), kernels.BLEND_ARGUMENTS)
    struct["out"], struct["count"], struct["members"] = out.ctypes.data, count, len(members)
    struct["member"][: len(members)] = [member.ctypes.data for member in held]
    struct["share"][: len(members)] = shares
    struct["member"][len(members) :] = 1  # not to be looked at, not even for its alignment
    struct["share"][len(members) :] = np.nan
    if lines is not None and scale is not None:
        table, scales = aligned(lines.reshape(-1)), aligned(scale)
        struct["lines"], struct["scale"] = table.ctypes.data, scales.ctypes.data
    name = kernels.kernel_name(members[0].dtype, np.dtype(dtype), len(members), scaled=scaled)
    blocks = (
        kernels.compute_grid(count, kernels.compute_tile_size(members[0].dtype, len(members), scaled=scaled))[0]
        if grid is None
        else grid
    )
    host_compiler.launch(name, blocks, block, struct.tobytes())
    assert np.all(out[count:] == 77)
    return out[:count]


def random(size: int, count: int, dtype: str, seed: int = 0) -> list[NDArray[Any]]:
    source = np.random.default_rng(seed)
    return [source.standard_normal(size).astype(dtype) for _ in range(count)]


def weights(count: int) -> list[float]:
    """Shares as the kernel takes them, float32; one is negative, as in extrapolation."""
    chosen = np.random.default_rng(count).uniform(0.05, 1.0, count)
    if count > 2:
        chosen[1] *= -1
    return [float(np.float32(share)) for share in chosen / chosen.sum()]


def truth(members: Sequence[NDArray[Any]], shares: Sequence[float]) -> NDArray[np.float64]:
    return np.sum([share * member.astype(np.float64) for share, member in zip(shares, members, strict=True)], axis=0)


def limit(members: Sequence[NDArray[Any]], shares: Sequence[float], dtype: str, more: int = 0) -> NDArray[np.float64]:
    """Each of N fused steps rounds once, by at most 2^-24 of a partial sum, which is at most sum |share| |member|; a float16
    output rounds once more, by half its last place: 2^-11 of the value, or 2^-25 below its normal numbers.
    """
    size = np.sum(
        [abs(share) * np.abs(member.astype(np.float64)) for share, member in zip(shares, members, strict=True)], axis=0
    )
    bound = (len(members) + more) * 2.0**-24 * size
    return bound + np.maximum(np.abs(size) * 2.0**-11, 2.0**-25) if dtype == "float16" else bound + 2.0**-149


@pytest.mark.parametrize(("stored", "dtype"), PAIRS)
@pytest.mark.parametrize("count", range(1, 17))
def test_sums(count: int, stored: str, dtype: str) -> None:
    shares = weights(count)
    for size in SIZES if count in (2, 5) else SMALL:
        members = random(size, count, stored)
        got = blend(members, shares, dtype)
        assert np.all(np.abs(got.astype(np.float64) - truth(members, shares)) <= limit(members, shares, dtype)), size


@pytest.mark.slow
@pytest.mark.parametrize(("stored", "dtype"), PAIRS)
@pytest.mark.parametrize("count", range(1, 17))
def test_sums_of_a_million(count: int, stored: str, dtype: str) -> None:
    shares, members = weights(count), random(SIZES[-1], count, stored)
    got = blend(members, shares, dtype)
    assert np.all(np.abs(got.astype(np.float64) - truth(members, shares)) <= limit(members, shares, dtype))


def test_the_most_members() -> None:
    from engines.cuda.kernels import MAX_MEMBERS

    shares, members = weights(MAX_MEMBERS), random(1000, MAX_MEMBERS, "float32")
    got = blend(members, shares, "float32")
    assert np.all(np.abs(got - truth(members, shares)) <= limit(members, shares, "float32"))


@pytest.mark.parametrize(("stored", "dtype"), PAIRS)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_misaligned(which: int, stored: str, dtype: str) -> None:
    """Output or one member begins beside a 16-byte line: a wide access there would fail on a GPU, and does in the shim."""
    shares, members = weights(2), random(1001, 2, stored)
    sizes = (np.dtype(dtype).itemsize, np.dtype(stored).itemsize, np.dtype(stored).itemsize)
    for steps in (1, 8 // sizes[which]):
        shifts = [0, 0, 0]
        shifts[which] = steps * sizes[which]
        got = blend(members, shares, dtype, shifts=shifts)
        assert np.all(np.abs(got.astype(np.float64) - truth(members, shares)) <= limit(members, shares, dtype))


@pytest.mark.parametrize(("stored", "dtype"), PAIRS)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_every_path_gives_the_same_bytes(count: int, stored: str, dtype: str) -> None:
    """Wide and narrow accesses, full tiles and what is left, few blocks and many, blocks of another size."""
    shares, members = weights(count), random(20_003, count, stored)
    expected = blend(members, shares, dtype).tobytes()
    for options in ({"grid": 1}, {"grid": 1000}, {"block": 32}, {"block": 1024, "grid": 3}, {"shifts": [8] + [0] * count}):
        assert blend(members, shares, dtype, **options).tobytes() == expected, options  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shift", [0, 4])
def test_one_member_with_share_one_is_copied(dtype: str, shift: int) -> None:
    """Every bit: NaNs with what they carry, signalling ones too, -0.0, subnormal numbers, infinities."""
    bits = np.random.default_rng(1).integers(0, 2**16, 4 * 5003, np.uint16).view(dtype)
    got = blend([bits], [1.0], dtype, shifts=[0, shift])
    assert got.tobytes() == bits.tobytes()


@pytest.mark.parametrize(("stored", "dtype"), PAIRS)
def test_one_member_with_another_share_is_not(stored: str, dtype: str) -> None:
    (member,) = random(1001, 1, stored)
    assert np.array_equal(blend([member], [0.5], dtype), (member.astype(np.float32) / 2).astype(dtype))


def test_float16_to_float32_and_back_as_numpy() -> None:
    """All float16 there are, and the float32 around each, where rounding is decided; NaNs stay NaNs."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    wide = halves.astype(np.float32)
    assert np.array_equal(blend([halves], [1.0], "float32"), wide, equal_nan=True)
    with np.errstate(invalid="ignore"):
        middle = (wide + np.roll(wide, 1)) / 2
    around = np.concatenate([wide, middle, np.nextafter(middle, np.float32(9)), np.nextafter(middle, np.float32(-9))])
    around = np.concatenate([around, np.float32([65519.996, 65520, 1e38, -1e38, 1e-38, 2**-25, -(2**-25) * 1.0001])])
    with np.errstate(over="ignore"):
        expected = around.astype(np.float16)
    got = blend([around], [1.0], "float16")
    assert np.array_equal(got, expected, equal_nan=True)
    assert np.array_equal(np.signbit(got[~np.isnan(got)]), np.signbit(expected[~np.isnan(expected)]))


def test_the_sign_of_zero_survives() -> None:
    zeros = np.float32([0.0, -0.0])
    assert np.array_equal(np.signbit(blend([zeros, zeros], [0.25, 0.75], "float32")), [False, True])


def table(shape: tuple[int, ...], axis: int, first: int) -> NDArray[np.uint32]:
    """As DeviceLayout.build_channel_table, of one weight."""
    count = -(-int(np.prod(shape)) // 128)
    rows = np.zeros((count, 4), np.uint32)
    rows[:, :3] = first, int(np.prod(shape[axis + 1 :])), shape[axis]
    rows[:, 3] = np.arange(count) * 128
    return rows


@pytest.mark.parametrize(("stored", "dtype"), PAIRS)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((40, 16, 3, 3), 0),
        ((7, 3, 3, 3), 0),
        ((20, 12, 4, 4), 1),
        ((33, 1, 3, 3), 0),
        ((300,), 0),
        ((5, 6, 1, 1), 1),
        ((64, 64), 0),
    ],
)
def test_rows_of_a_convolution_are_scaled(shape: tuple[int, ...], axis: int, count: int, stored: str, dtype: str) -> None:
    """Axis 1 is ConvTranspose. Two weights side by side, the scales of the second behind those of the first."""
    size, channels = int(np.prod(shape)), shape[axis]
    padded = -(-size // 128) * 128
    shares, members = weights(count), random(2 * padded, count, stored)
    scale = np.random.default_rng(3).uniform(0.5, 2.0, 2 * channels).astype(np.float32)
    lines = np.concatenate([table(shape, axis, 0), table(shape, axis, channels)])
    along = [1] * len(shape)
    along[axis] = -1
    for options in ({}, {"shifts": [8] + [0] * count}, {"grid": 1}):
        got = blend(members, shares, dtype, lines=lines, scale=scale, **options)  # type: ignore[arg-type]
        for half in range(2):
            part = slice(half * padded, half * padded + size)
            mine = [member[part] for member in members]
            each = np.broadcast_to(scale[half * channels :][:channels].reshape(along), shape).reshape(-1).astype(np.float64)
            # One more rounding, of the product with the scale, which is at most 2.
            error = np.abs(got[part].astype(np.float64) - truth(mine, shares) * each)
            assert np.all(error <= limit(mine, shares, dtype, more=1) * 2), options


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 16, 32])
@pytest.mark.parametrize("channels", [1, 3, 255, 256, 300])
def test_fold(channels: int, count: int, dtype: str) -> None:
    """Against compute_scale_and_shift of the blended statistics: the same rounded numbers for one member, within an ulp for more."""
    from engines.cuda import kernels

    source = np.random.default_rng(channels)
    statistics = source.standard_normal((count, 5, channels))
    statistics[:, 0] = source.uniform(0.1, 2.0, (count, channels))
    shares = source.uniform(0.1, 1.0, count) if count > 1 else np.ones(1)
    shares /= shares.sum()
    held = [aligned(row.reshape(-1)) for row in statistics]
    size = np.dtype(dtype).itemsize
    live = aligned(np.full(channels * 2 + 8, 77, dtype))
    # Every second place, from the last to the first.
    order = np.arange(channels)[::-1] * 2 + 4
    places = aligned((order.astype(np.uint64) * size) * 2 + (size == 2))
    scale = aligned(np.full(channels + GUARD, 77, np.float32))
    struct = np.zeros((), kernels.FOLD_ARGUMENTS)
    struct["live"], struct["places"], struct["scale"] = live.ctypes.data, places.ctypes.data, scale.ctypes.data
    struct["count"], struct["members"] = channels, count
    struct["member"][:count] = [row.ctypes.data for row in held]
    struct["share"][:count] = shares
    host_compiler.launch("fold", kernels.compute_grid(channels, 256)[0], 256, struct.tobytes())
    expected, shift = compute_scale_and_shift(np.tensordot(shares, statistics, 1))
    assert np.all(scale[channels:] == 77)
    assert np.all(np.delete(live, order) == 77)
    if count == 1:
        assert np.array_equal(scale[:channels], expected.astype(np.float32))
        assert np.array_equal(live[order], shift.astype(np.float32).astype(dtype))
        return
    assert np.all(np.abs(scale[:channels] - expected) <= np.abs(expected) * 2.0**-24 * 1.001)  # float64 below, rounded once
    # beta + scale * (bias - mean) may cancel, but float64 keeps 29 bits more than what it is rounded to.
    step = 2.0**-24 if dtype == "float32" else 2.0**-11 + 2.0**-24
    assert np.all(np.abs(live[order].astype(np.float64) - shift) <= np.maximum(np.abs(shift) * step, 2.0**-25) + 1e-14)


def test_structs_and_tiles_are_those_of_the_source() -> None:
    from engines.cuda import kernels

    library = host_compiler.build()
    names = set(host_compiler.kernels())
    assert len(names) == 74
    assert library.host_argument_bytes(b"fold") == kernels.FOLD_ARGUMENTS.itemsize
    assert library.host_argument_bytes(b"fold_by_row") == kernels.PER_TENSOR_ARGUMENTS.itemsize
    for stored, dtype in PAIRS:
        for scaled, by_row in itertools.product((False, True), repeat=2):
            for count in range(1, 8):
                name = kernels.kernel_name(np.dtype(stored), np.dtype(dtype), count, scaled=scaled, per_tensor=by_row)
                names.discard(name)
                argument = kernels.PER_TENSOR_ARGUMENTS if by_row else kernels.BLEND_ARGUMENTS
                assert library.host_argument_bytes(name.encode()) == argument.itemsize
                numbers = kernels.compute_tile_size(np.dtype(stored), count, scaled=scaled, per_tensor=by_row)
                assert library.host_tile(name.encode(), 256) == numbers
    assert names == {"fold", "fold_by_row"}
    source = host_compiler.SOURCE.read_text(encoding="utf-8")
    assert f"#define MAX_MEMBERS {kernels.MAX_MEMBERS} " in source
    assert f"#define LINE {kernels.WEIGHT_ALIGNMENT_FLOATS}u " in source


def test_unknown_kernels_and_structs_of_another_size_are_refused() -> None:
    with pytest.raises(RuntimeError, match="error 500"):
        host_compiler.launch("nothing", 1, 1, b"")
    with pytest.raises(RuntimeError, match="struct of 552 bytes"):
        host_compiler.launch("fold", 1, 1, b"\0" * 551)
