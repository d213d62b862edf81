"""The protocol of everything that supplies the web UI with frames, and the size that a frame is fitted into."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from dni_deploy.imaging.frames import Frame


class SourceFrame(NamedTuple):
    """A frame and its number, which is another one where the frame is another one; nobody changes the pixels."""

    frame: Frame
    number: int


class FrameSource(Protocol):
    """Pictures over time; used by one thread. `name` is what the page calls it, `is_moving` is False for a still."""

    name: str
    is_moving: bool

    def get_frame(self, seconds: float) -> SourceFrame:
        """The picture to show now; seconds never go back."""
        ...

    def seconds_until_next(self, seconds: float) -> float:
        """How long until there is another picture, in seconds; infinity for a still."""
        ...

    def close(self) -> None: ...


def compute_fitted_size(width: int, height: int, max_size: tuple[int, int]) -> tuple[int, int]:
    """Width and height that keep the shape and fit into size; never larger than they were, at least 1."""
    factor = min(1.0, max_size[0] / width, max_size[1] / height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def fit_to_size(frame: Frame, max_size: tuple[int, int]) -> Frame:
    """The frame made small enough for `max_size`, by averaging; itself if it is."""
    height, width = frame.shape[:2]
    target = compute_fitted_size(width, height, max_size)
    if target == (width, height):
        return np.ascontiguousarray(frame)
    return np.asarray(Image.fromarray(frame).resize(target, Image.Resampling.LANCZOS))
