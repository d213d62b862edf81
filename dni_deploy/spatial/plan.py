"""MapPlan: at which levels, and where, a network is run so that every pixel of a picture gets the alpha that a map gives it."""

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
    """One run: the part of the padded picture that goes in, and the part of it whose output is kept; input pixels."""

    input_rect: Rect
    kept_rect: Rect


@dataclass(frozen=True, eq=False)
class MapLevel:
    """One alpha: `share` of the way from black to white; weights: float32 (n,), how much of its output each code gets."""

    fraction: float
    weights: NDArray[np.float32]
    tiles: tuple[MapTile, ...]


@dataclass(frozen=True, eq=False)
class MapPlan:
    """What is computed for one map and one size of picture; good for every picture of that size.

    map     with a value for each output pixel, or for each input pixel.
    levels  ascending; a level that no pixel needs is not there. At every pixel the weights of all levels sum to 1.
    work    input pixels that go through the network, over those of a plain frame with the same tiles.
    exact   each pixel's alpha is one of the levels: nothing is interpolated.
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
        return sum(len(level.tiles) for level in self.levels)

    def compute_weights(self, level: MapLevel, kept_rect: Rect) -> NDArray[np.float32]:
        """float32 (scale * h, scale * w): how much of the level's output each output pixel of `kept_rect` gets."""
        scale = self.scale
        if self.alpha_map.height == self.height:  # one value for each input pixel: the whole of its output pixels gets it
            codes = self.alpha_map.codes[kept_rect.top : kept_rect.bottom, kept_rect.left : kept_rect.right]
            codes = codes.repeat(scale, axis=0).repeat(scale, axis=1) if scale > 1 else codes
        else:
            codes = self.alpha_map.codes[
                scale * kept_rect.top : scale * kept_rect.bottom, scale * kept_rect.left : scale * kept_rect.right
            ]
        found: NDArray[np.float32] = level.weights[codes]
        return found


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
    """Work out what a picture of this size needs.

    levels   most levels; None: the map's own values if they are few, else alpha_map.LEVELS.
    tile     None: rectangles that fit the map, none larger than a plain frame's tiles would be. 0: the same, of any size. Else the
             tiles that a plain frame is cut into at this size, those that a level needs: one shape, as an engine that was built for one
             wants it. overlap: None for the network's radius. A network that sees the whole picture runs whole at every level.
    Raises MismatchError (the map has another size), UsageError (levels, tile, overlap).
    """
    alpha_map.check_fits(height, width, signature.scale)
    own = alpha_map.choose_levels(levels)
    rows, columns = plan_tiles(height, width, signature, tile, overlap)
    tiles = [
        MapTile(Rect(top, bottom, left, right), Rect(first, min(last, height), start, min(end, width)))
        for top, bottom, first, last in rows
        for left, right, start, end in columns
    ]
    halo = default_overlap(signature) if overlap is None else overlap
    limit = 0 if len(tiles) == 1 else default_tile(signature)
    weights = alpha_map.compute_weights(own)
    weights[:, ~alpha_map.used_codes()] = 0  # a code that no pixel has asks for nothing
    made = []
    for share, row in zip(own, weights, strict=True):
        if not row.any():
            continue
        needed = _find_needed_inputs(row > 0, alpha_map, height, signature.scale)
        if tile or signature.radius is None:
            pieces = [piece for piece in tiles if _is_needed(needed, piece.kept_rect)]
        else:
            pieces = [
                MapTile(_add_context(rect, halo, height, width, signature.multiple), rect)
                for rect in find_regions(needed, halo, limit)
            ]
        made.append(MapLevel(float(share), row, tuple(pieces)))
    area, plain = (
        sum(piece.input_rect.area for level in made for piece in level.tiles),
        sum(piece.input_rect.area for piece in tiles),
    )
    exact = bool(np.isin(alpha_map.values[alpha_map.used_codes()], own).all())
    return MapPlan(alpha_map, height, width, signature.scale, tuple(made), area / plain, exact)


def _find_needed_inputs(needed_codes: NDArray[np.bool_], alpha_map: AlphaMap, height: int, scale: int) -> NDArray[np.bool_]:
    """bool (H, W): the input pixels of whose output something is wanted."""
    outputs: NDArray[np.bool_] = needed_codes[alpha_map.codes]
    if alpha_map.height == height:
        return outputs
    inputs: NDArray[np.bool_] = np.logical_or.reduce(outputs.reshape(height, scale, -1, scale), axis=(1, 3))
    return inputs


def _is_needed(needed: NDArray[np.bool_], rect: Rect) -> bool:
    return bool(needed[rect.top : rect.bottom, rect.left : rect.right].any())


def _add_context(rect: Rect, halo: int, height: int, width: int, multiple: int) -> Rect:
    """The rectangle with its context, of a size that a network takes, within the padded picture."""
    padded_height, padded_width = padded_size(height, width, multiple)
    return Rect(
        *_extend_side(rect.top - halo, rect.bottom + halo, padded_height, multiple),
        *_extend_side(rect.left - halo, rect.right + halo, padded_width, multiple),
    )


def _extend_side(low: int, high: int, size: int, multiple: int) -> tuple[int, int]:
    low, high = max(low, 0), min(high, size)
    short = min(MIN_REGION_SIDE_PX, size) - (high - low)
    if short > 0:
        low = max(0, min(low - short // 2, size - MIN_REGION_SIDE_PX))
        high = min(size, max(high, low + MIN_REGION_SIDE_PX))
    return low - low % multiple, -(-high // multiple) * multiple
