"""Sources that move: a video file that is played over and over, and a camera, each decoded in a thread of its own."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from dni_deploy.errors import DniError, InputError, UnavailableError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.orientation import Orientation
from dni_deploy.utils.format_count import format_count
from dni_deploy.video_io.color import ColorConverter, ColorSpec
from dni_deploy.video_io.video_file import open_container, open_video_file
from dni_deploy.webui.frame_source import SourceFrame, VideoPosition, compute_fitted_size

log = logging.getLogger(__name__)

MAX_DECODED_FRAMES = 4
"""Number of decoded frames that wait; the decoder is never farther ahead."""

FRAME_POLL_S = 0.002
"""Seconds until the next look for a frame that is not decoded yet."""

MAX_DECODER_WAIT_S = 0.25
"""Longest time, in seconds, that a late video waits for its decoder, which is only a few frames ahead of a slow network."""

MAX_CATCH_UP_S = 2.0
"""Longest jump in time, in seconds, that is made up for by decoding everything between; a longer one means that nobody
watched."""

DECODER_CLOSE_TIMEOUT_S = 2.0
"""Seconds that `close` waits for the thread; it is a daemon, so a program that ends does not wait for it."""

DEFAULT_FRAME_DURATION_S = 1 / 25
"""How long the only frame of a video is shown."""

UPRIGHT = Orientation()

MAX_REMEMBERED_FRAMES = 4096
"""Frames for which it is known when they were due: more than go by while a network renders one."""


class _TimedFrame(NamedTuple):
    """A decoded frame, with the seconds since the very first frame, and its place in the file."""

    seconds: float
    frame: Frame
    position: VideoPosition


class LoopedVideo:
    """Supplies the frames of a video file over and over, each at its time; a slow page skips frames, and never slows the video.

    Implements FrameSource.
    """

    is_moving = True

    def __init__(
        self, path: str | os.PathLike[str], max_size: tuple[int, int], *, name: str | None = None, deletes_file: bool = False
    ) -> None:
        """Opens the file, decodes its first frame and starts the decoder.

        Args:
            path: The video file.
            max_size: Largest width and height in pixels.
            name: What the page calls it; None: the file's name.
            deletes_file: Whether closing the source deletes the file.

        Raises:
            InputError: The file has no frames that can be decoded.
        """
        self.name, self._deletes_file = name or escape_name(Path(path).name, 60), deletes_file
        self._video_file, self._max_size = open_video_file(Path(path)), max_size
        for note in self._video_file.notes:
            log.info("%s: %s", self.name, note)
        self._stopping = threading.Event()
        self._decoded_frames: queue.Queue[_TimedFrame] = queue.Queue(MAX_DECODED_FRAMES)
        self._frame_iterator = self._loop_frames()
        try:
            first = next(self._frame_iterator)
        except StopIteration:
            raise InputError(f"{self.name} has no frames that can be decoded.") from None
        self._current_frame = SourceFrame(first.frame, 0, first.position)
        self._due_positions = deque([(0.0, first.position)], MAX_REMEMBERED_FRAMES)
        self._positions_lock = threading.Lock()
        self._next_frame: _TimedFrame | None = None
        self._skipped_seconds = 0.0
        self._thread = threading.Thread(target=self._decode_frames, name="dni-decode", daemon=True)
        self._thread.start()

    def get_frame(self, seconds: float) -> SourceFrame:
        """Returns the frame to show at a time; the last one where the decoder is too slow for it."""
        wait_until = time.monotonic() + MAX_DECODER_WAIT_S
        while (next_frame := self._wait_for_frame(seconds, wait_until)) is not None:
            late_s = seconds - self._skipped_seconds - next_frame.seconds
            if late_s < 0:
                break
            if late_s > MAX_CATCH_UP_S:
                self._skipped_seconds += late_s
            number = self._current_frame.number + 1
            self._current_frame, self._next_frame = SourceFrame(next_frame.frame, number, next_frame.position), None
            with self._positions_lock:
                self._due_positions.append((next_frame.seconds + self._skipped_seconds, next_frame.position))
        return self._current_frame

    def locate(self, seconds: float) -> VideoPosition:
        """Returns the place of the frame that was or will be due at a time; of one that came too late for it, by the times."""
        with self._positions_lock:
            positions = list(self._due_positions)
        index = bisect.bisect_right(positions, seconds, key=lambda due: due[0])
        due_seconds, position = positions[max(0, index - 1)]
        ahead = int((seconds - due_seconds) * self._video_file.frame_rate) if index == len(positions) else 0
        if ahead <= 0:
            return position
        later_s = float(ahead / self._video_file.frame_rate)
        return VideoPosition(position.frame + ahead, position.seconds + later_s, position.pass_number)

    def _wait_for_frame(self, seconds: float, wait_until: float) -> _TimedFrame | None:
        """Returns the next frame; waits for it only where it should have been shown already, and for a frame's duration at most.

        A decoder that is slower than the video would never catch up.
        """
        duration = float(1 / self._video_file.frame_rate)
        if self._next_frame is None and self._due_positions[-1][0] + duration < seconds and self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                timeout = min(duration, max(0.0, wait_until - time.monotonic()))
                self._next_frame = self._decoded_frames.get(timeout=timeout)
        return self._peek_frame()

    def _peek_frame(self) -> _TimedFrame | None:
        """Returns the next frame and its time, or None where it is not decoded yet."""
        if self._next_frame is None:
            with contextlib.suppress(queue.Empty):
                self._next_frame = self._decoded_frames.get_nowait()
        return self._next_frame

    def seconds_until_next(self, seconds: float) -> float:
        """Returns the seconds until the next frame is due, or until the next look where it is not decoded yet."""
        next_frame = self._peek_frame()
        return FRAME_POLL_S if next_frame is None else max(0.0, next_frame.seconds + self._skipped_seconds - seconds)

    def close(self) -> None:
        """Ends the decoder and closes the file."""
        self._stopping.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._decoded_frames.get_nowait()  # the decoder may be waiting for room
        self._thread.join(DECODER_CLOSE_TIMEOUT_S)
        if self._deletes_file:
            self._video_file.path.unlink(missing_ok=True)

    def _decode_frames(self) -> None:
        try:
            for item in self._frame_iterator:
                if self._stopping.is_set():
                    return
                self._decoded_frames.put(item)
        except DniError:
            return  # the file is gone: its last frame stays
        finally:
            self._frame_iterator.close()  # type: ignore[attr-defined]

    def _loop_frames(self) -> Iterator[_TimedFrame]:
        """Yields the frames over and over; ends only where the file has none."""
        start = 0.0
        for pass_number in itertools.count():
            count, last, duration = 0, 0.0, DEFAULT_FRAME_DURATION_S
            for seconds, frame in self._read_frames_once():
                duration = seconds - last if count and seconds > last else duration
                last = seconds
                yield _TimedFrame(start + seconds, frame, VideoPosition(count, seconds, pass_number))
                count += 1
            if count == 0:
                return
            start += last + duration

    def _read_frames_once(self) -> Iterator[tuple[float, Frame]]:
        """Yields the frames of the file from its beginning to its end; skips what is damaged."""
        video_file, first = self._video_file, None
        converter = ColorConverter(video_file.color)
        with open_container(video_file.path) as container:
            stream = container.streams[video_file.stream_index]
            assert isinstance(stream, VideoStream)
            stream.thread_type = "AUTO"
            for index, frame in enumerate(_decode_packets(container, stream)):
                seconds = frame.time if frame.time is not None else float(index / video_file.frame_rate)
                first = seconds if first is None else first
                yield max(0.0, seconds - first), convert_and_fit(frame, self._max_size, converter, video_file.orientation)


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
    """Supplies the newest frame of a Video4Linux camera.

    Implements FrameSource.
    """

    is_moving = True

    def __init__(self, number: int, max_size: tuple[int, int]) -> None:
        """Opens the camera, waits for its first frame and starts the decoder.

        Args:
            number: N of /dev/videoN on Linux, elsewhere the position in the system's list of cameras, from 0.
            max_size: Largest width and height in pixels.

        Raises:
            UnavailableError: There is no such camera, or it gives no frames.
        """
        self.name = f"camera {number}"
        device, device_format = find_camera(number)
        try:
            self._container: Any = av.open(device, format=device_format, options={"framerate": "30"}, timeout=5.0)
            self._frame_iterator = self._container.decode(video=0)
            first = next(self._frame_iterator)
            self._color_converter = ColorConverter(ColorSpec.from_frame(first))
            self._current_frame = SourceFrame(convert_and_fit(first, max_size, self._color_converter), 0)
        except (av.FFmpegError, OSError, StopIteration, ValueError, IndexError) as error:
            raise UnavailableError(f"The camera {device} gives no frames ({escape_name(error, 100)}).") from error
        self._max_size, self._last_returned_number = max_size, 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._decode_frames, name="dni-camera", daemon=True)
        self._thread.start()

    def get_frame(self, seconds: float) -> SourceFrame:
        """Returns the newest frame, whatever the time."""
        source_frame = self._current_frame
        self._last_returned_number = source_frame.number
        return source_frame

    def seconds_until_next(self, seconds: float) -> float:
        """Returns 0 where there is a new frame, else the seconds until the next look."""
        return 0.0 if self._current_frame.number != self._last_returned_number else FRAME_POLL_S

    def locate(self, seconds: float) -> VideoPosition | None:
        """Returns None."""
        return None

    def close(self) -> None:
        """Ends the decoder and closes the device, unless the device blocks it."""
        self._stopping.set()
        self._thread.join(DECODER_CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._container.close()

    def _decode_frames(self) -> None:
        try:
            for number, frame in enumerate(self._frame_iterator, 1):
                if self._stopping.is_set():
                    return
                self._current_frame = SourceFrame(convert_and_fit(frame, self._max_size, self._color_converter), number)
        except (av.FFmpegError, OSError):
            return  # it was unplugged: its last frame stays


def find_camera(number: int) -> tuple[str, str]:
    """Finds a camera.

    Args:
        number: As for `Camera`.

    Returns:
        What FFmpeg calls the camera, and the name of FFmpeg's device that reads it.

    Raises:
        UnavailableError: There is no such camera.
    """
    if sys.platform == "win32":
        names = [f"video={device.name}" for device in av.enumerate_input_devices("dshow") if "video" in device.media_types]
        if number < len(names):
            return names[number], "dshow"
        raise UnavailableError(f"There is no camera {number} here; FFmpeg sees {format_count(len(names), 'camera')}.")
    if sys.platform == "darwin":
        return f"{number}:none", "avfoundation"  # none: no microphone
    device = f"/dev/video{number}"
    if not os.path.exists(device):
        raise UnavailableError(f"There is no camera {number} here: {device} does not exist.")
    return device, "v4l2"


def convert_and_fit(
    frame: VideoFrame, max_size: tuple[int, int], converter: ColorConverter, orientation: Orientation = UPRIGHT
) -> Frame:
    """Converts a decoded frame to RGB, scaled down to fit and turned upright.

    Args:
        frame: The decoded frame.
        max_size: Largest width and height of the result.
        converter: Converts frames of this stream.
        orientation: How a stored frame becomes upright.

    Returns:
        uint8 (H, W, 3), an array that the caller owns.
    """
    size = compute_fitted_size(frame.width, frame.height, orientation.orient_size(*max_size))
    return orientation.apply(converter.to_rgb(frame, size))
