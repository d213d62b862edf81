"""Video files: orientation is applied, and everything guessed or changed is in a note."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.errors import InputError, RefusedError, UsageError
from dni_deploy.imaging.orientation import Orientation
from dni_deploy.video_io.color import ColorSpec
from dni_deploy.video_io.video_file import InputOptions, open_video_file
from tests.dni_deploy.api.test_video import psnr
from tests.dni_deploy.imaging.test_orientation import pack_matrix
from tests.support.video_clips import Clip, make_frame, see, write_display_matrix
from tests.support.video_command import Make


def test_an_untagged_video_has_a_note_and_is_tagged(tmp_path: Path, make: Make) -> None:
    source = Clip(matrix=None, audio=None).write(tmp_path / "in.mp4")
    report = make(source, tmp_path / "out.mp4")
    assert any("taken for BT.601" in note for note in report.notes)
    assert see(tmp_path / "out.mp4").tags["matrix"] == 6
    # The photograph went through two codecs, as for LOSSY in test_video.
    assert psnr(see(tmp_path / "out.mp4").frames[5], make_frame(5)) > 28


@pytest.mark.parametrize(
    ("clip", "note"),
    [
        (Clip(options={"x264-params": "tff=1"}), "20 frames are interlaced: both fields"),
        (
            Clip(codec="ffv1", pixels="bgra", matrix=None),
            "RGB, 8 bits, with transparency is written as 4:4:4, 8 bits: transparency",
        ),
    ],
    ids=["interlaced", "transparent"],
)
def test_discarded_features_have_a_note(tmp_path: Path, make: Make, clip: Clip, note: str) -> None:
    report = make(clip.write(tmp_path / "in.mkv"), tmp_path / "out.mkv")
    assert any(note in text for text in report.notes)
    assert report.frames == len(see(tmp_path / "out.mkv").frames) == clip.frames


@pytest.mark.parametrize(
    ("matrix", "description"),
    [
        ((0, 1, -1, 0), "turned clockwise by 90 degrees"),
        ((-1, 0, 0, -1), "turned clockwise by 180 degrees"),
        ((0, -1, 1, 0), "turned clockwise by 270 degrees"),
        ((-1, 0, 0, 1), "mirrored"),  # a phone's front camera
        ((1, 0, 0, -1), "turned clockwise by 180 degrees and mirrored"),
        ((0, 1, 1, 0), "turned clockwise by 90 degrees and mirrored"),
        ((0, -1, -1, 0), "turned clockwise by 270 degrees and mirrored"),
    ],
)
def test_every_orientation_is_applied(tmp_path: Path, make: Make, matrix: tuple[int, int, int, int], description: str) -> None:
    source = write_display_matrix(Clip(audio=None, frames=5).write(tmp_path / "in.mp4"), matrix)
    report = make(source, tmp_path / "out.mp4")
    after: Any = see(tmp_path / "out.mp4")
    orientation = Orientation.from_display_matrix(pack_matrix(*matrix))
    assert orientation is not None
    expected = orientation.apply(make_frame(4))
    assert report.notes == (f"{description}: the frames are written upright",)
    assert after.tags["rotation"] == 0
    assert after.frames[4].shape == expected.shape
    assert psnr(after.frames[4], expected) > 28


def test_a_display_matrix_that_is_no_orientation_has_a_note(tmp_path: Path) -> None:
    source = write_display_matrix(Clip(audio=None, frames=2).write(tmp_path / "in.mp4"), (0.7071, 0.7071, -0.7071, 0.7071))
    video_file = open_video_file(source)
    assert video_file.orientation == Orientation()
    assert any("display matrix is neither a turn" in note for note in video_file.notes)


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("absent.mp4", None, InputError, "does not exist"),
        ("empty.mp4", b"", InputError, "is empty"),
        ("text.mp4", b"a b c\n" * 500, InputError, "could not be opened as a video"),
        ("list.mp4", b"#EXTM3U\nhttp://127.0.0.1:9/a.ts\n", RefusedError, "is a playlist"),
        ("list.mkv", b"\xef\xbb\xbf  ffconcat version 1.0\nfile other.mp4\n", RefusedError, "is a playlist"),
        ("list.mpd", b"<?xml version='1.0'?>\n<MPD></MPD>", RefusedError, "is a playlist"),
    ],
)
def test_files_that_are_not_videos_are_refused(
    tmp_path: Path, name: str, content: bytes | None, kind: type[Exception], message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=message):
        open_video_file(tmp_path / name)


def test_a_name_that_looks_like_a_protocol_is_a_name(tmp_path: Path) -> None:
    path = Clip(audio=None).write(tmp_path / "in.mp4").rename(tmp_path / "concat:a|b.mp4")
    assert open_video_file(path).frame_count == 20
    with pytest.raises(InputError, match="does not exist; addresses are not opened"):
        open_video_file(Path("http://127.0.0.1:9/in.mp4"))


def test_an_unknown_hardware_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no hardware decoder 'gpu'; this PyAV has"):
        open_video_file(Clip(audio=None).write(tmp_path / "in.mp4"), InputOptions(hwaccel="gpu"))


def test_video_metadata_is_read(tmp_path: Path) -> None:
    video_file = open_video_file(Clip(aspect=Fraction(4, 3), full=True, matrix="bt601").write(tmp_path / "in.mp4"))
    assert (video_file.width, video_file.height, video_file.frame_count) == (64, 48, 20)
    assert (video_file.frame_rate, video_file.pixel_aspect, video_file.orientation) == (25, Fraction(4, 3), Orientation())
    assert video_file.color == ColorSpec(6, True, 1, 1)
    assert (video_file.stream_index, video_file.copied_streams, len(video_file.time_jumps.positions)) == (0, (1,), 0)
    assert video_file.notes == ()
    turned = open_video_file(write_display_matrix(tmp_path / "in.mp4", (0, 1, -1, 0)))
    assert (turned.width, turned.height, turned.coded_size) == (48, 64, (64, 48))
    assert turned.orientation == Orientation(True, True, False)
    assert turned.pixel_aspect == Fraction(3, 4)
