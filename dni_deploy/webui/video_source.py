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

from dni_deploy.errors import DniError, EnvironmentProblem, InputError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.video_io.color import Colour, ToRgb
from dni_deploy.video_io.video_file import look, open_source, video_stream
from dni_deploy.webui.sources import Shot, fit

AHEAD = 4
"""Decoded frames that wait; the decoder is never farther ahead."""

POLL = 0.002
"""Seconds until one looks again for a frame that is not there yet."""

GAP = 2.0
"""Seconds: a jump in time that is longer, because nobody watched, is not made up for by decoding everything between."""


class LoopedVideo:
    """The frames of a video file over and over, each at its time; a slow page skips frames, and never slows the film.

    Raises InputError where the file has no frames that can be decoded.
    """

    moves = True

    def __init__(self, path: str | os.PathLike[str], size: tuple[int, int]) -> None:
        self.name = shown(Path(path).name, 60)
        self._film, self._size = look(Path(path)), size
        self._stop = threading.Event()
        self._decoded: queue.Queue[tuple[float, Frame]] = queue.Queue(AHEAD)
        self._frames = self._endless()
        self._number = 0
        try:
            first = next(self._frames)
        except StopIteration:
            raise InputError(f"{self.name} has no frames that can be decoded.") from None
        self._shot = Shot(first[1], 0)
        self._next: tuple[float, Frame] | None = None
        self._late = 0.0
        self._thread = threading.Thread(target=self._run, name="dni-decode", daemon=True)
        self._thread.start()

    def at(self, seconds: float) -> Shot:
        while self._look():
            assert self._next is not None
            behind = seconds - self._late - self._next[0]
            if behind < 0:
                return self._shot
            if behind > GAP:
                self._late += behind
            self._number += 1
            self._shot, self._next = Shot(self._next[1], self._number), None
        return self._shot

    def _look(self) -> bool:
        """Whether the next frame is decoded."""
        if self._next is None:
            try:
                self._next = self._decoded.get_nowait()
            except queue.Empty:
                return False
        return True

    def wait(self, seconds: float) -> float:
        if not self._look():
            return POLL
        assert self._next is not None
        return max(0.0, self._next[0] + self._late - seconds)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        try:
            for item in self._frames:
                while not self._stop.is_set():
                    try:
                        self._decoded.put(item, timeout=0.1)
                        break
                    except queue.Full:
                        continue
                if self._stop.is_set():
                    return
        except DniError:
            return  # the file went away: its last picture stays
        finally:
            self._frames.close()  # type: ignore[attr-defined]

    def _endless(self) -> Iterator[tuple[float, Frame]]:
        """Pairs of a time since the very first frame and the frame; ends only where the file has none."""
        begun = 0.0
        while True:
            count, last, step = 0, 0.0, 1 / 25
            for seconds, frame in self._once():
                step = seconds - last if count and seconds > last else step
                last = seconds
                count += 1
                yield begun + seconds, frame
            if count == 0:
                return
            begun += last + step

    def _once(self) -> Iterator[tuple[float, Frame]]:
        """The film from its beginning to its end; what is damaged is passed over."""
        film, first = self._film, None
        to_rgb = ToRgb(film.colour, film.rotation)
        with open_source(film.path) as container:
            stream = video_stream(container, film.path)
            stream.thread_type = "AUTO"
            for index, frame in enumerate(_decoded(container, stream)):
                seconds = frame.time if frame.time is not None else float(index / film.rate)
                first = seconds if first is None else first
                yield max(0.0, seconds - first), pixels(frame, self._size, to_rgb, film.rotation)


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
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
    """A camera by its number (Video4Linux), newest picture first; raises EnvironmentProblem where there is none."""

    moves = True

    def __init__(self, number: int, size: tuple[int, int]) -> None:
        self.name = f"camera {number}"
        device = f"/dev/video{number}"
        if not os.path.exists(device):
            raise EnvironmentProblem(f"There is no camera {number} here: {device} does not exist.")
        try:
            self._container: Any = av.open(device, format="v4l2", options={"framerate": "30"}, timeout=5.0)
            self._frames = self._container.decode(video=0)
            first = next(self._frames)
            self._to_rgb = ToRgb(Colour.of(first))
            self._shot = Shot(pixels(first, size, self._to_rgb), 0)
        except (av.FFmpegError, OSError, StopIteration, ValueError, IndexError) as error:
            raise EnvironmentProblem(f"The camera {device} gives no pictures ({shown(error, 100)}).") from error
        self._size, self._given = size, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dni-camera", daemon=True)
        self._thread.start()

    def at(self, seconds: float) -> Shot:
        shot = self._shot
        self._given = shot.number
        return shot

    def wait(self, seconds: float) -> float:
        return 0.0 if self._shot.number != self._given else POLL

    def close(self) -> None:
        self._stop.set()
        self._thread.join(2.0)
        if not self._thread.is_alive():
            self._container.close()

    def _run(self) -> None:
        number = 0
        try:
            for frame in self._frames:
                if self._stop.is_set():
                    return
                number += 1
                self._shot = Shot(pixels(frame, self._size, self._to_rgb), number)
        except (av.FFmpegError, OSError):
            return  # unplugged: its last picture stays


def pixels(frame: VideoFrame, size: tuple[int, int], to_rgb: ToRgb, rotation: int = 0) -> Frame:
    """A decoded frame as RGB, upright and fitted into size; an array of its own. It is made small first, which costs less."""
    box = size if rotation // 90 % 2 == 0 else (size[1], size[0])
    width, height = fit(frame.width, frame.height, box)
    if (width, height) != (frame.width, frame.height):
        frame = frame.reformat(width=width, height=height)
    return to_rgb(frame)
