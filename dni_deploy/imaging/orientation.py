"""The eight orientations in which stored pixels can be shown: four turns, each with or without a mirror image."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)

DISPLAY_MATRIX = struct.Struct("=9i")
"""FFmpeg's display matrix a b u, c d v, x y w: a stored point (p, q) is shown at (a p + c q + x, b p + d q + y), y downward.

Source: libavutil/display.h; ISO 14496-12, 8.3.2.
"""

MAX_SKEW = 0.01
"""How far, of 1, a matrix may be from a right angle and from equal scales, and still be one of the eight; about half a degree."""


@dataclass(frozen=True)
class Orientation:
    """How stored pixels become upright: first rows and columns are exchanged, then the result is mirrored.

    Attributes:
        is_transposed: Rows become columns.
        flips_x: Left and right are exchanged, after that.
        flips_y: Top and bottom are exchanged, after that.
    """

    is_transposed: bool = False
    flips_x: bool = False
    flips_y: bool = False

    @classmethod
    def from_display_matrix(cls, data: bytes) -> Orientation | None:
        """Reads a display matrix as FFmpeg attaches it to frames.

        Args:
            data: Nine native int32.

        Returns:
            The orientation, or None where the matrix does something else: another angle, unequal scales, a perspective.
        """
        if len(data) < DISPLAY_MATRIX.size:
            return None
        a, b, u, c, d, v, _, _, _ = DISPLAY_MATRIX.unpack_from(data)
        straight, crossed = (a, d), (b, c)
        is_transposed = abs(b) + abs(c) > abs(a) + abs(d)
        x_scale, y_scale = (c, b) if is_transposed else (a, d)
        size = max(abs(x_scale), abs(y_scale))
        rest = (*(straight if is_transposed else crossed), abs(x_scale) - abs(y_scale))
        if size == 0 or u or v or any(abs(value) > MAX_SKEW * size for value in rest):
            return None
        return cls(is_transposed, x_scale < 0, y_scale < 0)

    @classmethod
    def from_exif(cls, number: int) -> Orientation:
        """Makes the orientation of EXIF's tag Orientation; a number that is none of its eight changes nothing.

        Source: Exif 3.0, 4.6.5.1.7.
        """
        is_transposed = 5 <= number <= 8
        return cls(is_transposed, number in (2, 3, 6, 7), number in (3, 4, 7, 8))

    def __bool__(self) -> bool:
        """Returns whether anything changes."""
        return self.is_transposed or self.flips_x or self.flips_y

    def __str__(self) -> str:
        is_mirrored = self.is_transposed ^ self.flips_x ^ self.flips_y
        # A mirror image is described as the mirror image, left and right exchanged, of a turn.
        flips_x = self.flips_x ^ is_mirrored
        degrees = (90 if flips_x else 270) if self.is_transposed else 180 if flips_x else 0
        turn = f"turned clockwise by {degrees} degrees" if degrees else ""
        return " and ".join(filter(None, (turn, "mirrored" if is_mirrored else ""))) or "upright"

    def orient_size(self, width: int, height: int) -> tuple[int, int]:
        """Returns width and height as shown."""
        return (height, width) if self.is_transposed else (width, height)

    def apply(self, pixels: NDArray[T]) -> NDArray[T]:
        """Makes stored pixels upright.

        Args:
            pixels: (H, W, ...), of any type.

        Returns:
            A new contiguous array, or `pixels` itself where nothing changes.
        """
        if not self:
            return pixels
        upright = pixels.swapaxes(0, 1) if self.is_transposed else pixels
        return np.ascontiguousarray(upright[:: -1 if self.flips_y else 1, :: -1 if self.flips_x else 1])
