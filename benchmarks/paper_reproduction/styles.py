"""The two images that the style families learn from, each at two stroke sizes. Neither is the work of a painter.

`mosaic` is generated: tiles of a jittered grid in sea colors, dark grout between them. `fire` is the bundled photograph of
grass in the colors of heat: its blades are the tongues. A larger stroke is a larger tile, or a larger
photograph.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from benchmarks.photographs import photograph, resize_image

STYLE_SIDE_PX = 256
"""Height and width of every style image."""

SEA_COLORS = ((16, 42, 92), (24, 92, 150), (48, 150, 176), (120, 200, 200), (238, 234, 214), (232, 176, 56))
GROUT_COLOR = (14, 16, 28)
HEAT_COLORS = ((10, 2, 4), (120, 12, 8), (232, 80, 12), (252, 180, 40), (255, 246, 190))
HEAT_RANKS = (0.0, 0.35, 0.6, 0.82, 1.0)
"""Colors of fire by brightness rank: most of it is bright, a third is nearly black."""

TILE_EDGE_PX = {"small": 11, "large": 26}
"""Edge of a mosaic's tile in pixels."""

GRASS_SCALE = {"small": 0.55, "large": 1.2}
"""Scale of the fire's photograph relative to the bundled one."""


def mosaic(stroke: str, seed: int = 0) -> NDArray[np.uint8]:
    """Tiles of one color each, (STYLE_SIDE_PX, STYLE_SIDE_PX, 3)."""
    rng, edge = np.random.default_rng(seed), TILE_EDGE_PX[stroke]
    corners = np.stack(np.meshgrid(*[np.arange(-edge, STYLE_SIDE_PX + 2 * edge, edge)] * 2, indexing="ij"), -1).reshape(-1, 2)
    centers = KDTree(corners + rng.uniform(-0.33, 0.33, corners.shape) * edge)
    distances, nearest = centers.query(np.indices((STYLE_SIDE_PX, STYLE_SIDE_PX)).reshape(2, -1).T, k=2)
    colors = np.array(SEA_COLORS)[rng.integers(len(SEA_COLORS), size=len(corners))] + rng.normal(0, 8, (len(corners), 1))
    pixels = np.where((distances[:, 1] - distances[:, 0] < edge * 0.16)[:, None], GROUT_COLOR, colors[nearest[:, 0]])
    return np.clip(pixels, 0, 255).astype(np.uint8).reshape(STYLE_SIDE_PX, STYLE_SIDE_PX, 3)


def fire(stroke: str) -> NDArray[np.uint8]:
    """The grass by its brightness ranks in the colors of heat, (STYLE_SIDE_PX, STYLE_SIDE_PX, 3)."""
    grass = photograph("grass")
    side = round(grass.shape[0] * GRASS_SCALE[stroke])
    gray = resize_image(grass, side, side)[:STYLE_SIDE_PX, :STYLE_SIDE_PX, 0].astype(np.float64)
    ranks = np.searchsorted(np.sort(gray, axis=None), gray) / gray.size
    return np.stack([np.interp(ranks, HEAT_RANKS, [color[k] for color in HEAT_COLORS]) for k in range(3)], -1).astype(np.uint8)


STYLE_IMAGES = {
    f"{name}_{stroke}": style(stroke) for name, style in (("mosaic", mosaic), ("fire", fire)) for stroke in TILE_EDGE_PX
}
"""The four corners of the stroke x style plane."""
