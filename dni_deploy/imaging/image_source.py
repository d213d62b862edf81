"""An image file that is being read, as the readers of what it holds beside its pixels need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO


@dataclass(frozen=True)
class ImageSource:
    """An image file that is being read.

    Attributes:
        file: The file.
        format: Name of its format, as Pillow names it.
        pixels: "RGB", "GRAY" or "CMYK": what a color profile has to be for.
        info: What Pillow found in it; empty for a file that another decoder reads.
    """

    file: BinaryIO
    format: str
    pixels: str = "RGB"
    info: Mapping[Any, Any] = field(default_factory=dict)
