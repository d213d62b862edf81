"""Whether a file holds all the pixels that it claims: decoders fill in what is missing without a word, or allocate it first."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Color type -> number of channels."""

ADAM7_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and the steps to the next ones. Source: PNG 3, 8.1."""

INFLATE_BYTES = 1 << 20

_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
"""A marker of a JPEG file that ends the data of a scan: no stuffed byte, no restart."""

_ARITHMETIC_CODING = frozenset({0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
"""An arithmetic coder may leave zeros out at the end, so that what follows counts."""

_FILLER = b"".join(bytes(range(0x30, 0x50)) + bytes((0xFF, 0xD0 + number)) for number in range(8)) + bytes(range(0x50, 0xF0))
"""What no picture goes on with: bytes that decode to something, and every restart marker."""


def check_raw_raster(file_size: int, image: Image.Image) -> None:
    """Checks, before anything is decoded, that a file is as long as the uncompressed pixels that its header claims.

    Args:
        file_size: In bytes.
        image: As Pillow opened it; compressed pixels are left to their decoder.

    Raises:
        ValueError: The file is shorter.
    """
    assert isinstance(image, ImageFile)
    for codec, extents, offset, arguments in image.tile:
        if codec == "raw" and extents is not None and arguments is not None:
            left, top, right, bottom = extents
            mode, row_bytes = (arguments, 0) if isinstance(arguments, str) else arguments[:2]
            width = right - left
            row_bytes = row_bytes or {"RGB": 3 * width, "L": width}.get(mode, (width + 7) // 8)  # at least: of 1-bit pixels
            if offset + row_bytes * (bottom - top) > file_size:
                raise ValueError("rows are missing at the end")


def check_png_raster(file: BinaryIO, pixels: NDArray[Any]) -> None:
    """Checks that a PNG file decompresses to as many bytes as its header claims.

    Pillow makes what is missing 0. So the file is only decompressed once more where a row at the end is 0.

    Args:
        file: The file; its position is moved.
        pixels: What it was decoded to, (H, W) or (H, W, C), a palette not resolved.

    Raises:
        ValueError: It does not.
        Exception: The file is damaged: zlib.error, struct.error.
    """
    file.seek(8)
    length, _, width, height, depth, color, _, _, interlace = struct.unpack(">I4sIIBBBBB", file.read(21))
    if not interlace and pixels[-1].any():
        return
    expected = _count_png_bytes(width, height, depth * PNG_CHANNELS[color], interlace)
    file.seek(20 + length)
    found, inflater = 0, zlib.decompressobj()
    while found < expected and len(head := file.read(8)) == 8:
        size, name = struct.unpack(">I4s", head)
        if name != b"IDAT":
            file.seek(size + 4, 1)
            continue
        data = file.read(size)
        while data and found < expected:
            found += len(inflater.decompress(data, INFLATE_BYTES))
            data = inflater.unconsumed_tail
        file.seek(4, 1)
    if found < expected:
        raise ValueError(f"it holds {found} of {expected} bytes of its pixels")


def _count_png_bytes(width: int, height: int, bits: int, interlace: int) -> int:
    """Counts the bytes of all rows, each with the one that names its filter."""
    passes = ADAM7_PASSES if interlace else ((0, 0, 1, 1),)
    total = 0
    for left, top, step_x, step_y in passes:
        columns, rows = -(-max(width - left, 0) // step_x), -(-max(height - top, 0) // step_y)
        if columns:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def check_jpeg_raster(
    data: bytes, pixels: NDArray[Any], decode: Callable[[bytes], NDArray[Any]], *, is_progressive: bool
) -> None:
    """Checks that a JPEG file has data for each of its pixels.

    libjpeg makes what is missing gray, or leaves it coarse in a progressive file, and goes on. So such a file is decoded once
    more with a filler behind its last scan: a whole image stays as it is, while one that needs more data takes the filler for it.

    Args:
        data: The file.
        pixels: What it was decoded to.
        decode: Decodes it.
        is_progressive: Whether it is a progressive file.

    Raises:
        ValueError: It has not.
    """
    if np.any(np.abs(pixels[-1, -1].astype(int) - 128) > 2) and not is_progressive:
        return
    end = _find_jpeg_end(data)
    if end is None:
        return
    try:
        other = decode(data[:end] + _FILLER + data[end:])
    except Exception:  # the filler may be too strange for a decoder, which says nothing about the file
        return
    if not np.array_equal(pixels, other):
        raise ValueError("its data end before its pixels do")


def _find_jpeg_end(data: bytes) -> int | None:
    """Finds the marker that ends the first image; None where there is none, or where that cannot be decided."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xD9:
            return position
        if marker == 0xFF:
            position += 1
            continue
        if marker in _ARITHMETIC_CODING:
            return None
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:
            found = _NEXT_MARKER.search(data, position)
            if found is None:
                return None
            position = found.end() - 2
    return position if data[position : position + 2] == b"\xff\xd9" else None
