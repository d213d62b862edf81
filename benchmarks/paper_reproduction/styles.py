"""Styles: the two pictures that the style families learn from, each at two stroke sizes. No painter's work is in here.

`mosaic` is generated: tiles of a jittered grid in sea colours, dark grout between them. `fire` is the bundled photograph of
grass in the colours of heat: its blades are the tongues. A larger stroke is a larger tile, or a larger
photograph.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from benchmarks.paper_reproduction.photographs import photograph, resized

SIDE = 256
"""Height and width of every style picture."""

SEA = ((16, 42, 92), (24, 92, 150), (48, 150, 176), (120, 200, 200), (238, 234, 214), (232, 176, 56))
GROUT = (14, 16, 28)
HEAT = ((10, 2, 4), (120, 12, 8), (232, 80, 12), (252, 180, 40), (255, 246, 190))
HEAT_RANKS = (0.0, 0.35, 0.6, 0.82, 1.0)
"""Colours of fire by brightness rank: most of it glows, a third is nearly black."""

TILE = {"small": 11, "large": 26}
"""Edge of a mosaic's tile in pixels."""

GRASS = {"small": 0.55, "large": 1.2}
"""Size of the fire's photograph against the bundled one."""


def mosaic(stroke: str, seed: int = 0) -> NDArray[np.uint8]:
    """Tiles of one colour each, (SIDE, SIDE, 3)."""
    rng, edge = np.random.default_rng(seed), TILE[stroke]
    corners = np.stack(np.meshgrid(*[np.arange(-edge, SIDE + 2 * edge, edge)] * 2, indexing="ij"), -1).reshape(-1, 2)
    centres = KDTree(corners + rng.uniform(-0.33, 0.33, corners.shape) * edge)
    distances, nearest = centres.query(np.indices((SIDE, SIDE)).reshape(2, -1).T, k=2)
    colours = np.array(SEA)[rng.integers(len(SEA), size=len(corners))] + rng.normal(0, 8, (len(corners), 1))
    pixels = np.where((distances[:, 1] - distances[:, 0] < edge * 0.16)[:, None], GROUT, colours[nearest[:, 0]])
    return np.clip(pixels, 0, 255).astype(np.uint8).reshape(SIDE, SIDE, 3)


def fire(stroke: str) -> NDArray[np.uint8]:
    """The grass by its brightness ranks in the colours of heat, (SIDE, SIDE, 3)."""
    grass = photograph("grass")
    side = round(grass.shape[0] * GRASS[stroke])
    grey = resized(grass, side, side)[:SIDE, :SIDE, 0].astype(np.float64)
    ranks = np.searchsorted(np.sort(grey, axis=None), grey) / grey.size
    return np.stack([np.interp(ranks, HEAT_RANKS, [colour[k] for colour in HEAT]) for k in range(3)], -1).astype(np.uint8)


STYLES = {f"{name}_{stroke}": style(stroke) for name, style in (("mosaic", mosaic), ("fire", fire)) for stroke in TILE}
"""The four corners of the stroke x style plane."""
