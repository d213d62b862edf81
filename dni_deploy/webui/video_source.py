"""Moving sources: a looped video file and a camera, decoded in a thread of their own."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dni_deploy.errors import DniError, InputError, UnavailableError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.video_io.color import ColorConverter, ColorSpec
from dni_deploy.video_io.video_file import find_video_stream, open_container, open_video_file, turn_upright
from dni_deploy.webui.frame_source import SourceFrame, compute_fitted_size

MAX_DECODED_FRAMES = 4
"""Decoded frames that wait; the decoder is never farther ahead."""

FRAME_POLL_S = 0.002
"""Seconds until one looks again for a frame that is not there yet."""

MAX_CATCH_UP_S = 2.0
"""Seconds: a jump in time that is longer, because nobody watched, is not made up for by decoding everything between."""


class LoopedVideo:
    """The frames of a video file over and over, each at its time; a slow page skips frames, and never slows the film.

    Raises InputError where the file has no frames that can be decoded.
    """

    is_moving = True

    def __init__(self, path: str | os.PathLike[str], max_size: tuple[int, int]) -> None:
        self.name = escape_name(Path(path).name, 60)
        self._video_file, self._max_size = open_video_file(Path(path)), max_size
        self._stop = threading.Event()
        self._decoded_frames: queue.Queue[tuple[float, Frame]] = queue.Queue(MAX_DECODED_FRAMES)
        self._frame_iterator = self._loop_frames()
        self._frame_number = 0
        try:
            first = next(self._frame_iterator)
        except StopIteration:
            raise InputError(f"{self.name} has no frames that can be decoded.") from None
        self._current_frame = SourceFrame(first[1], 0)
        self._next_frame: tuple[float, Frame] | None = None
        self._skipped_seconds = 0.0
        self._thread = threading.Thread(target=self._decode_frames, name="dni-decode", daemon=True)
        self._thread.start()

    def get_frame(self, seconds: float) -> SourceFrame:
        while self._has_next_frame():
            assert self._next_frame is not None
            behind = seconds - self._skipped_seconds - self._next_frame[0]
            if behind < 0:
                return self._current_frame
            if behind > MAX_CATCH_UP_S:
                self._skipped_seconds += behind
            self._frame_number += 1
            self._current_frame, self._next_frame = SourceFrame(self._next_frame[1], self._frame_number), None
        return self._current_frame

    def _has_next_frame(self) -> bool:
        """Whether the next frame is decoded."""
        if self._next_frame is None:
            try:
                self._next_frame = self._decoded_frames.get_nowait()
            except queue.Empty:
                return False
        return True

    def seconds_until_next(self, seconds: float) -> float:
        if not self._has_next_frame():
            return FRAME_POLL_S
        assert self._next_frame is not None
        return max(0.0, self._next_frame[0] + self._skipped_seconds - seconds)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2.0)

    def _decode_frames(self) -> None:
        try:
            for item in self._frame_iterator:
                while not self._stop.is_set():
                    try:
                        self._decoded_frames.put(item, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if self._stop.is_set():
                    return
        except DniError:
            return  # the file went away: its last picture stays
        finally:
            self._frame_iterator.close()  # type: ignore[attr-defined]

    def _loop_frames(self) -> Iterator[tuple[float, Frame]]:
        """Pairs of a time since the very first frame and the frame; ends only where the file has none."""
        begun = 0.0
        while True:
            count, last, step = 0, 0.0, 1 / 25
            for seconds, frame in self._read_frames_once():
                step = seconds - last if count and seconds > last else step
                last = seconds
                count += 1
                yield begun + seconds, frame
            if count == 0:
                return
            begun += last + step

    def _read_frames_once(self) -> Iterator[tuple[float, Frame]]:
        """The film from its beginning to its end; what is damaged is passed over."""
        film, first = self._video_file, None
        converter = ColorConverter(film.color)
        with open_container(film.path) as container:
            stream = find_video_stream(container, film.path)
            stream.thread_type = "AUTO"
            for index, frame in enumerate(_decode_packets(container, stream)):
                seconds = frame.time if frame.time is not None else float(index / film.frame_rate)
                first = seconds if first is None else first
                yield max(0.0, seconds - first), convert_and_fit(frame, self._max_size, converter, film.rotation)


def _decode_packets(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.error.FFmpegError):
            return
        with contextlib.suppress(av.error.FFmpegError):
            for frame in packet.decode():
                assert isinstance(frame, VideoFrame)
                if not frame.is_corrupt:
                    yield frame


class Camera:
    """A camera by its number (Video4Linux), newest picture first; raises UnavailableError where there is none."""

    is_moving = True

    def __init__(self, number: int, max_size: tuple[int, int]) -> None:
        self.name = f"camera {number}"
        device = f"/dev/video{number}"
        if not os.path.exists(device):
            raise UnavailableError(f"There is no camera {number} here: {device} does not exist.")
        try:
            self._container: Any = av.open(device, format="v4l2", options={"framerate": "30"}, timeout=5.0)
            self._frame_iterator = self._container.decode(video=0)
            first = next(self._frame_iterator)
            self._color_converter = ColorConverter(ColorSpec.from_frame(first))
            self._current_frame = SourceFrame(convert_and_fit(first, max_size, self._color_converter), 0)
        except (av.FFmpegError, OSError, StopIteration, ValueError, IndexError) as error:
            raise UnavailableError(f"The camera {device} gives no pictures ({escape_name(error, 100)}).") from error
        self._max_size, self._last_given_number = max_size, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._decode_frames, name="dni-camera", daemon=True)
        self._thread.start()

    def get_frame(self, seconds: float) -> SourceFrame:
        shot = self._current_frame
        self._last_given_number = shot.number
        return shot

    def seconds_until_next(self, seconds: float) -> float:
        return 0.0 if self._current_frame.number != self._last_given_number else FRAME_POLL_S

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2.0)
        if not self._thread.is_alive():
            self._container.close()

    def _decode_frames(self) -> None:
        number = 0
        try:
            for frame in self._frame_iterator:
                if self._stop.is_set():
                    return
                number += 1
                self._current_frame = SourceFrame(convert_and_fit(frame, self._max_size, self._color_converter), number)
        except (av.FFmpegError, OSError):
            return  # unplugged: its last picture stays


def convert_and_fit(frame: VideoFrame, max_size: tuple[int, int], converter: ColorConverter, rotation: int = 0) -> Frame:
    """Converts a decoded frame to RGB, scaled down to fit and turned upright.

    Args:
        frame: The decoded frame.
        max_size: Largest width and height of the result.
        converter: Converts frames of this stream.
        rotation: Degrees counterclockwise, a multiple of 90.

    Returns:
        uint8 (H, W, 3), an array that the caller owns.
    """
    box = max_size if rotation // 90 % 2 == 0 else (max_size[1], max_size[0])
    size = compute_fitted_size(frame.width, frame.height, box)
    return turn_upright(converter.to_rgb(frame, size), rotation)
