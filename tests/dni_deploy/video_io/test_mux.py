"""Muxing: decoding times never decrease, durations fill gaps, and unsupported streams are refused before any work."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

from dni_deploy.errors import UsageError
from dni_deploy.video_io.color import ColorSpec
from dni_deploy.video_io.encoder import EncoderOptions, OutputFormat, add_video_stream
from dni_deploy.video_io.mux import _compute_durations, _read_video_packets, find_muxer, plan_output
from dni_deploy.video_io.segments import FrameAlphaRecord, Segment, SegmentWriter
from dni_deploy.video_io.streams import StreamCopy
from dni_deploy.video_io.video_file import open_video_file
from tests.dni_deploy.video_io.test_segments import make_packet
from tests.support.video_clips import Clip
from tests.support.video_command import Make

OUTPUT_FORMAT = OutputFormat(64, 48, Fraction(1, 1000), Fraction(25), None, ColorSpec(1, False))


@pytest.mark.parametrize(("name", "muxer"), [("a.mp4", "mp4"), ("a.M4V", "mp4"), ("a.mov", "mov"), ("b.mkv", "matroska")])
def test_the_suffix_names_the_muxer(name: str, muxer: str) -> None:
    assert find_muxer(Path(name)) == muxer


def test_another_suffix_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a\.xyz does not end in one of \.mp4"):
        find_muxer(Path("a.xyz"))


def test_durations_last_until_the_next_frame() -> None:
    times = ((0, 40), (40, 40), (100, 40))
    assert _compute_durations(times, 130) == {0: 40, 40: 60, 100: 30}
    assert _compute_durations(times, None) == {0: 40, 40: 60, 100: 40}
    assert _compute_durations(((0, 0), (40, 0)), None) == {0: 40, 40: 40}
    assert _compute_durations(((7, 0),), None) == {7: 1}


def write_segment(folder: Path, number: int, first_frame: int, decoding_order: list[int]) -> Segment:
    writer = SegmentWriter(folder, number, first_frame)
    for pts in sorted(decoding_order):
        writer.add_frame(pts, 40, FrameAlphaRecord(pts / 1000, 1, (1.0,)))
    for pts in decoding_order:
        writer.add_packet(make_packet(pts, b"packet", pts == min(decoding_order)))
    return writer.close()


def test_decoding_times_increase_across_segments(tmp_path: Path) -> None:
    """A decoder needs each packet before its frame is shown; here one segment delays frames and the other does not."""
    segments = [write_segment(tmp_path, 0, 0, [0, 80, 40, 120]), write_segment(tmp_path, 1, 4, [160, 200, 300])]
    with av.open(str(tmp_path / "out.mkv"), "w") as output:
        stream = add_video_stream(output, EncoderOptions(), OUTPUT_FORMAT)
        timed = list(_read_video_packets(segments, stream, OUTPUT_FORMAT))
        packets = [packet for _, packet in timed]
        assert [packet.pts for packet in packets] == [0, 80, 40, 120, 160, 200, 300]
        decoding_times = [packet.dts or 0 for packet in packets]
        assert decoding_times == sorted(set(decoding_times))
        assert all((packet.pts or 0) >= dts for packet, dts in zip(packets, decoding_times, strict=True))
        assert [packet.duration for packet in packets] == [40, 40, 40, 40, 40, 100, 40]
        assert [seconds for seconds, _ in timed] == [Fraction(dts, 1000) for dts in decoding_times]


def test_a_codec_that_a_container_cannot_hold_is_refused(tmp_path: Path) -> None:
    video_file = open_video_file(Clip(frames=2).write(tmp_path / "in.mp4"))
    plan = plan_output(tmp_path / "out.mp4", video_file, EncoderOptions(), OUTPUT_FORMAT)
    assert (plan.muxer, plan.has_global_header, plan.copies, plan.notes) == ("mp4", True, (StreamCopy(1),), ())
    message = r"A webm file cannot hold what libx264 encodes; choose \.mp4 or .* or \.mkv, or give --codec libvpx-vp9\. Nothing"
    with pytest.raises(UsageError, match=message):
        plan_output(tmp_path / "out.webm", video_file, EncoderOptions(), OUTPUT_FORMAT)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_hevc_plays_in_quicktime_and_before_it_is_whole(tmp_path: Path, make: Make, suffix: str) -> None:
    """The tag is hvc1, as QuickTime and Safari want, and the index comes before the frames."""
    source = Clip(frames=3, audio=None).write(tmp_path / "in.mp4")
    make(source, tmp_path / f"out{suffix}", codec="libx265")
    data = (tmp_path / f"out{suffix}").read_bytes()
    assert b"hvc1" in data
    assert b"hev1" not in data
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    make(source, tmp_path / f"tagged{suffix}", codec="libx265", encoder_options={"tag": "hev1"})
    assert b"hev1" in (tmp_path / f"tagged{suffix}").read_bytes()
