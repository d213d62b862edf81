"""Pictures as a film, in and out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dni_deploy.errors import InputError, UsageError
from dni_deploy.video_io.image_sequence import ENCODER_BY_SUFFIX, list_frames, names_frames
from tests.support.video_clips import Clip, make_frame, see
from tests.support.video_command import Make


def write_pictures(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(make_frame(number)).save(folder / name)
    return folder


def read_pictures(folder: Path) -> dict[str, NDArray[np.uint8]]:
    return {path.name: np.array(Image.open(path)) for path in sorted(folder.iterdir())}


LOSSLESS = {"codec": "ffv1", "crf": None, "preset": None}


def test_a_folder_of_pictures_is_a_film(tmp_path: Path, make: Make) -> None:
    """Numbers in names are numbers: frame 10 comes after frame 9. Pictures keep their RGB, bit for bit."""
    folder = write_pictures(tmp_path / "in", [f"frame {number}.png" for number in range(8, 13)])
    (folder / "readme.txt").write_text("no picture")
    report = make(folder, tmp_path / "out.mkv", fps="50", **LOSSLESS)
    after = see(tmp_path / "out.mkv")
    assert report.frames == 5
    assert [float(time) for time in after.times] == [0, 0.02, 0.04, 0.06, 0.08]
    assert all(np.array_equal(frame, make_frame(number)) for number, frame in enumerate(after.frames))


def test_numbered_names_are_a_film_also_with_gaps(tmp_path: Path, make: Make) -> None:
    folder = write_pictures(tmp_path / "in", ["0007.png", "0009.png", "0010.png", "12.png", "x0011.png"])
    assert [path.name for path in list_frames(folder / "%04d.png")] == ["0007.png", "0009.png", "0010.png"]
    assert [path.name for path in list_frames(folder / "%d.png")][-1] == "12.png"
    make(folder / "%04d.png", tmp_path / "out.mkv", **LOSSLESS)
    assert len(see(tmp_path / "out.mkv").frames) == 3


@pytest.mark.parametrize("suffix", [suffix for suffix in ENCODER_BY_SUFFIX if suffix not in (".exr", ".dpx", ".jp2", ".tga")])
def test_a_film_becomes_pictures(tmp_path: Path, make: Make, suffix: str) -> None:
    """Each opens in another library. They are numbered as the frames of the whole film."""
    source = Clip(frames=6).write(tmp_path / "in.mp4")
    (tmp_path / "out").mkdir()
    report = make(source, tmp_path / "out" / f"%03d{suffix}", crf=None, preset=None, start="2f")
    pictures = read_pictures(tmp_path / "out")
    assert list(pictures) == [f"{number:03d}{suffix}" for number in range(2, 6)]
    frames = see(source).frames
    for number, picture in enumerate(pictures.values(), 2):
        assert np.abs(picture.astype(int) - frames[number]).mean() < (6 if suffix in (".jpg", ".jpeg", ".webp") else 2)
    assert "stream 1 (audio, aac, und) is left out: pictures have no place for it" in report.notes


def test_pictures_become_pictures(tmp_path: Path, make: Make) -> None:
    """An identity network changes no bit of a PNG on its way through a film."""
    folder = write_pictures(tmp_path / "in", ["a.png", "b.png"])
    (tmp_path / "out").mkdir()
    make(folder, tmp_path / "out" / "%d.png", crf=None, preset=None)
    assert [np.array_equal(read_pictures(tmp_path / "out")[f"{number}.png"], make_frame(number)) for number in (0, 1)] == [
        True
    ] * 2


def test_pictures_that_exist_are_not_replaced(tmp_path: Path, make: Make) -> None:
    source = Clip(frames=3, audio=None).write(tmp_path / "in.mp4")
    folder = write_pictures(tmp_path / "out", ["00001.png"])
    options = {"crf": None, "preset": None}
    with pytest.raises(UsageError, match=r"00001\.png exists; give --force"):
        make(source, folder / "%05d.png", **options)
    make(source, folder / "%05d.png", force=True, **options)
    assert len(list(folder.iterdir())) == 3
    with pytest.raises(UsageError, match="is the input, too; choose another folder"):
        make(folder, folder / "x%d.png", **options)


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "holds no frames"), (["a.png", "b.jpg"], r"holds \.jpg and \.png; the frames of a film are of one kind")],
)
def test_a_folder_without_a_film_is_refused(tmp_path: Path, make: Make, names: list[str], message: str) -> None:
    folder = write_pictures(tmp_path / "in", names)
    with pytest.raises(InputError, match=message):
        make(folder, tmp_path / "out.mkv")


def test_a_rate_is_for_pictures_alone(tmp_path: Path, make: Make) -> None:
    source = Clip(audio=None).write(tmp_path / "in.mp4")
    with pytest.raises(UsageError, match=r"--fps is the rate of pictures, and .* is a video with times of its own"):
        make(source, tmp_path / "out.mp4", fps="24")
    with pytest.raises(UsageError, match="names frames that do not end in one of"):
        make(source, tmp_path / "%05d.xyz")


def test_a_name_with_a_percent_sign_is_a_name(tmp_path: Path, make: Make) -> None:
    path = Clip(audio=None).write(tmp_path / "in.mp4").rename(tmp_path / "100%d.mp4")
    assert not names_frames(path)
    assert make(path, tmp_path / "out.mp4").frames == 20
