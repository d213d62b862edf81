"""Video files: orientation is applied, and everything guessed or changed is in a note."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.errors import InputError, RefusedError, UsageError
from dni_deploy.video_io.color import ColorSpec
from dni_deploy.video_io.video_file import open_video_file, turn_upright
from tests.dni_deploy.api.test_video import psnr
from tests.support.video_clips import Clip, make_frame, see
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
        (Clip(options={"x264-params": "tff=1"}), "interlaced"),
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


def write_rotation(path: Path, quarter_turns: int) -> Path:
    """Writes another display matrix into an MP4's first track header (ISO 14496-12, 8.3.2)."""
    matrices: dict[int, tuple[int, ...]] = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}
    a, b, c, d = matrices[quarter_turns]
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    for place, value in ((0, a), (1, b), (3, c), (4, d)):
        data[start + 4 * place : start + 4 * place + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_rotation_is_applied(tmp_path: Path, make: Make, quarter_turns: int) -> None:
    """A matrix (a, b, c, d) sends a point (x, y) to (ax + cy, bx + dy), y downward: quarter turns clockwise."""
    source = write_rotation(Clip(audio=None).write(tmp_path / "in.mp4"), quarter_turns)
    make(source, tmp_path / "out.mp4")
    after: Any = see(tmp_path / "out.mp4")
    expected = np.rot90(make_frame(4), -quarter_turns)
    assert after.tags["rotation"] == 0
    assert after.frames[4].shape == expected.shape
    assert psnr(after.frames[4], expected) > 28


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
        open_video_file(Clip(audio=None).write(tmp_path / "in.mp4"), hwaccel="gpu")


def test_video_metadata_is_read(tmp_path: Path) -> None:
    video_file = open_video_file(Clip(aspect=Fraction(4, 3), full=True, matrix="bt601").write(tmp_path / "in.mp4"))
    assert (video_file.width, video_file.height, video_file.frame_count) == (64, 48, 20)
    assert (video_file.frame_rate, video_file.pixel_aspect, video_file.rotation) == (25, Fraction(4, 3), 0)
    assert video_file.color == ColorSpec(6, True, 1, 1)
    assert (video_file.stream_index, video_file.copied_streams, video_file.attachment_count) == (0, (1,), 0)
    assert video_file.notes == ()
    turned = open_video_file(write_rotation(tmp_path / "in.mp4", 1))
    assert (turned.width, turned.height, turned.coded_size, turned.rotation) == (48, 64, (64, 48), 270)
    assert turned.pixel_aspect == Fraction(3, 4)


def test_every_rotation_is_turned_upright() -> None:
    rgb = make_frame(0, 5, 3)
    assert turn_upright(rgb, 0) is rgb
    assert np.array_equal(turn_upright(rgb, 90), np.rot90(rgb))
    assert turn_upright(rgb, 270).flags.c_contiguous
