"""Draws the images of the page in one style and as small files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

matplotlib.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "dni"})

FIGURE_WIDTH_INCHES = 9.0
"""With FIGURE_DPI this is 990 pixels, which a page shows without downscaling."""
FIGURE_DPI = 110
MAX_PNG_BYTES = 400_000
"""Largest PNG; a larger one is reduced to a palette of 256 colors."""


def canvas(rows: int = 1, columns: int = 1, height: float = 3.0, **options: Any) -> tuple[Figure, NDArray[Any]]:
    """Makes a figure of the page's width and its axes, always a (rows, columns) array."""
    figure = Figure(figsize=(FIGURE_WIDTH_INCHES, height), dpi=FIGURE_DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def show(axes: Any, pixels: NDArray[Any], title: str = "", below: str = "") -> None:
    """Shows one image without smoothing and ticks: uint8 RGB, or a 2-D map in gray."""
    axes.imshow(pixels, cmap="gray", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, fontsize=8)
    axes.set_xlabel(below, fontsize=8)


def strip(images: Sequence[NDArray[np.uint8]], titles: Sequence[str], below: Sequence[str] = (), *, columns: int = 0) -> bytes:
    """Draws images side by side, in rows of `columns` (0: one row), as a PNG."""
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    side = FIGURE_WIDTH_INCHES / columns
    aspect = images[0].shape[0] / images[0].shape[1]
    figure, axes = canvas(rows, columns, rows * (side * aspect + (0.45 if below else 0.28)))
    for panel in axes.flat[len(images) :]:
        panel.set_axis_off()
    for index, (panel, pixels, title) in enumerate(zip(axes.flat, images, titles, strict=False)):
        show(panel, pixels, title, below[index] if below else "")
    return png(figure)


def png(figure: Figure) -> bytes:
    """Encodes the figure as a PNG, the same bytes for the same figure; ValueError above MAX_PNG_BYTES."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    image = Image.open(buffer).convert("RGB")
    encoded = _encode_png(image)
    if len(encoded) > MAX_PNG_BYTES:
        encoded = _encode_png(image.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE))
    if len(encoded) > MAX_PNG_BYTES:
        raise ValueError(f"the picture has {len(encoded)} bytes, {MAX_PNG_BYTES} are allowed: draw it smaller")
    return encoded


def _encode_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
