"""Video sources: looped videos, files that are not videos, and cameras."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dni_deploy.errors import DniError, UnavailableError
from dni_deploy.webui.sources import open_frame_source


def write_video(path: Path, count: int = 10, size: tuple[int, int] = (64, 48), rate: int = 25) -> None:
    """Gray frames, each 20 brighter than the last."""
    av = pytest.importorskip("av", reason="videos need the extra `video`")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "bgr0"
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 20 * (index % 10), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_video_loops_at_its_own_frame_times(tmp_path: Path) -> None:
    write_video(tmp_path / "video.mkv")
    video = open_frame_source(tmp_path / "video.mkv", (32, 32))
    try:
        assert video.is_moving
        levels = []
        for step in range(26):  # two and a half rounds of 10 frames at 25 a second
            seconds = step * 0.04 + 0.01
            end = time.monotonic() + 3
            while video.seconds_until_next(seconds) == 0.002 and time.monotonic() < end:  # not decoded yet
                time.sleep(0.002)
            levels.append(int(video.get_frame(seconds).frame[0, 0, 0]))
        assert levels == [20 * (step % 10) for step in range(26)]
        assert video.get_frame(1.01).frame.shape == (24, 32, 3)
        number = video.get_frame(
            1000.0
        ).number  # after a long time without a viewer it skips ahead without decoding everything in between
        assert number < 60
    finally:
        video.close()
    assert "dni-decode" not in {thread.name for thread in threading.enumerate()}


def test_a_slow_viewer_does_not_slow_the_video(tmp_path: Path) -> None:
    """Between two looks of a slow network more frames go by than the decoder is ahead."""
    write_video(tmp_path / "video.mkv", 100)
    video = open_frame_source(tmp_path / "video.mkv", (32, 32))
    try:
        for seconds in (0.01, 0.81, 1.61, 2.41):
            source_frame = video.get_frame(seconds)
            assert source_frame.position == video.locate(seconds)
            assert source_frame.position == (int(seconds * 25), pytest.approx(int(seconds * 25) / 25), 0)
        assert video.locate(0.5) == (12, pytest.approx(0.48), 0)  # a frame that was passed over
        assert video.locate(2.5) == (62, pytest.approx(2.48), 0)  # and one that is to come
        assert video.get_frame(4.21).position == (5, pytest.approx(0.2), 1)
    finally:
        video.close()


def test_a_slow_decoder_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every frame that is decoded is shown, where frames come more slowly than the video's own."""
    from dni_deploy.webui import video_source

    write_video(tmp_path / "video.mkv", 20)
    convert = video_source.convert_and_fit

    def convert_slowly(*arguments: Any) -> Any:
        time.sleep(0.06)
        return convert(*arguments)

    monkeypatch.setattr(video_source, "convert_and_fit", convert_slowly)
    video = open_frame_source(tmp_path / "video.mkv", (32, 32))
    try:
        started, numbers = time.monotonic(), []
        while time.monotonic() - started < 0.6:
            look = time.monotonic()
            numbers.append(video.get_frame(look - started).number)
            assert time.monotonic() - look < 0.2  # two durations of a frame, on a busy machine
        assert set(numbers) >= set(range(1, max(numbers)))
        assert max(numbers) >= 4
    finally:
        video.close()


def test_a_mirrored_video_is_shown_mirrored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("av", reason="videos need the extra `video`")
    from tests.support.video_clips import Clip, make_frame, write_display_matrix

    source = write_display_matrix(Clip(audio=None, frames=2).write(tmp_path / "in.mp4"), (0, 1, 1, 0))  # transposed
    with caplog.at_level("INFO"):
        video = open_frame_source(source, (64, 64))
    try:
        shown = video.get_frame(0.0).frame
    finally:
        video.close()
    assert "in.mp4: turned clockwise by 90 degrees and mirrored" in caplog.text
    assert shown.shape == (64, 48, 3)
    assert np.abs(shown.astype(int) - make_frame(0).swapaxes(0, 1)).mean() < 6  # a lossy codec


def test_a_file_that_is_not_a_video_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="videos need the extra `video`")
    write_video(tmp_path / "video.mkv", 40)
    content = (tmp_path / "video.mkv").read_bytes()
    bad = {"empty": b"", "text": b"hello " * 100, "list.m3u8": b"#EXTM3U\nhttp://127.0.0.1:9/x.ts\n", "head": content[:40]}
    for name, data in bad.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
        with pytest.raises(DniError) as caught:
            open_frame_source(tmp_path / f"{name}.mp4", (64, 48))
        assert caught.value.exit_code in (3, 5)
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    video = open_frame_source(tmp_path / "cut.mkv", (64, 48))  # the intact frames form the loop
    assert video.get_frame(0.0).number == 0
    video.close()


@pytest.mark.parametrize(
    ("system", "number", "expected"),
    [("darwin", 1, ("1:none", "avfoundation")), ("win32", 0, ("video=Front", "dshow")), ("win32", 1, ("video=Rear", "dshow"))],
)
def test_a_camera_is_found_by_the_means_of_the_system(
    system: str, number: int, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    av = pytest.importorskip("av", reason="cameras need the extra `video`")
    from dni_deploy.webui import video_source

    devices = [
        SimpleNamespace(name=name, media_types=[kind])
        for name, kind in (("Front", "video"), ("Microphone", "audio"), ("Rear", "video"))
    ]
    monkeypatch.setattr(av, "enumerate_input_devices", lambda name: devices if name == "dshow" else [])
    monkeypatch.setattr(video_source.sys, "platform", system)
    assert video_source.find_camera(number) == expected
    if system == "win32":
        with pytest.raises(UnavailableError, match=r"no camera 2 here; FFmpeg sees 2 cameras\."):
            video_source.find_camera(2)


def test_a_camera_that_does_not_exist_is_refused() -> None:
    pytest.importorskip("av", reason="cameras need the extra `video`")
    with pytest.raises(UnavailableError, match="no camera 63 here"):
        open_frame_source(None, (64, 48), camera=63)


class FakeCamera:
    """A fake of what av.open returns for a camera: frames of growing brightness, each when it is released."""

    def __init__(self, count: int) -> None:
        self.count, self.closed = count, threading.Event()
        self.released = threading.Semaphore(1)

    def decode(self, video: int) -> Iterator[Any]:
        av = pytest.importorskip("av")
        for index in range(self.count):
            self.released.acquire()
            pixels = np.full((48, 64, 3), 20 * (index + 1), np.uint8)
            yield av.VideoFrame.from_ndarray(pixels, format="rgb24")
        raise OSError("unplugged")

    def close(self) -> None:
        self.closed.set()


def test_a_camera_shows_its_newest_frame_until_it_is_unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="cameras need the extra `video`")
    from dni_deploy.webui import video_source

    device = FakeCamera(2)
    monkeypatch.setattr(video_source, "os", SimpleNamespace(path=SimpleNamespace(exists=lambda path: True)))
    monkeypatch.setattr(video_source.av, "open", lambda *args, **options: device)
    camera = video_source.Camera(0, (32, 24))
    try:
        first = camera.get_frame(0.0)
        assert first.frame.shape == (24, 32, 3)
        assert camera.seconds_until_next(0.0) == video_source.FRAME_POLL_S
        device.released.release()
        device.released.release()
        camera._thread.join(5.0)  # it was unplugged after its second frame
        assert camera.seconds_until_next(0.0) == 0.0
        second = camera.get_frame(0.0)
        assert second.number == first.number + 1
        assert second.frame.mean() > first.frame.mean()
    finally:
        camera.close()
    assert device.closed.is_set()
