"""Deinterlacing: a whole frame for each one at its time, in the order of fields that the frames say; telecine has a note."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from dni_deploy.video_io.deinterlace import Deinterlacer
from tests.dni_deploy.api.test_video import psnr
from tests.support.video_clips import Clip, make_frame, see, write_telecine
from tests.support.video_command import Make

TIMES = [0, 512, 1100, 1700, 2048, 2560, 4000]


def write_interlaced(path: Path, first_row: int) -> Path:
    """Weaves two moments into each frame; the field with `first_row` is the earlier one."""

    class Woven(Clip):
        def _frame(self, index: int) -> av.VideoFrame:
            pixels = make_frame(2 * index + 1).copy()
            pixels[first_row::2] = make_frame(2 * index)[first_row::2]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv444p", dst_colorspace="ITU709")
            return mark_field_order(frame, "tff" if first_row == 0 else "bff")

    return Woven(audio=None, times=TIMES, pixels="yuv444p", options={"x264-params": "tff=1"}).write(path)


def mark_field_order(frame: av.VideoFrame, order: str) -> av.VideoFrame:
    """Sets the flags of an interlaced frame, which PyAV does not; x264 takes the order of fields from them."""
    graph = av.filter.Graph()
    size = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/25:colorspace=1:range=1"
    graph.link_nodes(graph.add("buffer", size), graph.add("setfield", order), graph.add("buffersink")).configure()
    frame.pts, frame.time_base, frame.colorspace, frame.color_range = 0, Fraction(1, 25), 1, 1
    graph.vpush(frame)
    return graph.vpull()


@pytest.mark.parametrize("first_row", [0, 1])
def test_interlaced_frames_become_whole(tmp_path: Path, make: Make, first_row: int) -> None:
    source = write_interlaced(tmp_path / "in.mp4", first_row)
    report = make(source, tmp_path / "out.mp4", deinterlace=True, crf=1)
    assert "7 interlaced frames were deinterlaced, each to one frame" in report.notes
    before, after = see(source), see(tmp_path / "out.mp4")
    assert after.times == before.times
    gains = [
        psnr(whole, make_frame(2 * index)) - psnr(woven, make_frame(2 * index))
        for index, (woven, whole) in enumerate(zip(before.frames, after.frames, strict=True))
    ]
    assert min(gains) > 2  # with the other order of fields, it is worse than what was woven


def test_a_stopped_run_deinterlaces_the_same_frames(tmp_path: Path, make: Make, engine: Any) -> None:
    source = write_interlaced(tmp_path / "in.mp4", 0)
    make(source, tmp_path / "whole.mp4", deinterlace=True, segment_frames=3)
    infer, count = engine.infer, [0]

    def stop(slot: int, x: Any) -> Any:
        count[0] += 1
        if count[0] > 5:
            raise KeyboardInterrupt
        return infer(slot, x)

    engine.slots, engine.infer = 1, stop
    with pytest.raises(KeyboardInterrupt):
        make(source, tmp_path / "out.mp4", deinterlace=True, segment_frames=3)
    engine.infer = infer
    make(source, tmp_path / "out.mp4", deinterlace=True, segment_frames=3)
    assert (tmp_path / "out.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_frames_without_marks_are_deinterlaced_when_asked(tmp_path: Path, make: Make) -> None:
    report = make(Clip(audio=None, frames=4).write(tmp_path / "in.mp4"), tmp_path / "out.mp4", deinterlace=True)
    assert report.notes == ("not marked as interlaced: all frames were deinterlaced, the top field first",)
    assert report.frames == 4


@pytest.mark.parametrize("pixels", ["yuv420p", "nv12", "rgb24", "yuv422p10le"])
def test_a_single_frame_of_any_format_comes_out(pixels: str) -> None:
    frame = av.VideoFrame.from_ndarray(make_frame(0), format="rgb24").reformat(format=pixels)
    deinterlacer = Deinterlacer(Fraction(1, 90000), only_marked=False)
    frames = [*deinterlacer.push(frame, 7), *deinterlacer.flush()]
    assert [(pts, duration) for _, pts, duration in frames] == [(7, 0)]
    assert (frames[0][0].width, frames[0][0].height) == (64, 48)
    assert list(Deinterlacer(Fraction(1, 90000), only_marked=False).flush()) == []


def test_soft_telecine_has_a_note(tmp_path: Path, make: Make) -> None:
    source = write_telecine(tmp_path / "in.ts")
    report = make(source, tmp_path / "out.mkv")
    assert any("soft telecine: 6 frames are marked to be shown for three fields" in note for note in report.notes)
    assert report.frames == 12
    differences = np.diff([float(time) for time in see(tmp_path / "out.mkv").times])
    assert np.allclose(differences, 1001 / 30000, atol=0.0011)
