"""Opens what the web UI shows: an image, a looped video file, a camera, or an image that was uploaded."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import as_file, files
from pathlib import Path
from types import TracebackType

import numpy as np

from dni_deploy.errors import DniError, InputError, LimitError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import read_frame, read_image
from dni_deploy.imaging.image_formats import STILL_SUFFIXES
from dni_deploy.imaging.image_limits import max_frame_pixels
from dni_deploy.imaging.metrics.psnr import psnr
from dni_deploy.imaging.noise import NOISE_SIGMA, add_noise
from dni_deploy.utils.address import as_local_path
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.webui.frame_source import FrameSource, StillImage, fit_to_size

DEFAULT_IMAGE = files("dni_deploy") / "data" / "astronaut.png"
NOISE_TEST_SIDE_PX = 96
"""Side of the part of the photograph on which a network is tried."""
MIN_NOISE_GAIN_DB = 4.0
"""Gain of PSNR by which a network counts as one that removes noise; the demo's two reach 8 and more."""
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
            return StillImage(read_frame(image_path), "the photograph that comes with dni-deploy", max_size)
    source_path = as_local_path(path, "the source")
    try:
        is_file = stat.S_ISREG(os.stat(source_path).st_mode)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{escape_name(source_path)} cannot be read ({reason}).") from error
    if not is_file:
        raise InputError(f"{escape_name(source_path)} is not a file; a source is an image or a video file.")
    if source_path.suffix.lower() in STILL_SUFFIXES:
        return StillImage(read_frame(source_path), escape_name(source_path.name, 60), max_size)
    video: FrameSource = import_optional("dni_deploy.webui.video_source").LoopedVideo(source_path, max_size)
    return video


def open_noisy_photograph(max_size: tuple[int, int], render: Callable[[Frame], Frame]) -> FrameSource | None:
    """Opens the photograph with noise, for a network that removes noise: of the clean one, it would only blur.

    Args:
        max_size: Largest width and height in pixels.
        render: Runs the network on a frame.

    Returns:
        The source; None for a network that does not remove noise from the middle of the photograph.

    Raises:
        DniError: As `render` raises.
    """
    with as_file(DEFAULT_IMAGE) as image_path:
        clean = fit_to_size(read_frame(image_path), max_size)
    noisy = add_noise(clean)
    top, left = (max(0, side - NOISE_TEST_SIDE_PX) // 2 for side in clean.shape[:2])
    part, clean_part = (
        np.ascontiguousarray(frame[top:, left:][:NOISE_TEST_SIDE_PX, :NOISE_TEST_SIDE_PX]) for frame in (noisy, clean)
    )
    output = render(part)
    if output.shape != part.shape or psnr(output, clean_part) < psnr(part, clean_part) + MIN_NOISE_GAIN_DB:
        return None
    return StillImage(noisy, f"the photograph that comes with dni-deploy, with noise (sigma {NOISE_SIGMA})", max_size)


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
        with _hide_path(path):
            # Not by the memory that is free: a short file of a visitor's may claim any size.
            image_file = read_image(path, max_pixels=max_frame_pixels())
            return StillImage(image_file.to_frame(), "your image", max_size)


class UploadedFile:
    """A temporary file for a video that comes from a page; leaving the block deletes it, unless it was opened as a video.

    Thread safety: used by one thread at a time.
    """

    def __init__(self) -> None:
        """Creates the file."""
        descriptor, path = tempfile.mkstemp(prefix="dni-deploy-")
        self.path = Path(path)
        self._stream = os.fdopen(descriptor, "wb")
        self._is_owned_by_video = False

    def write(self, data: bytes) -> None:
        """Appends to the file.

        Raises:
            LimitError: There is no room for it.
        """
        try:
            self._stream.write(data)
        except OSError as error:
            raise LimitError(f"The file could not be kept here ({escape_name(error.strerror)}).") from None

    def open_as_video(self, max_size: tuple[int, int]) -> FrameSource:
        """Opens what was written; closing the source deletes the file.

        Args:
            max_size: Largest width and height in pixels.

        Raises:
            InputError: It is not a video; no message holds a path.
            RefusedError: It is a playlist.
            LimitError: There is no room for it.
            UnavailableError: The package for videos is missing.
        """
        try:
            self._stream.close()
        except OSError as error:
            raise LimitError(f"The file could not be kept here ({escape_name(error.strerror)}).") from None
        looped_video = import_optional("dni_deploy.webui.video_source").LoopedVideo
        with _hide_path(self.path):
            source: FrameSource = looped_video(self.path, max_size, name="your video", deletes_file=True)
        self._is_owned_by_video = True
        return source

    def __enter__(self) -> UploadedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._is_owned_by_video:
            with suppress(OSError):
                self._stream.close()
            self.path.unlink(missing_ok=True)


@contextmanager
def _hide_path(path: Path) -> Iterator[None]:
    """Takes the path of an upload out of error messages."""
    try:
        yield
    except DniError as error:
        message = str(error).replace(escape_name(path), "that was sent").replace("that was sent", "The file", 1)
        message = message.replace(escape_name(path.name), "your video")
        raise type(error)(message) from None
