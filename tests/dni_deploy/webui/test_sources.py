"""Sources: a still, a film that goes round, a camera that is not there."""

from __future__ import annotations

import io
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.errors import DniError, ImageFileError, InputError, UnavailableError, UsageError
from dni_deploy.webui.frame_source import compute_fitted_size
from dni_deploy.webui.sources import decode_upload, open_frame_source, parse_size


def picture(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (250, 120, 10)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(64, 48, (64, 48)), (30, 20, (30, 20)), (1280, 720, (64, 36)), (1, 4000, (1, 48))]
)
def test_pictures_fit_and_are_never_made_larger(width: int, height: int, expected: tuple[int, int]) -> None:
    assert compute_fitted_size(width, height, (64, 48)) == expected


@pytest.mark.parametrize(
    "text", ["", "640", "640x", "x360", "0x0", "8x8", "99999x9", "640x360x2", "-640x360", "６４０x360", "640 x360"]
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_a_still_and_the_photograph(tmp_path: Path) -> None:
    place = tmp_path / "wide.png"
    place.write_bytes(picture(size=(200, 50)))
    still = open_frame_source(place, (64, 48))
    assert still.get_frame(0.0).frame.shape == (16, 64, 3)
    assert still.get_frame(9.0).number == 0
    assert still.seconds_until_next(0.0) == float("inf")
    assert not still.is_moving
    own = open_frame_source(None, (64, 48))
    assert own.get_frame(0.0).frame.shape[0] == 48
    assert parse_size("640X360") == (640, 360)


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, kind in (("text.png", ImageFileError), ("absent.png", InputError), ("pipe.mp4", InputError), (".", InputError)):
        with pytest.raises(kind):
            open_frame_source(tmp_path / name, (64, 48))
    with pytest.raises(InputError):
        open_frame_source("http://127.0.0.1:9/film.mp4", (64, 48))
    with pytest.raises(UsageError, match="not both"):
        open_frame_source(tmp_path / "text.png", (64, 48), camera=0)
    with pytest.raises(ImageFileError) as caught:
        decode_upload(b"x", (64, 48))
    assert str(tmp_path.parent) not in str(caught.value)
    assert str(caught.value).startswith("The file ")


def write_film(path: Path, count: int = 10, size: tuple[int, int] = (64, 48), rate: int = 25) -> None:
    """Grey frames, each 20 brighter than the last."""
    av = pytest.importorskip("av", reason="films need the extra `video`")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "bgr0"
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), 20 * (index % 10), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_film_goes_round_at_its_own_times(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mkv")
    film = open_frame_source(tmp_path / "film.mkv", (32, 32))
    try:
        assert film.is_moving
        levels = []
        for step in range(26):  # two and a half rounds of 10 frames at 25 a second
            seconds = step * 0.04 + 0.01
            end = time.monotonic() + 3
            while film.seconds_until_next(seconds) == 0.002 and time.monotonic() < end:  # not decoded yet
                time.sleep(0.002)
            levels.append(int(film.get_frame(seconds).frame[0, 0, 0]))
        assert levels == [20 * (step % 10) for step in range(26)]
        assert film.get_frame(1.01).frame.shape == (24, 32, 3)
        late = film.get_frame(1000.0).number  # nobody looked for a long time: it goes on, and does not decode all of it
        assert late < 60
    finally:
        film.close()
    assert "dni-decode" not in {thread.name for thread in threading.enumerate()}


def test_films_that_are_none(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="films need the extra `video`")
    write_film(tmp_path / "film.mkv", 40)
    whole = (tmp_path / "film.mkv").read_bytes()
    bad = {"empty": b"", "text": b"hello " * 100, "list.m3u8": b"#EXTM3U\nhttp://127.0.0.1:9/x.ts\n", "head": whole[:40]}
    for name, data in bad.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
        with pytest.raises(DniError) as caught:
            open_frame_source(tmp_path / f"{name}.mp4", (64, 48))
        assert caught.value.exit_code in (3, 5)
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    film = open_frame_source(tmp_path / "cut.mkv", (64, 48))  # the good frames are the loop
    assert film.get_frame(0.0).number == 0
    film.close()


def test_a_camera_that_is_not_there() -> None:
    pytest.importorskip("av", reason="cameras need the extra `video`")
    with pytest.raises(UnavailableError, match="no camera 63 here"):
        open_frame_source(None, (64, 48), camera=63)


def test_transparent_and_turned_pictures(tmp_path: Path) -> None:
    image = Image.new("RGBA", (40, 20), (10, 200, 30, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.png", exif=exif)
    assert open_frame_source(tmp_path / "turned.png", (64, 48)).get_frame(0.0).frame.shape == (40, 20, 3)
