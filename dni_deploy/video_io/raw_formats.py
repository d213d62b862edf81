"""Lane: one format of raw video, in at one end and out at the other; y4m or rgb24."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.session.session import RenderedFrame


@dataclass(frozen=True)
class RawFrame:
    """One frame on its way in: uint8 (H, W, 3), and what the stream said beside it."""

    rgb: Frame
    parameters: tuple[bytes, ...] = ()


class RawVideoFormat(Protocol):
    """`read` is used by one thread and `encode_frame` by one other.

    width, height   of the input.        scale   of the network: the output is that many times as wide and high.
    rate            frames per second; None where nobody says.
    notes           sentences on what was taken for granted.
    """

    width: int
    height: int
    scale: int
    rate: Fraction | None
    notes: tuple[str, ...]

    def encode_header(self) -> bytes:
        """What comes before the first frame."""
        ...

    def read(self) -> Iterator[RawFrame]:
        """The pictures, up to the end of the stream. Raises InputError, PartialResultError."""
        ...

    def encode_frame(self, frame: RawFrame, rendered: RenderedFrame) -> NDArray[np.uint8]:
        """The bytes of the output frame, uint8 (bytes,), in one piece."""
        ...


def parse_rate(text: str) -> Fraction:
    """Frames per second from "25", "29.97", "30000/1001" or "30000:1001". Raises UsageError."""
    try:
        rate = Fraction(text.strip().replace(":", "/")) if len(text) < 40 else Fraction(0)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not (0 < rate <= 10**6 and rate.denominator <= 10**9):
        raise UsageError(f"--fps {escape_name(text, 40)} is not a frame rate, such as 25, 29.97 or 30000/1001.")
    return rate
