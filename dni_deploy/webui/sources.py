"""Opens what the web UI shows: an image, a looped video file, a camera, or an image that was uploaded."""

from __future__ import annotations

import os
import stat
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

from dni_deploy.errors import DniError, InputError, UsageError, escape_name
from dni_deploy.imaging.image_file import FORMAT_BY_SUFFIX, read_image
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.webui.frame_source import FrameSource, StillImage

DEFAULT_IMAGE = files("dni_deploy") / "data" / "astronaut.png"
MIN_FRAME_SIDE_PX, MAX_FRAME_SIDE_PX = 16, 4096


def parse_size(text: str) -> tuple[int, int]:
    """Parses a size such as 640x360.

    Returns:
        Width and height in pixels.

    Raises:
        UsageError: The text is no size, or a side is out of range.
    """
    width, times, height = text.lower().partition("x")
    if not (times and width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise UsageError(f"--size {escape_name(text, 40)} is not WIDTHxHEIGHT, such as 640x360.")
    size = int(width[:6]), int(height[:6])
    if not all(MIN_FRAME_SIDE_PX <= side <= MAX_FRAME_SIDE_PX for side in size):
        raise UsageError(
            f"--size takes sides from {MIN_FRAME_SIDE_PX} to {MAX_FRAME_SIDE_PX} pixels, got {escape_name(text, 40)}."
        )
    return size


def open_frame_source(path: str | os.PathLike[str] | None, max_size: tuple[int, int], camera: int | None = None) -> FrameSource:
    """Opens a source of frames.

    Args:
        path: An image, by its suffix, or else a video file; None for the camera, or without one the photograph that comes with
            dni-deploy.
        max_size: Largest width and height in pixels.
        camera: Number of a camera.

    Returns:
        The source, which the caller closes.

    Raises:
        UsageError: There are both a path and a camera.
        InputError: The file cannot be read, or is neither an image nor a video.
        LimitError: The image is too large.
        UnavailableError: There is no such camera, or the package for videos is missing.
    """
    if camera is not None:
        if path is not None:
            raise UsageError("Give a file or --camera, not both.")
        opened: FrameSource = import_optional("dni_deploy.webui.video_source").Camera(camera, max_size)
        return opened
    if path is None:
        with as_file(DEFAULT_IMAGE) as image_path:
            return StillImage(read_image(image_path).rgb, "the photograph that comes with dni-deploy", max_size)
    source_path = Path(path)
    try:
        is_file = stat.S_ISREG(os.stat(source_path).st_mode)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{escape_name(source_path)} cannot be read ({reason}).") from error
    if not is_file:
        raise InputError(f"{escape_name(source_path)} is not a file; a source is an image or a video file.")
    if source_path.suffix.lower() in FORMAT_BY_SUFFIX:
        return StillImage(read_image(source_path).rgb, escape_name(source_path.name, 60), max_size)
    video: FrameSource = import_optional("dni_deploy.webui.video_source").LoopedVideo(source_path, max_size)
    return video


def decode_upload(data: bytes, max_size: tuple[int, int]) -> StillImage:
    """Decodes an image that came from a page: by content alone, under a name of ours, and nothing of it is kept as a file.

    Args:
        data: Content of an image file.
        max_size: Largest width and height in pixels.

    Returns:
        The image.

    Raises:
        InputError: It is not an image; no message holds a path.
        LimitError: It is too large.
    """
    with tempfile.TemporaryDirectory(prefix="dni-deploy-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(data)
        try:
            return StillImage(read_image(path).rgb, "your image", max_size)
        except DniError as error:
            message = str(error).replace(escape_name(path), "that was sent").replace("that was sent", "The file", 1)
            raise type(error)(message) from None
