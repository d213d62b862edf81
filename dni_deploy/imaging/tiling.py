"""Tiling: a large frame in overlapping tiles of one shape, joined without seams."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, UsageError
from dni_deploy.imaging.frames import Frame, check_frame, pad_frame, padded_size
from dni_deploy.signature import Signature

MAX_EXACT_RADIUS_PX = 64
"""Up to this radius the overlap is the radius, and the joined picture is the whole one."""

LARGE_OVERLAP_PX = 32
"""The overlap for a network that may look farther. What it may see is not what it looks at:
tests/dni_deploy/imaging/test_tiling.py measures the seams."""

DEFAULT_TILE_PX = 512
"""Side of a tile in pixels of the output; a x4 network gets tiles of 256, its overlap would eat smaller ones."""


def default_overlap(signature: Signature) -> int:
    """How many pixels of context each tile has on each inner side; input pixels."""
    if signature.radius is None or signature.radius > MAX_EXACT_RADIUS_PX:
        return LARGE_OVERLAP_PX
    return signature.radius


def default_tile(signature: Signature) -> int:
    """Side of a tile in input pixels; 0 (never tile) for a network that depends on the whole picture."""
    if signature.radius is None:
        return 0
    return max(DEFAULT_TILE_PX // signature.scale, 256)


def count_tiles(height: int, width: int, signature: Signature, tile: int | None = None, overlap: int | None = None) -> int:
    """How many tiles run_tiled will take for such a frame. Raises as run_tiled does."""
    rows, columns = plan_tiles(height, width, signature, tile, overlap)
    return len(rows) * len(columns)


def run_tiled(
    infer_frame: Callable[[Frame], NDArray[Any]],
    frame: Frame,
    signature: Signature,
    tile: int | None = None,
    overlap: int | None = None,
) -> NDArray[Any]:
    """Run `infer_frame` over tiles of the frame and join what they give; (scale * H, scale * W, 3), of the tiles' dtype.

    tile, overlap: input pixels; None for the defaults above, tile 0 for the whole frame at once. A frame that fits into one
    tile is run as it is. All tiles have one shape, so an engine prepares for one. Neighbours are cut in the middle of what
    they share, so each pixel comes from a tile that saw at least `overlap` pixels around it: with overlap >= radius that is
    all it depends on, and the result is the untiled one (up to the order in which an engine sums for another shape).
    Raises UsageError if the tile is too small for its overlap, or if the network depends on the whole picture.
    """
    check_frame(frame)
    height, width = frame.shape[:2]
    rows, columns = plan_tiles(height, width, signature, tile, overlap)
    if len(rows) == len(columns) == 1:
        return infer_frame(frame)
    scale = signature.scale
    # Padded once as a whole: a tile at the border must see the same mirrored pixels as the whole frame would.
    padded = pad_frame(frame, signature.multiple)
    out: NDArray[Any] | None = None
    for top, bottom, first_row, last_row in rows:
        for left, right, first_column, last_column in columns:
            piece = infer_frame(np.ascontiguousarray(padded[top:bottom, left:right]))
            if piece.shape[:2] != (scale * (bottom - top), scale * (right - left)):
                raise EngineError(
                    f"A tile of {right - left}x{bottom - top} pixels came back as {piece.shape[1]}x{piece.shape[0]}, "
                    f"at scale {scale}; the manifest's scale is wrong."
                )
            if out is None:
                out = np.empty((scale * padded.shape[0], scale * padded.shape[1], piece.shape[2]), piece.dtype)
            inside = piece[
                scale * (first_row - top) : scale * (last_row - top),
                scale * (first_column - left) : scale * (last_column - left),
            ]
            out[scale * first_row : scale * last_row, scale * first_column : scale * last_column] = inside
    assert out is not None  # layout gives at least one row and one column
    return np.ascontiguousarray(out[: scale * height, : scale * width])


TileSpan = tuple[int, int, int, int]
"""Where a tile starts and ends, and the part of it that is kept: start <= kept from < kept to <= end."""


def plan_tiles(
    height: int, width: int, signature: Signature, tile: int | None, overlap: int | None
) -> tuple[list[TileSpan], list[TileSpan]]:
    """The rows and the columns of the tiles, in pixels of the padded frame. Raises as run_tiled does."""
    side = default_tile(signature) if tile is None else tile
    shared = default_overlap(signature) if overlap is None else overlap
    if side < 0 or shared < 0:
        raise UsageError(f"Tile and overlap are pixels, 0 or more; got tile {side} and overlap {shared}.")
    padded_height, padded_width = padded_size(height, width, signature.multiple)
    if side == 0 or max(padded_height, padded_width) <= side:
        return [(0, padded_height, 0, padded_height)], [(0, padded_width, 0, padded_width)]
    if signature.radius is None:
        raise UsageError(
            "Every output pixel of this network depends on the whole picture (InstanceNorm or attention), so tiles would "
            "show; leave the tile size out, or make the picture smaller."
        )
    multiple = signature.multiple
    side -= side % multiple
    stride = side - 2 * shared
    stride -= stride % multiple
    if stride <= 0:
        raise UsageError(
            f"A tile of {tile or side} pixels leaves nothing between overlaps of {shared} on both sides; "
            f"make the tile at least {2 * shared + 2 * multiple} or the overlap smaller."
        )
    return _plan_spans(padded_height, side, stride), _plan_spans(padded_width, side, stride)


def _plan_spans(size: int, side: int, stride: int) -> list[TileSpan]:
    """Tiles of `side` every `stride`, the last one flush with the end, each keeping up to the middle of what it shares."""
    if size <= side:
        return [(0, size, 0, size)]
    starts = [*range(0, size - side, stride), size - side]
    cuts = [0, *((after + before + side) // 2 for before, after in pairwise(starts)), size]
    return [(start, start + side, cut, next_cut) for start, (cut, next_cut) in zip(starts, pairwise(cuts), strict=True)]
