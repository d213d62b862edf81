"""At which levels, and where, a network runs so that every pixel of an image gets the alpha that a map gives it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.imaging.frames import padded_size
from dni_deploy.imaging.tiling import default_overlap, default_tile, plan_tiles
from dni_deploy.signature import Signature
from dni_deploy.spatial.alpha_map import AlphaMap
from dni_deploy.spatial.regions import MIN_REGION_SIDE_PX, Rect, find_regions


class MapTile(NamedTuple):
    """One run of the network, in input pixels.

    Attributes:
        input_rect: The part of the padded image that goes in.
        kept_rect: The part of it whose output is kept.
    """

    input_rect: Rect
    kept_rect: Rect


@dataclass(frozen=True, eq=False)
class MapLevel:
    """One alpha at which the network runs.

    Attributes:
        fraction: Of the distance from black (0) to white (1).
        weights: float32 (n,), how much of its output each code of the map gets.
        tiles: Where the network runs.
    """

    fraction: float
    weights: NDArray[np.float32]
    tiles: tuple[MapTile, ...]


@dataclass(frozen=True, eq=False)
class MapPlan:
    """What is computed for one map and every image of one size.

    Attributes:
        alpha_map: With a value for each output pixel, or for each input pixel.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        scale: Of the network.
        levels: Ascending; a level that no pixel needs is left out. At every pixel the weights of all levels sum to 1.
        relative_cost: Input pixels that go through the network, over those of a plain frame with the same tiles.
        exact: Whether each pixel's alpha is one of the levels, so that nothing is interpolated.
    """

    alpha_map: AlphaMap
    height: int
    width: int
    scale: int
    levels: tuple[MapLevel, ...]
    relative_cost: float
    exact: bool

    @property
    def tile_count(self) -> int:
        """Number of runs of the network."""
        return sum(len(level.tiles) for level in self.levels)

    def compute_weights(self, level: MapLevel, kept_rect: Rect) -> NDArray[np.float32]:
        """Computes how much of a level's output each output pixel of `kept_rect` gets: float32 (scale * h, scale * w)."""
        scale = self.scale
        # A map of the input's size has one value for each input pixel, which all of its output pixels get.
        of_input = self.alpha_map.height == self.height
        top, bottom, left, right = kept_rect if of_input else (scale * edge for edge in kept_rect)
        codes = self.alpha_map.codes[top:bottom, left:right]
        if of_input and scale > 1:
            codes = codes.repeat(scale, axis=0).repeat(scale, axis=1)
        return np.asarray(level.weights[codes])


def plan_map(
    alpha_map: AlphaMap,
    height: int,
    width: int,
    signature: Signature,
    *,
    levels: int | None = None,
    tile: int | None = None,
    overlap: int | None = None,
) -> MapPlan:
    """Plans what an image of a size needs. A network that sees the whole image runs whole at every level.

    Args:
        alpha_map: Of the image's size or of its output's.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        signature: Of the network.
        levels: The most levels; None: the map's own values if they are few, else `alpha_map.DEFAULT_LEVELS`.
        tile: None: rectangles that fit the map, none larger than a plain frame's tiles would be. 0: the same, of any size. Else
            side in pixels of the tiles that a plain frame is cut into, of which those run that a level needs: one shape, as an
            engine that was built for one wants it.
        overlap: Context in pixels; None for the network's radius.

    Raises:
        MismatchError: The map has another size.
        UsageError: Levels, tile or overlap are out of range.
    """
    alpha_map.check_fits(height, width, signature.scale)
    fractions = alpha_map.choose_levels(levels)
    rows, columns = plan_tiles(height, width, signature, tile, overlap)
    frame_tiles = [
        MapTile(
            Rect(row.start, row.end, column.start, column.end),
            Rect(row.keep_start, min(row.keep_end, height), column.keep_start, min(column.keep_end, width)),
        )
        for row in rows
        for column in columns
    ]
    halo = default_overlap(signature) if overlap is None else overlap
    limit = 0 if len(frame_tiles) == 1 else default_tile(signature)
    used_codes = alpha_map.used_codes()
    weights = alpha_map.compute_weights(fractions)
    weights[:, ~used_codes] = 0  # a code that no pixel has needs nothing
    planned = []
    for fraction, level_weights in zip(fractions, weights, strict=True):
        if not level_weights.any():
            continue
        needed = _find_needed_inputs(level_weights > 0, alpha_map, height, signature.scale)
        if tile or signature.radius is None:
            tiles = [map_tile for map_tile in frame_tiles if _is_needed(needed, map_tile.kept_rect)]
        else:
            tiles = [
                MapTile(_add_context(rect, halo, height, width, signature), rect) for rect in find_regions(needed, halo, limit)
            ]
        planned.append(MapLevel(float(fraction), level_weights, tuple(tiles)))
    cost = sum(map_tile.input_rect.area for level in planned for map_tile in level.tiles)
    relative_cost = cost / sum(map_tile.input_rect.area for map_tile in frame_tiles)
    exact = bool(np.isin(alpha_map.values[used_codes], fractions).all())
    return MapPlan(alpha_map, height, width, signature.scale, tuple(planned), relative_cost, exact)


def _find_needed_inputs(needed_codes: NDArray[np.bool_], alpha_map: AlphaMap, height: int, scale: int) -> NDArray[np.bool_]:
    """The input pixels of whose output something is needed: bool (H, W)."""
    outputs: NDArray[np.bool_] = needed_codes[alpha_map.codes]
    if alpha_map.height == height:
        return outputs
    return np.asarray(outputs.reshape(height, scale, -1, scale).any(axis=(1, 3)))


def _is_needed(needed: NDArray[np.bool_], rect: Rect) -> bool:
    return bool(needed[rect.top : rect.bottom, rect.left : rect.right].any())


def _add_context(rect: Rect, halo: int, height: int, width: int, signature: Signature) -> Rect:
    """The rectangle with its context, of a size that a network takes, within the padded image."""
    padded_height, padded_width = padded_size(height, width, signature)
    return Rect(
        *_extend_side(rect.top - halo, rect.bottom + halo, padded_height, signature),
        *_extend_side(rect.left - halo, rect.right + halo, padded_width, signature),
    )


def _extend_side(low: int, high: int, size: int, signature: Signature) -> tuple[int, int]:
    low, high, least = max(low, 0), min(high, size), max(MIN_REGION_SIDE_PX, signature.minimum)
    short = min(least, size) - (high - low)
    if short > 0:
        low = max(0, min(low - short // 2, size - least))
        high = min(size, max(high, low + least))
    return low - low % signature.multiple, -(-high // signature.multiple) * signature.multiple
