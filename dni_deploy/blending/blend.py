"""The blend of members: theta = sum of coefficient_i * theta_i (Eq. 2 of the DNI paper), always from the original checkpoints.

Two forms of the one rule: `blend_float64` is the reference, tensor by tensor; `blend_rows` is the fast one, for members that
lie as rows of one float32 matrix. In both, one-hot coefficients copy the member, bit for bit, and a member whose coefficient is
0 is not read at all (0 * NaN would be NaN).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_COLUMNS = 3056
"""Columns per matrix-vector product, a multiple of 16. BLAS writes its output once to clear it and again to add; in chunks
the output stays in the first-level cache between the two, and a blend of two members costs 1.5 to 1.8 plain copies
instead of 2.0 to 2.5. Three rows of it are also just below the size at which OpenBLAS starts its threads: those would fight
with the threads of the engine, which spin for a while after every frame (12 plain copies were seen)."""


def blend_rows(members: NDArray[np.float32], coefficients: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    """Blends the rows of a matrix; equal coefficients always give equal bytes.

    Moves (n + 1) * 4 * P bytes for n nonzero coefficients.

    Args:
        members: float32 (N, P), a row for each member.
        coefficients: float64 (N,).
        out: float32 (P,), the buffer to fill; the caller owns it.
    """
    used = np.flatnonzero(coefficients)
    if len(used) == 1 and coefficients[used[0]] == 1.0:
        np.copyto(out, members[used[0]])
        return
    if len(used) < len(members):
        if len(used) == 0:
            out.fill(0)
            return
        # Fancy indexing would copy the rows; rows that are a slice of the matrix stay a view.
        step = used[1] - used[0] if len(used) > 1 else 1
        if not np.all(np.diff(used) == step):
            _accumulate_rows(members, coefficients, used, out)
            return
        members, coefficients = members[used[0] : used[-1] + 1 : step], coefficients[used]
    weights = coefficients.astype(np.float32)
    chunk = CHUNK_COLUMNS if len(members) <= 3 else CHUNK_COLUMNS * 3 // len(members) // 16 * 16
    count = out.size // chunk
    row, column = members.strides
    stacked = np.lib.stride_tricks.as_strided(
        members, (count, len(members), chunk), (chunk * column, row, column), writeable=False
    )
    np.matmul(weights, stacked, out=out[: count * chunk].reshape(count, chunk))
    np.matmul(weights, members[:, count * chunk :], out=out[count * chunk :])


def _accumulate_rows(
    members: NDArray[np.float32], coefficients: NDArray[np.float64], used: NDArray[np.intp], out: NDArray[np.float32]
) -> None:
    scratch = np.empty(min(CHUNK_COLUMNS, out.size), np.float32)
    for start in range(0, out.size, CHUNK_COLUMNS):
        part = out[start : start + CHUNK_COLUMNS]
        product = scratch[: part.size]
        np.multiply(members[used[0], start : start + CHUNK_COLUMNS], np.float32(coefficients[used[0]]), out=part)
        for row in used[1:]:
            np.multiply(members[row, start : start + CHUNK_COLUMNS], np.float32(coefficients[row]), out=product)
            part += product


def blend_float64(
    members: Sequence[Mapping[str, NDArray[Any]]], coefficients: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Blends raw tensors in float64: the reference that every engine and every written file is compared with.

    Args:
        members: The tensors of each member by name, in family order.
        coefficients: float64 (N,), for all tensors; or float64 (W, N), a row for each of the first member's tensors, in their
            order.

    Returns:
        Fresh float64 arrays under the first member's names.
    """
    return dict(iterate_blended(members, coefficients))


def iterate_blended(
    members: Sequence[Mapping[str, NDArray[Any]]], coefficients: NDArray[np.float64]
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Blends as `blend_float64` does, one tensor after the other, for callers that need no more than one at a time."""
    rows = coefficients if np.ndim(coefficients) == 2 else [coefficients] * len(members[0])
    for name, row in zip(members[0], rows, strict=True):
        yield name, _blend_tensor([tensors[name] for tensors in members], row)


def _blend_tensor(tensors: Sequence[NDArray[Any]], coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    used: list[int] = np.flatnonzero(coefficients).tolist()
    if len(used) == 1 and coefficients[used[0]] == 1.0:
        return tensors[used[0]].astype(np.float64)
    return np.asarray(sum(tensors[index].astype(np.float64) * coefficients[index] for index in used), np.float64)
