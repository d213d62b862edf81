"""A large frame in overlapping tiles of one shape, joined without seams."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, UsageError
from dni_deploy.imaging.frames import AnyFrame, check_frame, pad_frame, padded_size
from dni_deploy.signature import Signature

MAX_EXACT_RADIUS_PX = 64
"""Up to this radius the overlap is the radius, and the joined frame equals the whole one."""

LARGE_OVERLAP_PX = 32
"""The overlap for a network that may look farther. What it may see is not what it looks at:
tests/dni_deploy/imaging/test_tiling.py measures the seams."""

COLOR_RADIUS_PX = 2
"""How far the bicubic enlargement of the color beside the luma looks."""

DEFAULT_TILE_PX = 512
"""Side of a tile in pixels of the output; a x4 network gets tiles of 256, its overlap would eat smaller ones."""


class TileSpan(NamedTuple):
    """Where a tile starts and ends along one side, and the part of it that is kept: start <= keep_start < keep_end <= end."""

    start: int
    end: int
    keep_start: int
    keep_end: int


def default_overlap(signature: Signature) -> int:
    """Returns the context of a tile on each inner side, in input pixels."""
    if signature.radius is None or signature.radius > MAX_EXACT_RADIUS_PX:
        return LARGE_OVERLAP_PX
    enlarges_color = signature.color == "luma" and signature.scale > 1
    return max(signature.radius, COLOR_RADIUS_PX) if enlarges_color else signature.radius


def default_tile(signature: Signature) -> int:
    """Returns the side of a tile in input pixels; 0 (never tile) for a network that depends on the whole frame."""
    if signature.radius is None:
        return 0
    return max(DEFAULT_TILE_PX // signature.scale, 256)


def count_tiles(height: int, width: int, signature: Signature, tile: int | None = None, overlap: int | None = None) -> int:
    """Counts the tiles that `run_tiled` takes for a frame of this size; raises as it does."""
    rows, columns = plan_tiles(height, width, signature, tile, overlap)
    return len(rows) * len(columns)


def run_tiled(
    render_tiles: Callable[[Iterable[AnyFrame]], Iterable[NDArray[Any]]],
    frame: AnyFrame,
    signature: Signature,
    tile: int | None = None,
    overlap: int | None = None,
) -> NDArray[Any]:
    """Runs a function over the tiles of a frame and joins its outputs.

    A frame that fits into one tile is run as it is. All tiles have one shape, so an engine prepares for one. Neighbors are cut
    in the middle of what they share, so each pixel comes from a tile that saw at least `overlap` pixels around it: with overlap
    >= radius that is all it depends on, and the result is the untiled one (up to the order in which an engine sums for another
    shape).

    Args:
        render_tiles: Takes the tiles, (h, w, 3), and gives their outputs in order, (scale * h, scale * w, C).
        frame: uint8, uint16 or float32 (H, W, 3).
        signature: Of the network.
        tile: Side in input pixels; 0 for the whole frame at once, None for `default_tile`.
        overlap: In input pixels; None for `default_overlap`.

    Returns:
        (scale * H, scale * W, C), of the outputs' dtype.

    Raises:
        UsageError: The tile is too small for its overlap, or the network depends on the whole frame.
        EngineError: A tile's output has another size than the scale says.
    """
    check_frame(frame)
    height, width = frame.shape[:2]
    rows, columns = plan_tiles(height, width, signature, tile, overlap)
    if len(rows) == len(columns) == 1:
        (output,) = render_tiles([frame])
        return output
    scale = signature.scale
    # Padded once as a whole: a tile at the border must see the same mirrored pixels as the whole frame would.
    padded = pad_frame(frame, signature)
    out: NDArray[Any] | None = None
    spans = list(product(rows, columns))
    tiles = (np.ascontiguousarray(padded[row.start : row.end, column.start : column.end]) for row, column in spans)
    for (row, column), output in zip(spans, render_tiles(tiles), strict=True):
        size = (row.end - row.start, column.end - column.start)
        if output.shape[:2] != (scale * size[0], scale * size[1]):
            raise EngineError(
                f"A tile of {size[1]}x{size[0]} pixels came back as {output.shape[1]}x{output.shape[0]}, "
                f"at scale {scale}; the manifest's scale is wrong."
            )
        if out is None:
            out = np.empty((scale * padded.shape[0], scale * padded.shape[1], output.shape[2]), output.dtype)
        out[scale * row.keep_start : scale * row.keep_end, scale * column.keep_start : scale * column.keep_end] = output[
            scale * (row.keep_start - row.start) : scale * (row.keep_end - row.start),
            scale * (column.keep_start - column.start) : scale * (column.keep_end - column.start),
        ]
    assert out is not None  # there is at least one row and one column
    return np.ascontiguousarray(out[: scale * height, : scale * width])


def plan_tiles(
    height: int, width: int, signature: Signature, tile: int | None, overlap: int | None
) -> tuple[list[TileSpan], list[TileSpan]]:
    """Plans the rows and the columns of the tiles.

    Args:
        height: Of the frame, in pixels.
        width: Of the frame, in pixels.
        signature: Of the network.
        tile: As in `run_tiled`.
        overlap: As in `run_tiled`.

    Returns:
        Rows and columns, in pixels of the padded frame.

    Raises:
        UsageError: As in `run_tiled`.
    """
    side = default_tile(signature) if tile is None else tile
    shared = default_overlap(signature) if overlap is None else overlap
    if side < 0 or shared < 0:
        raise UsageError(f"Tile and overlap are pixels, 0 or more; got tile {side} and overlap {shared}.")
    padded_height, padded_width = padded_size(height, width, signature)
    if side == 0 or max(padded_height, padded_width) <= side:
        return [TileSpan(0, padded_height, 0, padded_height)], [TileSpan(0, padded_width, 0, padded_width)]
    if signature.radius is None:
        raise UsageError(
            "Every output pixel of this network depends on the whole image (InstanceNorm or attention), so tiles would "
            "show; leave the tile size out, or make the image smaller."
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
    if side < signature.minimum:
        raise UsageError(f"The network takes no tile below {signature.round_up_side(1)} pixels; got {tile}.")
    return _plan_spans(padded_height, side, stride), _plan_spans(padded_width, side, stride)


def _plan_spans(size: int, side: int, stride: int) -> list[TileSpan]:
    """Tiles of `side` every `stride`, the last one flush with the end, each keeping up to the middle of what it shares."""
    if size <= side:
        return [TileSpan(0, size, 0, size)]
    starts = [*range(0, size - side, stride), size - side]
    cuts = [0, *((after + before + side) // 2 for before, after in pairwise(starts)), size]
    return [TileSpan(start, start + side, *cut) for start, cut in zip(starts, pairwise(cuts), strict=True)]
