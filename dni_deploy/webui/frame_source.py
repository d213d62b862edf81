"""The protocol of what supplies the web UI with frames, its simplest implementation, and how a frame is made to fit."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from dni_deploy.imaging.frames import Frame


class VideoPosition(NamedTuple):
    """A frame's place in a video file, as `video` counts.

    Attributes:
        frame: Number of the frame in the file, from 0.
        seconds: Its time from the first frame.
        pass_number: How often the video had begun anew.
    """

    frame: int
    seconds: float
    pass_number: int


class SourceFrame(NamedTuple):
    """A frame of a source.

    Attributes:
        frame: uint8 (H, W, 3), RGB; nobody changes the pixels.
        number: Differs wherever the frame differs; of a video, the number of frames before it in all passes.
        position: Its place in the video; None where it has none.
    """

    frame: Frame
    number: int
    position: VideoPosition | None = None


class FrameSource(Protocol):
    """Supplies frames over time.

    Attributes:
        name: What the page calls the source.
        is_moving: False for a still image.

    Thread safety: used by one thread, which may be another one than that which closes it.
    """

    name: str
    is_moving: bool

    def get_frame(self, seconds: float) -> SourceFrame:
        """Returns the frame to show at a time, in seconds, which never goes back."""
        ...

    def seconds_until_next(self, seconds: float) -> float:
        """Returns how long it takes until there is another frame, in seconds; infinity for a still image."""
        ...

    def locate(self, seconds: float) -> VideoPosition | None:
        """Returns where a video is at a time; beyond the last `get_frame` by the frame rate. None for anything else.

        Any thread may call it.
        """
        ...

    def close(self) -> None:
        """Releases the file or the device, and ends the threads."""
        ...


class StillImage:
    """Supplies one image."""

    is_moving = False

    def __init__(self, frame: Frame, name: str, max_size: tuple[int, int]) -> None:
        """Makes the image small enough.

        Args:
            frame: uint8 (H, W, 3), RGB.
            name: What the page calls it.
            max_size: Largest width and height in pixels.
        """
        self.name = name
        self._source_frame = SourceFrame(fit_to_size(frame, max_size), 0)

    def get_frame(self, seconds: float) -> SourceFrame:
        """Returns the image."""
        return self._source_frame

    def seconds_until_next(self, seconds: float) -> float:
        """Returns infinity."""
        return math.inf

    def locate(self, seconds: float) -> VideoPosition | None:
        """Returns None."""
        return None

    def close(self) -> None:
        """Does nothing."""


def compute_fitted_size(width: int, height: int, max_size: tuple[int, int]) -> tuple[int, int]:
    """Computes the width and height that keep the aspect ratio and fit into a size.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        max_size: Largest width and height.

    Returns:
        Width and height; never larger than they were, at least 1.
    """
    factor = min(1.0, max_size[0] / width, max_size[1] / height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def fit_to_size(frame: Frame, max_size: tuple[int, int]) -> Frame:
    """Scales a frame down until it fits.

    Args:
        frame: uint8 (H, W, 3).
        max_size: Largest width and height in pixels.

    Returns:
        uint8 (H, W, 3), C-contiguous; the frame itself if it fits and is contiguous.
    """
    height, width = frame.shape[:2]
    size = compute_fitted_size(width, height, max_size)
    if size == (width, height):
        return np.ascontiguousarray(frame)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
