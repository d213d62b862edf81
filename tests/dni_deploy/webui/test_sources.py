"""Opening sources for the web UI: images, sizes and uploads, and files that are neither an image nor a video."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dni_deploy.errors import DniError, ImageFileError, InputError, RefusedError, UsageError
from dni_deploy.imaging.frames import Frame
from dni_deploy.webui.sources import UploadedFile, decode_upload, open_frame_source, open_noisy_photograph, parse_size


def make_image(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (250, 120, 10)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "text", ["", "640", "640x", "x360", "0x0", "8x8", "99999x9", "640x360x2", "-640x360", "６４０x360", "640 x360"]
)
def test_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_an_image_is_scaled_to_fit_and_a_photograph_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    path.write_bytes(make_image(size=(200, 50)))
    image_source = open_frame_source(path, (64, 48))
    assert image_source.get_frame(0.0).frame.shape == (16, 64, 3)
    assert image_source.get_frame(9.0).number == 0
    assert image_source.seconds_until_next(0.0) == float("inf")
    assert not image_source.is_moving
    default_source = open_frame_source(None, (64, 48))
    assert default_source.get_frame(0.0).frame.shape[0] == 48
    assert parse_size("640X360") == (640, 360)


def test_a_denoiser_gets_the_photograph_with_noise() -> None:
    def blur(frame: Frame) -> Frame:
        with Image.fromarray(frame) as image:
            return np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)))

    source = open_noisy_photograph((256, 256), blur)
    assert source is not None
    assert "noise (sigma 40)" in source.name
    clean = open_frame_source(None, (256, 256)).get_frame(0.0).frame
    assert np.std(source.get_frame(0.0).frame.astype(float) - clean) > 30
    assert open_noisy_photograph((256, 256), lambda frame: frame) is None
    assert open_noisy_photograph((256, 256), lambda frame: frame.repeat(2, 0).repeat(2, 1)) is None
    assert open_noisy_photograph((256, 256), lambda frame: 255 - frame) is None


def test_sources_that_cannot_be_opened_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, kind in (("text.png", ImageFileError), ("absent.png", InputError), ("pipe.mp4", InputError), (".", InputError)):
        with pytest.raises(kind):
            open_frame_source(tmp_path / name, (64, 48))
    with pytest.raises(UsageError, match=r"^http://127.0.0.1:9/film.mp4 is on the web, and nothing is downloaded"):
        open_frame_source("http://127.0.0.1:9/film.mp4", (64, 48))
    with pytest.raises(UsageError, match="not both"):
        open_frame_source(tmp_path / "text.png", (64, 48), camera=0)
    with pytest.raises(ImageFileError) as caught:
        decode_upload(b"x", (64, 48))
    assert str(tmp_path.parent) not in str(caught.value)
    assert str(caught.value).startswith("The file ")


def test_a_transparent_and_rotated_image_is_shown_upright(tmp_path: Path) -> None:
    image = Image.new("RGBA", (40, 20), (10, 200, 30, 0))
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.png", exif=exif)
    assert open_frame_source(tmp_path / "turned.png", (64, 48)).get_frame(0.0).frame.shape == (40, 20, 3)


def test_an_uploaded_video_is_shown_and_its_file_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="videos need the extra `video`")
    from tests.dni_deploy.webui.test_video_source import write_video

    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    write_video(tmp_path / "film.mkv", 5)
    with UploadedFile() as file:
        file.write((tmp_path / "film.mkv").read_bytes())
        source = file.open_as_video((32, 32))
    assert (source.name, source.is_moving, source.get_frame(0.0).frame.shape) == ("your video", True, (24, 32, 3))
    assert len(list(folder.iterdir())) == 1
    source.close()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", InputError),
        (b"hello" * 99, InputError),
        (b"#EXTM3U\nfile:///etc/passwd\n", RefusedError),
        (make_image((64, 64)), DniError),
    ],
)
def test_an_upload_that_is_not_a_video_is_refused(
    data: bytes, kind: type[DniError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av", reason="videos need the extra `video`")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with UploadedFile() as file:
        file.write(data)
        with pytest.raises(kind) as caught:
            file.open_as_video((32, 32))
    assert str(caught.value).startswith("The file ") or "your video" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
