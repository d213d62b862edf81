"""The formats of image files: their suffixes, how they are written, and what each of them can hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dni_deploy.errors import UsageError, escape_name


@dataclass(frozen=True)
class ImageFormat:
    """One format of image files.

    Attributes:
        name: As Pillow names it.
        suffixes: With the dot, in lower case.
        encoder_options: Pillow's options for writing it.
        max_side_px: Longest side that it holds.
        has_transparency: Whether it holds an alpha channel.
        has_gray: Whether it holds pixels of one channel.
        has_profile: Whether it holds an ICC profile.
    """

    name: str
    suffixes: tuple[str, ...]
    encoder_options: Mapping[str, object] = field(default_factory=dict)
    max_side_px: int = 2**31 - 1
    has_transparency: bool = False
    has_gray: bool = True
    has_profile: bool = True


IMAGE_FORMATS = (
    ImageFormat("PNG", (".png",), has_transparency=True),
    # 4:4:4: color at full size, or fine detail bleeds
    ImageFormat("JPEG", (".jpg", ".jpeg"), {"quality": 95, "subsampling": 0}, max_side_px=65_500),
    # exact: colors under transparent pixels stay
    ImageFormat("WEBP", (".webp",), {"lossless": True, "exact": True}, 16_383, has_transparency=True, has_gray=False),
    ImageFormat("TIFF", (".tif", ".tiff"), {"compression": "tiff_deflate"}, has_transparency=True),
    ImageFormat("BMP", (".bmp",), has_profile=False),
)
"""What is read and written. Reading goes by content; the list keeps every other decoder of Pillow out of reach."""

FORMAT_BY_SUFFIX = {suffix: image_format for image_format in IMAGE_FORMATS for suffix in image_format.suffixes}
"""What is written, by suffix."""

READABLE_SUFFIXES = frozenset(FORMAT_BY_SUFFIX)
"""The suffixes of files that are looked for in folders."""


def output_format(path: str | os.PathLike[str]) -> ImageFormat:
    """Returns the format that a suffix stands for.

    Raises:
        UsageError: The suffix is none of FORMAT_BY_SUFFIX.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMAT_BY_SUFFIX:
        raise UsageError(
            f"{escape_name(path)} ends in {escape_name(suffix)!r}, which names no image format; "
            f"use one of {', '.join(FORMAT_BY_SUFFIX)}. Nothing was written."
        )
    return FORMAT_BY_SUFFIX[suffix]
