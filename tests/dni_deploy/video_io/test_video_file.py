"""What a video file is: its orientation is applied, and what has to be guessed or changed is in a note."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.dni_deploy.api.test_video import psnr
from tests.support.video_clips import Clip, picture, see
from tests.support.video_command import Make


def test_an_untagged_video_has_a_note_and_is_tagged(tmp_path: Path, make: Make) -> None:
    source = Clip(matrix=None, audio=None).write(tmp_path / "in.mp4")
    report = make(source, tmp_path / "out.mp4")
    assert any("taken for BT.601" in note for note in report.notes)
    assert see(tmp_path / "out.mp4").tags["matrix"] == 6
    # Through two codecs from the photograph, as LOSSY of test_video.
    assert psnr(see(tmp_path / "out.mp4").frames[5], picture(5)) > 28


@pytest.mark.parametrize(
    ("clip", "note"),
    [
        (Clip(pixels="yuv420p10le"), "more than 8 bits"),
        (Clip(pixels="yuv444p"), "becomes 4:2:0"),
        (Clip(options={"x264-params": "tff=1"}), "interlaced"),
        (Clip(codec="ffv1", pixels="bgra", matrix=None), "transparent"),
    ],
    ids=["10 bit", "4:4:4", "interlaced", "transparent"],
)
def test_what_cannot_be_kept_has_a_note(tmp_path: Path, make: Make, clip: Clip, note: str) -> None:
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
    expected = np.rot90(picture(4), -quarter_turns)
    assert after.tags["rotation"] == 0
    assert after.frames[4].shape == expected.shape
    assert psnr(after.frames[4], expected) > 28
