"""Segments made in any order, some twice, and joined are byte for byte what one run makes, alpha log and losses included."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.api import video as verb
from dni_deploy.video_io.index_pass import index_by_packets
from dni_deploy.video_io.reader import FrameRange, IndexMismatchError, VideoReader
from dni_deploy.video_io.video_file import open_video_file
from tests.dni_deploy.api.test_video import VARIABLE
from tests.support.frame_session import Dimmer, opener
from tests.support.segment_jobs import make_shuffled, make_whole
from tests.support.video_clips import Clip, make_frame, write_display_matrix, write_edit_list, write_telecine
from tests.support.video_command import MEMBERS

GOP = 8
TICKS = Fraction(1, 90000)
OPEN_GOP = {"x264-params": "open-gop=1", "bf": "3"}


@pytest.fixture(autouse=True)
def _opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "open_session", opener(Dimmer((1.0, 0.0)), MEMBERS))


def damage(path: Path, data: bytes = bytes(3000)) -> Path:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(data)] = data
    path.write_bytes(content)
    return path


def cut_packets(path: Path) -> Path:
    """Cuts off the beginning of a transport stream, in the middle of a group of frames."""
    path.write_bytes(path.read_bytes()[188 * 60 :])
    return path


def join_twice(path: Path) -> Path:
    path.write_bytes(path.read_bytes() * 2)
    return path


def write_images(path: Path, damaged: int | None = None) -> Path:
    path.mkdir()
    for number in range(12):
        Image.fromarray(make_frame(number)).save(path / f"a{number}.png")
        if number == damaged:
            (path / f"a{number}.png").write_bytes((path / f"a{number}.png").read_bytes()[:900])
    return path


SEEKING: dict[str, Callable[[Path], Path]] = {
    "MPEG-TS, open GOP, variable rate": lambda folder: Clip(
        times=[7 * ticks for ticks in VARIABLE], time_base=TICKS, options=OPEN_GOP
    ).write(folder / "in.ts"),
    "edit list": lambda folder: write_edit_list(Clip().write(folder / "a.mp4"), folder / "in.mp4", [(0.2, 0.7)]),
}
MORE_SEEKING: dict[str, Callable[[Path], Path]] = {
    "B-frames": lambda folder: Clip(audio=None).write(folder / "in.mkv"),
    "MPEG-TS": lambda folder: Clip(time_base=TICKS).write(folder / "in.ts"),
    "variable rate, turned": lambda folder: write_display_matrix(Clip(times=VARIABLE).write(folder / "in.mp4"), (0, 1, -1, 0)),
    "images": lambda folder: write_images(folder / "in"),
    "open GOP": lambda folder: Clip(options=OPEN_GOP).write(folder / "in.mkv"),
    "open GOP in MP4": lambda folder: Clip(options=OPEN_GOP).write(folder / "in.mp4"),
    "HEVC": lambda folder: Clip(codec="libx265", options={"x265-params": "open-gop=1:keyint=8"}).write(folder / "in.mkv"),
    "VP9": lambda folder: Clip(codec="libvpx-vp9", audio=None).write(folder / "in.webm"),
    "AV1": lambda folder: Clip(codec="libsvtav1", audio=None).write(folder / "in.mkv"),
    "FFV1": lambda folder: Clip(codec="ffv1", audio=None).write(folder / "in.mkv"),
    "telecine": lambda folder: write_telecine(folder / "in.mpg"),
    "edits that go back": lambda folder: write_edit_list(
        Clip().write(folder / "a.mp4"), folder / "in.mp4", [(0.5, 0.8), (0.1, 0.3)]
    ),
}
DECODED: dict[str, Callable[[Path], Path]] = {
    "damaged MP4": lambda folder: damage(Clip(frames=30, audio=None).write(folder / "in.mp4")),
    "damaged TS": lambda folder: damage(Clip(frames=30, time_base=TICKS).write(folder / "in.ts")),
}
MORE_DECODED: dict[str, Callable[[Path], Path]] = {
    "bare stream": lambda folder: Clip(audio=None).write(folder / "in.h264"),
    "edit lists": lambda folder: write_edit_list(Clip().write(folder / "a.mp4"), folder / "in.mp4", [(0.1, 0.3), (0.4, 0.8)]),
    "damaged Matroska": lambda folder: damage(Clip(frames=30).write(folder / "in.mkv"), np.random.default_rng(0).bytes(3000)),
    "no beginning": lambda folder: cut_packets(Clip(frames=30, time_base=TICKS).write(folder / "in.ts")),
    "joined": lambda folder: join_twice(Clip(frames=12, time_base=TICKS).write(folder / "in.ts")),
    "a damaged image": lambda folder: write_images(folder / "in", damaged=7),
}


@pytest.mark.parametrize("kind", [*SEEKING, *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE_SEEKING)])
def test_any_order_from_key_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    source = {**SEEKING, **MORE_SEEKING}[kind](tmp_path)
    whole = make_whole(source, tmp_path / "whole.mkv")
    shuffled = make_shuffled(source, tmp_path / "out.mkv", monkeypatch)
    assert shuffled.outcome[1:] == whole[1:]
    assert set(whole.notes) <= set(shuffled.outcome.notes)
    assert not shuffled.is_decoded
    if kind not in ("edits that go back", "telecine"):  # whose key frames are cut away, or 12 frames apart
        assert shuffled.decoded <= shuffled.attempts * (5 + GOP)


@pytest.mark.parametrize("kind", [*DECODED, *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE_DECODED)])
def test_any_order_where_only_decoding_tells_the_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    source = {**DECODED, **MORE_DECODED}[kind](tmp_path)
    whole = make_whole(source, tmp_path / "whole.mkv")
    shuffled = make_shuffled(source, tmp_path / "out.mkv", monkeypatch)
    assert shuffled.is_decoded
    assert shuffled.outcome[1:] == whole[1:]
    assert set(whole.notes) <= set(shuffled.outcome.notes)
    assert any("decoded once" in note for note in shuffled.outcome.notes) or whole.error


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize(
    "reading", [{"start": "3f"}, {"start": "0.3s", "end": "0.7s"}, {"deinterlace": True}], ids=["start", "both", "deinterlace"]
)
def test_any_order_of_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: dict[str, object], suffix: str) -> None:
    source = Clip(time_base=TICKS, options=OPEN_GOP).write(tmp_path / f"in{suffix}")
    whole = make_whole(source, tmp_path / "whole.mkv", **reading)
    assert make_shuffled(source, tmp_path / "out.mkv", monkeypatch, **reading).outcome[1:] == whole[1:]


@pytest.mark.slow
def test_frames_decoded_of_a_long_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Clip(frames=200, gop=25, audio=None).write(tmp_path / "in.mp4")
    shuffled = make_shuffled(source, tmp_path / "out.mkv", monkeypatch)
    assert shuffled.attempts == 43
    assert shuffled.decoded <= 43 * (5 + 25)


def test_periodic_intra_refresh_has_no_key_frame_but_the_first(tmp_path: Path) -> None:
    clip = Clip(audio=None, options={"x264-params": "intra-refresh=1:keyint=8"})
    index = index_by_packets(open_video_file(clip.write(tmp_path / "in.mkv")))
    assert index is not None
    assert [key_frame.rank for key_frame in index.key_frames] == [0]


def test_open_gops_begin_at_their_recovery_points(tmp_path: Path) -> None:
    source = open_video_file(Clip(audio=None, options=OPEN_GOP).write(tmp_path / "in.mkv"))
    index = index_by_packets(source)
    assert index is not None
    assert [key_frame.rank for key_frame in index.key_frames] == [0, 8, 16]
    whole = list(VideoReader(source))
    for first in range(20):
        frames = list(VideoReader(source, frame_range=FrameRange(index, first, min(first + 3, 20))))
        assert [frame[:3] for frame in frames] == [frame[:3] for frame in whole[first : first + 3]]
        assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(frames, whole[first:], strict=False))


def test_a_video_that_changed_since_its_index_is_noticed(tmp_path: Path) -> None:
    source = open_video_file(Clip(audio=None).write(tmp_path / "in.mkv"))
    index = index_by_packets(source)
    assert index is not None
    times = list(index.times)
    times[13] += 1
    changed = type(index)(tuple(times), 0, 20, index.key_frames)
    assert len(list(VideoReader(source, frame_range=FrameRange(changed, 2, 12)))) == 10
    for from_beginning in (False, True):
        reader = VideoReader(source, frame_range=FrameRange(changed, 9, 15, from_beginning))
        numbers = []
        with pytest.raises(IndexMismatchError, match=r"Frame 13 of .* is not where it was"):
            numbers.extend(frame.number for frame in reader)
    shutil.copy(Clip(audio=None, frames=9).write(tmp_path / "short.mkv"), source.path)
    with pytest.raises(IndexMismatchError):
        list(VideoReader(source, frame_range=FrameRange(index, 17, 20)))
