"""A part of a video: its frames, the sound under them, and the alphas that the whole video would have there."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dni_deploy.alpha.log import AlphaLog
from dni_deploy.errors import UsageError
from dni_deploy.video_io.video_file import InputOptions
from dni_deploy.video_io.video_part import VideoPart
from tests.support.video_clips import Clip, make_frame, see, with_subtitles
from tests.support.video_command import Make

RATE = Fraction(25)


@pytest.mark.parametrize(
    ("start", "end", "preview", "expected"),
    [
        (None, None, None, None),
        ("1:02.5", None, None, VideoPart(Fraction(125, 2), None)),
        (None, "2.5s", None, VideoPart(Fraction(0), Fraction(5, 2))),
        ("10f", "20f", None, VideoPart(Fraction(19, 50), Fraction(39, 50))),
        (None, None, "2s@1:23", VideoPart(Fraction(83), Fraction(85))),
        (None, None, "5f@10f", VideoPart(Fraction(19, 50), Fraction(29, 50))),
    ],
)
def test_parts_are_parsed(start: str | None, end: str | None, preview: str | None, expected: VideoPart | None) -> None:
    assert VideoPart.parse(start, end, preview, RATE) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start": "3s", "end": "3s"}, "begin at 3 s and end at 3 s, so it is empty"),
        ({"start": "soon"}, "'soon' is not a time"),
        ({"preview": "2s"}, "--preview 2s is not DURATION@TIME, such as 2s@1:23"),
        ({"preview": "2s@1", "end": "3"}, "--preview sets both ends of the part"),
        ({"preview": "0@1"}, "so it is empty"),
    ],
)
def test_times_that_are_none_are_refused_before_anything_is_opened(fields: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        InputOptions(**fields)


@pytest.mark.parametrize(
    ("suffix", "start", "end", "first", "count"),
    [
        (".mp4", "0.4s", "0.6s", 10, 5),
        (".mkv", "0.4s", "0.6s", 10, 5),
        (".ts", "0.4s", "0.6s", 10, 5),
        (".avi", "0.4s", "0.6s", 10, 5),
        (".mkv", "3f", "5f", 3, 2),
        (".mp4", None, "0.2", 0, 5),
    ],
)
def test_a_part_has_its_frames(
    tmp_path: Path, make: Make, suffix: str, start: str | None, end: str, first: int, count: int
) -> None:
    """Parts begin between key frames, and formats with and without an index give the same frames."""
    options = {"bf": "0"} if suffix == ".avi" else {}  # AVI has no place for the times of B-frames
    clip = Clip(audio=None, time_base=Fraction(1, 25) if suffix == ".avi" else Fraction(1, 12800), options=options)
    source = clip.write(tmp_path / f"in{suffix}")
    report = make(source, tmp_path / "out.mkv", start=start, end=end)
    after = see(tmp_path / "out.mkv")
    assert report.frames == len(after.frames) == count
    assert after.times[0] < Fraction(1, 40)
    for number, frame in enumerate(after.frames, first):
        errors = [np.abs(frame.astype(float) - make_frame(other)).mean() for other in range(20)]
        assert int(np.argmin(errors)) == number


def test_sound_and_subtitles_go_with_the_part(tmp_path: Path, make: Make) -> None:
    source = with_subtitles(Clip().write(tmp_path / "bare.mkv"), tmp_path / "in.mkv")
    report = make(source, tmp_path / "out.mkv", start="0.4s", end="0.6s")
    assert "the part from 0.4 s to 0.6 s; alpha over time keeps the times of the whole video" in report.notes
    with av.open(str(tmp_path / "out.mkv")) as container:
        packets = [packet for packet in container.demux() if packet.pts is not None and packet.size]
        times = {kind: [float(p.pts * p.time_base) for p in packets if p.stream.type == kind] for kind in ("audio", "subtitle")}
        lines = [bytes(packet) for packet in packets if packet.stream.type == "subtitle"]
        assert container.chapters() == []  # the only one ends at 0.4 s
    assert 0 <= times["audio"][0] < 0.03
    assert 0.15 < times["audio"][-1] < 0.2
    assert lines == [b"second"]
    assert times["subtitle"] == [0]


def test_alpha_keeps_the_times_of_the_whole_video(tmp_path: Path, make: Make) -> None:
    """What is tried on a part is what the whole video will have there, by seconds and by frames; its log plays again."""
    source = Clip(audio=None).write(tmp_path / "in.mp4")
    for alpha in ("0:a=1, 0.48s:a=1, 0.52s:a=0; hold", "0f:a=1, 13f:a=0; hold"):
        part = {"start": "10f", "end": "16f"}
        make(source, tmp_path / "out.mp4", alpha, **part, alpha_log=tmp_path / "log.jsonl", force=True)
        rows = list(AlphaLog.read_entries(tmp_path / "log.jsonl"))
        assert [row.frame for row in rows] == [10, 11, 12, 13, 14, 15]
        assert [row.coefficients.values[0] for row in rows] == [1, 1, 1, 0, 0, 0]
        make(source, tmp_path / "again.mp4", tmp_path / "log.jsonl", **part, force=True)
        assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "out.mp4").read_bytes()
        (tmp_path / "log.jsonl").unlink()
