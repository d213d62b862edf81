"""Sources: where the page's pictures come from: a still, a looped video file, a camera."""

from __future__ import annotations

import io
import math
import os
import stat
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from dni_deploy.errors import DniError, InputError, UsageError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import FORMATS, read_picture
from dni_deploy.utils.optional_packages import open_door

PHOTOGRAPH = files("dni_deploy") / "data" / "astronaut.png"
LARGEST_SIDE = 4096


class Shot(NamedTuple):
    """A frame and its number, which is another one where the frame is another one; nobody changes the pixels."""

    frame: Frame
    number: int


class Source(Protocol):
    """Pictures over time; used by one thread. `name` is what the page calls it, `moves` is False for a still."""

    name: str
    moves: bool

    def at(self, seconds: float) -> Shot:
        """The picture to show now; seconds never go back."""
        ...

    def wait(self, seconds: float) -> float:
        """How long until there is another picture, in seconds; infinity for a still."""
        ...

    def close(self) -> None: ...


class Still:
    """One picture."""

    moves = False

    def __init__(self, frame: Frame, name: str, size: tuple[int, int]) -> None:
        self.name = name
        self._shot = Shot(fitted(frame, size), 0)

    def at(self, seconds: float) -> Shot:
        return self._shot

    def wait(self, seconds: float) -> float:
        return math.inf

    def close(self) -> None:
        pass


def fit(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height that keep the shape and fit into size; never larger than they were, at least 1."""
    factor = min(1.0, size[0] / width, size[1] / height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def fitted(frame: Frame, size: tuple[int, int]) -> Frame:
    """The frame made small enough for `size`, by averaging; itself if it is."""
    height, width = frame.shape[:2]
    target = fit(width, height, size)
    if target == (width, height):
        return np.ascontiguousarray(frame)
    return np.asarray(Image.fromarray(frame).resize(target, Image.Resampling.LANCZOS))


def read_size(text: str) -> tuple[int, int]:
    """640x360 as (640, 360). Raises UsageError."""
    width, times, height = text.lower().partition("x")
    if not (times and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise UsageError(f"--size {shown(text, 40)} is not WIDTHxHEIGHT, such as 640x360.")
    pair = int(width[:6]), int(height[:6])
    if not all(16 <= side <= LARGEST_SIDE for side in pair):
        raise UsageError(f"--size takes sides from 16 to {LARGEST_SIDE} pixels, got {shown(text, 40)}.")
    return pair


def open_source(path: str | os.PathLike[str] | None, size: tuple[int, int], camera: int | None = None) -> Source:
    """A still by its suffix, anything else as a video; without a path the camera, or the photograph that comes with dni-deploy.

    Raises UsageError (a path and a camera), and what read_picture and the video reader raise.
    """
    if camera is not None:
        if path is not None:
            raise UsageError("Give a file or --camera, not both.")
        opened: Source = open_door("dni_deploy.webui.video_source").Camera(camera, size)
        return opened
    if path is None:
        with as_file(PHOTOGRAPH) as place:
            return Still(read_picture(place).rgb, "the photograph that comes with dni-deploy", size)
    place = Path(path)
    try:
        regular = stat.S_ISREG(os.stat(place).st_mode)
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(place)} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    if not regular:
        raise InputError(f"{shown(place)} is not a file; a source is a picture or a video file.")
    if place.suffix.lower() in FORMATS:
        return Still(read_picture(place).rgb, shown(place.name, 60), size)
    video: Source = open_door("dni_deploy.webui.video_source").LoopedVideo(place, size)
    return video


def uploaded(data: bytes, size: tuple[int, int]) -> Still:
    """A still from bytes that came from a page: by content alone, under a name of ours, and nothing of it is kept as a file.

    Raises InputError, PictureError or LimitError; their sentences hold no path.
    """
    with tempfile.TemporaryDirectory(prefix="dni-deploy-") as folder:
        place = Path(folder) / "picture"
        place.write_bytes(data)
        try:
            return Still(read_picture(place).rgb, "your picture", size)
        except DniError as error:
            raise type(error)(
                str(error).replace(shown(place), "that was sent").replace("that was sent", "The file", 1)
            ) from None


def jpeg(frame: Frame, quality: int) -> bytes:
    """A JPEG file; from quality 90 on with colour at full size."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    return buffer.getvalue()
