"""The blend that gives each block of a flat array of weights coefficients of its own.

A call per weight would cost more than the blend itself: RRDBNet has 702. Weights of one size lie side by side in a weight
buffer (layout.py sorts them by shape), so that they are one batch of small matrix-vector products, whatever the coefficients of
each: 11 such bands for RRDBNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.blend import CHUNK_COLUMNS, blend_rows

MAX_MEMBERS = 62
"""As many as fit as bits into an int64 with a sign."""


class PerTensorBlender:
    """Blends arrays that are cut into the same blocks; it keeps neither buffers nor members.

    Attributes:
        block_count: Number of blocks, K.

    Thread safety: `blend` may be called from any thread, into different arrays at once.
    """

    def __init__(self, starts: Sequence[int], size: int) -> None:
        """Finds the bands of blocks of one length.

        Args:
            starts: Where each block begins in the array, ascending, the first at 0; a block reaches to the next one or to
                `size`.
            size: Length of the array, P.
        """
        self.block_count = len(starts)
        self._block_borders = np.array([*starts, size], np.int64)
        lengths = np.diff(self._block_borders)
        self._new_band = np.diff(lengths) != 0
        self._bands = _find_ranges(self._new_band)

    def blend(self, members: NDArray[np.float32], coefficients: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        """Blends all blocks. As in `blend_rows`, one-hot rows copy bits and the same coefficients give the same bytes.

        Args:
            members: float32 (N, P); a member whose coefficient is 0 is not read.
            coefficients: float64 (K, N), a row for each block.
            out: float32 (P,), to fill.
        """
        float32_coefficients = coefficients.astype(np.float32)
        if coefficients.all():
            for first, last in self._bands:
                low, high = self._block_borders[first], self._block_borders[last]
                _blend_band(members[:, low:high], float32_coefficients[first:last], out[low:high])
            return
        if len(members) > MAX_MEMBERS:
            self._blend_each(members, coefficients, out, 0, self.block_count)
            return
        signs = _encode_used_members(coefficients)
        # A copy may go on over blocks of other lengths.
        is_separate = (np.diff(signs) != 0) | (self._new_band & (signs[1:] > 0))
        for first, last in _find_ranges(is_separate):
            low, high, sign = self._block_borders[first], self._block_borders[last], int(signs[first])
            if sign < 0:
                np.copyto(out[low:high], members[(-sign).bit_length() - 1, low:high])
                continue
            used = _as_even_slice(sign, len(members))
            if used is None:
                self._blend_each(members, coefficients, out, first, last)
            else:
                _blend_band(members[used, low:high], float32_coefficients[first:last, used], out[low:high])

    def _blend_each(
        self, members: NDArray[np.float32], coefficients: NDArray[np.float64], out: NDArray[np.float32], first: int, last: int
    ) -> None:
        """Blends one block after the other: where members are too scattered for a view of them, or too many for bits."""
        for block in range(first, last):
            low, high = self._block_borders[block], self._block_borders[block + 1]
            blend_rows(members[:, low:high], coefficients[block], out[low:high])


def _find_ranges(is_separate: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Finds first and last + 1 of what lies together; (K - 1,) says where a block does not belong to the one before it."""
    cuts: list[int] = (np.flatnonzero(is_separate) + 1).tolist()
    return list(pairwise([0, *cuts, len(is_separate) + 1]))


def _blend_band(members: NDArray[np.float32], coefficients: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Blends blocks of one length: members (n, count * length), coefficients (count, n), out (count * length,)."""
    count = len(coefficients)
    length = out.size // count
    chunk = _choose_chunk(length, len(members))
    whole = length // chunk * chunk
    wide, narrow = members.reshape(len(members), count, length), out.reshape(count, length)
    for left, right, width in ((0, whole, chunk), (whole, length, length - whole)):
        if right > left:
            stacked = wide[:, :, left:right].reshape(len(members), count, -1, width).transpose(1, 2, 0, 3)
            np.matmul(coefficients[:, None, None], stacked, out=narrow[:, left:right].reshape(count, -1, 1, width))


def _choose_chunk(length: int, members: int) -> int:
    """Chooses the floats per product: as in `blend_rows`, or a divisor of the length nearby, which saves a product."""
    most = CHUNK_COLUMNS if members <= 3 else CHUNK_COLUMNS * 3 // members // 16 * 16
    if length <= most:
        return max(length, 1)
    fewest = -(-length // most)
    for products in range(fewest, 2 * fewest):
        if length % (16 * products) == 0:
            return length // products
    return most


def _encode_used_members(coefficients: NDArray[np.float64]) -> NDArray[np.int64]:
    """Encodes the used members as bits, a number per row; negative where the row copies its one member."""
    bits = np.zeros(len(coefficients), np.int64)
    for member, column in enumerate(coefficients.T):
        bits += (column != 0) * (1 << member)
    for member, column in enumerate(coefficients.T):
        bits -= ((column == 1.0) & (bits == 1 << member)) * (2 << member)
    return bits


def _as_even_slice(sign: int, members: int) -> slice | None:
    """Returns the used members as a slice of all; None where they are not evenly spaced."""
    used = [member for member in range(members) if sign >> member & 1]
    steps = {b - a for a, b in pairwise(used)}
    if not used or len(steps) > 1:
        return None
    return slice(used[0], used[-1] + 1, steps.pop() if steps else 1)
