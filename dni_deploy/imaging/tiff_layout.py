"""How the pixels of a TIFF file are stored, and whether they are all there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import TiffImagePlugin

NEW_SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR, SUB_DIRECTORIES = 273, 277, 278, 279, 284, 330
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT, DNG_VERSION = 338, 339, 50706
"""Tags. Source: TIFF 6.0; DNG 1.7."""

UNCOMPRESSED, SEPARATE_PLANES, YCBCR = 1, 2, 6
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


@dataclass(frozen=True)
class TiffLayout:
    """The layout of the first image of a TIFF file.

    Attributes:
        width: In pixels.
        height: In pixels.
        bits: Of the deepest channel.
        sample_format: UNSIGNED, SIGNED, FLOAT or another number.
        has_more_pages: Whether other images follow.
        is_raw: Whether the image is only the thumbnail of a camera's raw file.
        missing: What of the pixels is not in the file, as the end of a sentence; None where all are.
    """

    width: int
    height: int
    bits: int
    sample_format: int
    has_more_pages: bool
    is_raw: bool
    missing: str | None

    @property
    def is_deep(self) -> bool:
        """Whether it has more than 8 bits a channel, or numbers that are not unsigned integers."""
        return self.bits > 8 or self.sample_format != UNSIGNED

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of its frame."""
        if not self.is_deep:
            return np.dtype(np.uint8)
        return np.dtype(np.float32 if self.sample_format == FLOAT else np.uint16)


def read_tiff_layout(file: BinaryIO) -> TiffLayout:
    """Reads the layout. Nothing is allocated of the size that the file claims.

    Args:
        file: The file; its position is moved.

    Returns:
        The layout.

    Raises:
        Exception: The directory is damaged: KeyError, ValueError and others.
    """
    file.seek(0)
    header = file.read(8)
    if header[2:4] in (b"+\0", b"\0+"):
        header += file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    file_bytes = file.seek(0, 2)
    width, height = int(tags[WIDTH]), int(tags[HEIGHT])
    if width < 1 or height < 1:
        raise ValueError("it has no pixels")
    return TiffLayout(
        width,
        height,
        max(_numbers(tags, BITS) or [1]),
        max(_numbers(tags, SAMPLE_FORMAT) or [UNSIGNED]),
        tags.next != 0,
        DNG_VERSION in tags or (bool(int(tags.get(NEW_SUBFILE_TYPE, 0)) & 1) and SUB_DIRECTORIES in tags),
        _find_missing(tags, width, height, file_bytes),
    )


def _numbers(tags: Any, tag: int) -> list[int]:
    value = tags.get(tag, ())
    return [int(number) for number in (value if isinstance(value, Sequence) else (value,))]


def _find_missing(tags: Any, width: int, height: int, file_bytes: int) -> str | None:
    """Compares what the strips or tiles hold with what the size claims."""
    is_tiled = TILE_OFFSETS in tags
    offsets = _numbers(tags, TILE_OFFSETS if is_tiled else STRIP_OFFSETS)
    sizes = _numbers(tags, TILE_BYTES if is_tiled else STRIP_BYTES)
    planes = int(tags.get(SAMPLES, 1)) if tags.get(PLANAR) == SEPARATE_PLANES else 1
    part_width, part_height = (
        (int(tags[TILE_WIDTH]), int(tags[TILE_HEIGHT]))
        if is_tiled
        else (width, min(int(tags.get(ROWS_PER_STRIP, height)), height))
    )
    name = "tiles" if is_tiled else "strips"
    count = math.ceil(width / part_width) * math.ceil(height / part_height) * planes
    if len(offsets) < count or len(sizes) < count:
        return f"it has {min(len(offsets), len(sizes))} of {count} {name} of its pixels"
    row_bytes = math.ceil(part_width * sum(_numbers(tags, BITS) or [1]) / (planes * 8))
    if tags.get(COMPRESSION, UNCOMPRESSED) != UNCOMPRESSED or tags.get(PHOTOMETRIC) == YCBCR:
        row_bytes = 0  # what it decompresses to is the decoder's to check
    rows_of_last = part_height if is_tiled else height - part_height * (math.ceil(height / part_height) - 1)
    parts_per_plane = count // planes
    for index in range(count):
        is_last = not is_tiled and index % parts_per_plane == parts_per_plane - 1
        least = max(1, row_bytes * (rows_of_last if is_last else part_height))
        if sizes[index] < least or offsets[index] + sizes[index] > file_bytes:
            return f"{name[:-1]} {index + 1} of {count} of its pixels is cut off"
    return None
