"""Sources: where the page's pictures come from: a still, a looped video file, a camera."""

from __future__ import annotations

import io
import math
import os
import stat
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

from PIL import Image

from dni_deploy.errors import DniError, InputError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import FORMAT_BY_SUFFIX, read_image
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.webui.frame_source import FrameSource, SourceFrame, fit_to_size

DEFAULT_IMAGE = files("dni_deploy") / "data" / "astronaut.png"
MAX_FRAME_SIDE_PX = 4096


class StillImage:
    """One picture."""

    is_moving = False

    def __init__(self, frame: Frame, name: str, max_size: tuple[int, int]) -> None:
        self.name = name
        self._source_frame = SourceFrame(fit_to_size(frame, max_size), 0)

    def get_frame(self, seconds: float) -> SourceFrame:
        return self._source_frame

    def seconds_until_next(self, seconds: float) -> float:
        return math.inf

    def close(self) -> None:
        pass


def parse_size(text: str) -> tuple[int, int]:
    """640x360 as (640, 360). Raises UsageError."""
    width, times, height = text.lower().partition("x")
    if not (times and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise UsageError(f"--size {escape_name(text, 40)} is not WIDTHxHEIGHT, such as 640x360.")
    pair = int(width[:6]), int(height[:6])
    if not all(16 <= side <= MAX_FRAME_SIDE_PX for side in pair):
        raise UsageError(f"--size takes sides from 16 to {MAX_FRAME_SIDE_PX} pixels, got {escape_name(text, 40)}.")
    return pair


def open_frame_source(path: str | os.PathLike[str] | None, max_size: tuple[int, int], camera: int | None = None) -> FrameSource:
    """A still by its suffix, anything else as a video; without a path the camera, or the photograph that comes with dni-deploy.

    Raises UsageError (a path and a camera), and what read_image and the video reader raise.
    """
    if camera is not None:
        if path is not None:
            raise UsageError("Give a file or --camera, not both.")
        opened: FrameSource = import_optional("dni_deploy.webui.video_source").Camera(camera, max_size)
        return opened
    if path is None:
        with as_file(DEFAULT_IMAGE) as place:
            return StillImage(read_image(place).rgb, "the photograph that comes with dni-deploy", max_size)
    place = Path(path)
    try:
        regular = stat.S_ISREG(os.stat(place).st_mode)
    except (OSError, ValueError) as error:
        raise InputError(f"{escape_name(place)} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    if not regular:
        raise InputError(f"{escape_name(place)} is not a file; a source is a picture or a video file.")
    if place.suffix.lower() in FORMAT_BY_SUFFIX:
        return StillImage(read_image(place).rgb, escape_name(place.name, 60), max_size)
    video: FrameSource = import_optional("dni_deploy.webui.video_source").LoopedVideo(place, max_size)
    return video


def decode_upload(data: bytes, max_size: tuple[int, int]) -> StillImage:
    """A still from bytes that came from a page: by content alone, under a name of ours, and nothing of it is kept as a file.

    Raises InputError, ImageFileError or LimitError; their sentences hold no path.
    """
    with tempfile.TemporaryDirectory(prefix="dni-deploy-") as folder:
        place = Path(folder) / "picture"
        place.write_bytes(data)
        try:
            return StillImage(read_image(place).rgb, "your picture", max_size)
        except DniError as error:
            raise type(error)(
                str(error).replace(escape_name(place), "that was sent").replace("that was sent", "The file", 1)
            ) from None


def encode_jpeg(frame: Frame, quality: int) -> bytes:
    """A JPEG file; from quality 90 on with colour at full size."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2)
    return buffer.getvalue()
