"""Streams beside the video: kept, converted, chosen or dropped; checked before any frame is rendered."""

from __future__ import annotations

import io
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from dni_deploy.api import video as verb
from dni_deploy.errors import InputError, UsageError
from dni_deploy.video_io import mux
from dni_deploy.video_io.reader import VideoReader
from dni_deploy.video_io.resume import job_folder_path
from dni_deploy.video_io.streams import CAN_COPY_PARAMETERS, rescale
from tests.support.frame_session import Dimmer
from tests.support.video_clips import Clip, copy_packets, make_frame, see, sound, with_subtitles, write_edit_list
from tests.support.video_command import Make


def read_packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    """Returns time in seconds and data of the packets of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [(packet.pts * packet.time_base, bytes(packet)) for packet in container.demux(stream) if packet.pts is not None]


def read_texts(path: Path) -> list[tuple[float, float, bytes]]:
    """Returns begin and duration in seconds, and the text of each subtitle without styles."""
    with av.open(str(path)) as container:
        stream: Any = container.streams.subtitles[0]
        found = []
        for packet in container.demux(stream):
            for subtitle in packet.decode() if packet.size else ():
                text = re.sub(rb"\{[^}]*\}", b"", subtitle.dialogue)
                found.append((float(packet.pts * packet.time_base), float(packet.duration * packet.time_base), text))
        return found


def test_a_joined_transport_stream_is_kept_whole(tmp_path: Path, make: Make) -> None:
    """Its clock starts again in the middle, as in captured streams and camera clips that were put together."""
    part = copy_packets(Clip().write(tmp_path / "in.mp4"), tmp_path / "part.ts")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(2 * part.read_bytes())
    sounds = read_packets(part, "audio")
    for suffix in (".mkv", ".mp4"):
        output = tmp_path / f"out{suffix}"
        report = make(joined, output)
        assert any("its timestamps jump at 1 place" in note for note in report.notes)
        assert any("(audio, aac): the times of 1 packet were absent or not later" in note for note in report.notes)
        times = see(output).times
        assert len(times) == report.frames == 40
        assert max(abs(later - time - Fraction(1, 25)) for time, later in pairwise(times)) <= Fraction(1, 500)
        kept = read_packets(output, "audio")
        assert len(kept) == 2 * len(sounds)
        assert all(time <= later for (time, _), (later, _) in pairwise(kept))
        # The distance of sound and picture is that of the source, in both halves.
        half = len(sounds)
        # But for the packet that the end of the first half, where sound is longer than the picture, moves.
        assert abs((kept[half + 1][0] - times[20]) - (kept[1][0] - times[0])) < Fraction(1, 500)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_late_start_is_moved_to_zero(tmp_path: Path, make: Make, suffix: str) -> None:
    """Broadcast recordings begin at up to 26 hours."""
    source = copy_packets(Clip().write(tmp_path / "in.mp4"), tmp_path / "in.ts", Fraction(50_000))
    report = make(source, tmp_path / f"out{suffix}")
    assert any("the video begins at 49999.979 s: moved to 0 s" in note for note in report.notes)
    before, after = see(source).times, see(tmp_path / f"out{suffix}").times
    distance = before[0] - read_packets(source, "audio")[0][0]
    assert abs(after[0] - read_packets(tmp_path / f"out{suffix}", "audio")[0][0] - distance) < Fraction(1, 900)
    assert abs(after[0] - distance) < Fraction(1, 900)  # the sound begins first, at 0
    assert max(abs((b - before[0]) - (a - after[0])) for b, a in zip(before, after, strict=True)) < Fraction(1, 900)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_subtitles_and_chapters_move_with_the_start(tmp_path: Path, make: Make, suffix: str) -> None:
    bare = with_subtitles(Clip(audio=None).write(tmp_path / "bare.mkv"), tmp_path / "in.mkv")
    report = make(copy_packets(bare, tmp_path / "late.mkv", Fraction(5)), tmp_path / f"out{suffix}")
    assert "the video begins at 5.000 s: moved to 0 s, with all streams alike" in report.notes
    assert read_texts(tmp_path / f"out{suffix}") == [(0.1, 0.2, b"first"), (0.4, 0.3, b"second")]
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        (chapter,) = container.chapters()
        assert [time * chapter["time_base"] for time in (chapter["start"], chapter["end"])] == [0, Fraction(2, 5)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_what_an_edit_list_cuts_away_stays_away(tmp_path: Path, make: Make, suffix: str) -> None:
    """As after `ffmpeg -ss 1 -i ... -c copy`: packets from before the beginning are there and not to be shown."""
    source = copy_packets(Clip(frames=50).write(tmp_path / "in.mp4"), tmp_path / "cut.mp4", Fraction(-1))
    output = tmp_path / f"out{suffix}"
    report = make(source, output)
    assert report.frames == 25
    start = see(output).times[0]
    sounds = read_packets(output, "audio")
    first_shown = next(data for time, data in read_packets(source, "audio") if time >= 0)
    assert abs(next(time for time, data in sounds if data == first_shown) - start) < Fraction(1, 40)
    if suffix == ".mkv":
        assert start - sounds[0][0] <= Fraction(11, 100)  # what the decoder needs
        assert any("packets that its edit list cuts away left out of the .mkv file" in note for note in report.notes)
    else:
        assert start == 0
        assert not report.notes


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_several_edits_keep_what_they_show(tmp_path: Path, make: Make, suffix: str) -> None:
    """The sound between two parts is in the file, and marked as not to be shown."""
    plain = Clip(frames=50).write(tmp_path / "in.mp4")
    source = write_edit_list(plain, tmp_path / "cut.mp4", [(0, 0.4), (1.2, 1.6)])
    output = tmp_path / f"out{suffix}"
    report = make(source, output)
    assert report.frames == 20
    assert any(f"packets that its edit list cuts away left out of the {suffix} file" in note for note in report.notes)
    sounds, start = read_packets(output, "audio"), see(output).times[0]
    times = {data: time for time, data in read_packets(plain, "audio")}
    assert len(sounds) == pytest.approx(0.8 * 48000 / 1024, abs=2)
    for time, data in sounds:
        begins = times[data] if time - start < Fraction(4, 10) else times[data] - Fraction(8, 10)
        assert abs(time - start - begins) < Fraction(1, 40)  # FFmpeg begins a later part with a whole packet


def test_text_subtitles_are_converted(tmp_path: Path, make: Make) -> None:
    source = with_subtitles(Clip(audio=None).write(tmp_path / "bare.mkv"), tmp_path / "srt.mkv")
    expected = [(0.1, 0.2, b"first"), (0.4, 0.3, b"second")]
    report = make(source, tmp_path / "text.mp4")
    assert "stream 1 (subtitle, srt, eng) is converted to mov_text" in report.notes
    assert read_texts(tmp_path / "text.mp4") == expected
    make(source, tmp_path / "text.webm", codec="libvpx-vp9", crf=40, preset=None)
    assert read_texts(tmp_path / "text.webm") == expected
    report = make(tmp_path / "text.mp4", tmp_path / "again.mkv")
    assert report.notes == ("stream 1 (subtitle, mov_text, eng) is converted to subrip",)  # no word of the track of chapters
    assert read_texts(tmp_path / "again.mkv") == expected
    with av.open(str(tmp_path / "again.mkv")) as container:
        assert container.streams[1].language == "eng"
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["one"]


ASS = """[Script Info]
ScriptType: v4.00+
[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,16
[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:00.10,0:00:00.30,Default,,0,0,0,,{\\b1}first{\\b0}
Dialogue: 0,0:00:00.40,0:00:00.70,Default,,0,0,0,,second, with a comma
"""
WEBVTT = "WEBVTT\n\n00:00.100 --> 00:00.300\n<b>first</b>\n\n00:00.400 --> 00:00.700\nsecond, with a comma\n"


@pytest.mark.parametrize(("suffix", "content"), [("ass", ASS), ("vtt", WEBVTT)])
@pytest.mark.parametrize("output_suffix", [".mp4", ".mkv"])
def test_styled_subtitles_keep_their_text(tmp_path: Path, make: Make, suffix: str, content: str, output_suffix: str) -> None:
    (tmp_path / f"text.{suffix}").write_text(content)
    plain, source = Clip(audio=None).write(tmp_path / "plain.mp4"), tmp_path / "in.mkv"
    with (
        av.open(str(plain)) as video,
        av.open(str(tmp_path / f"text.{suffix}")) as texts,
        av.open(str(source), "w") as output,
    ):
        copies = {container: output.add_stream_from_template(container.streams[0]) for container in (texts, video)}
        for container, target in copies.items():
            for packet in container.demux():
                if packet.size:
                    packet.stream = target
                    output.mux(packet)
    make(source, tmp_path / f"out{output_suffix}")
    shown = read_texts(tmp_path / f"out{output_suffix}")
    assert [text for _, _, text in shown] == [b"first", b"second, with a comma"]
    assert {begin for begin, _, _ in shown} == {0.1, 0.4}
    assert all(duration == pytest.approx(0.2 if begin == 0.1 else 0.3, abs=0.002) for begin, duration, _ in shown)


def test_streams_are_chosen_and_dropped(tmp_path: Path, make: Make, engine: Dimmer) -> None:
    source = with_subtitles(Clip(frames=6).write(tmp_path / "bare.mkv"), tmp_path / "in.mkv")

    def list_kinds(path: Path) -> list[str]:
        with av.open(str(path)) as container:
            return [stream.type for stream in container.streams]

    assert list_kinds(source) == ["video", "audio", "subtitle", "attachment"]
    for number, (options, kinds) in enumerate(
        [
            ({"drop": ("audio",)}, ["video", "subtitle", "attachment"]),
            ({"drop": ("subtitles", "attachments", "data")}, ["video", "audio"]),
            ({"drop": ("1", "2")}, ["video", "attachment"]),
            ({"streams": (0, 2)}, ["video", "subtitle"]),
            ({"streams": (1,)}, ["video", "audio"]),
            ({"streams": (1, 2), "drop": ("subtitles",)}, ["video", "audio"]),
        ]
    ):
        report = make(source, tmp_path / f"{number}.mkv", **options)
        assert list_kinds(tmp_path / f"{number}.mkv") == kinds
        assert not any("left out" in note for note in report.notes)
    refits = engine.refits
    for options, message in (
        (
            {"streams": (0, 9)},
            r"has no stream 9; it has 0 \(video, h264\), 1 \(audio, aac\), 2 \(subtitle, srt, eng\), 3 \(att",
        ),
        ({"drop": ("0",)}, "All videos .* are dropped"),
        ({"drop": ("sound",)}, "'sound' cannot be dropped; name audio, subtitles, data, attachments, or the index"),
    ):
        with pytest.raises(UsageError, match=message):
            make(source, tmp_path / "out.mkv", **options)
    assert engine.refits == refits


def write_two_videos(path: Path, *, default: int) -> Path:
    """Writes a small and a large video, of which one is the default."""
    with av.open(str(path), "w") as output:
        streams: list[Any] = []
        for index, width in enumerate((64, 32, 96)):
            stream: Any = output.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 48, "yuv420p"
            stream.disposition = av.stream.Disposition(int(index == default))
            streams.append(stream)
        for stream in streams:
            frame = av.VideoFrame.from_ndarray(make_frame(0, stream.width), format="rgb24")
            output.mux(stream.encode(frame.reformat(format="yuv420p")))
            output.mux(stream.encode(None))
    return path


def test_the_video_is_chosen_as_players_do(tmp_path: Path, make: Make) -> None:
    source = write_two_videos(tmp_path / "a.mkv", default=1)
    assert make(source, tmp_path / "default.mkv").width == 32
    assert make(source, tmp_path / "named.mkv", streams=(2,)).width == 96
    assert make(source, tmp_path / "rest.mkv", drop=("1",)).width == 96  # the largest of the others
    with pytest.raises(UsageError, match=r"Streams 0 and 2 of .* are videos, and one video is processed"):
        make(source, tmp_path / "two.mkv", streams=(0, 2))


@pytest.mark.skipif(not CAN_COPY_PARAMETERS, reason="PyAV 17 takes no codec that the container's specification does not name")
def test_wma_gets_into_matroska_and_other_containers_are_named(tmp_path: Path, make: Make, engine: Dimmer) -> None:
    source = tmp_path / "in.wmv"
    with av.open(str(source), "w", format="asf") as output:
        video: Any = output.add_stream("wmv2", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        voice: Any = output.add_stream("wmav2", rate=48000, layout="stereo")
        voice.codec_context.bit_rate = 128_000
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(make_frame(index), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(video.encode(frame))
        for chunk in (*sound(0.2), None):
            output.mux(voice.encode(chunk))
        output.mux(video.encode(None))
    make(source, tmp_path / "out.mkv")
    assert [data for _, data in read_packets(tmp_path / "out.mkv", "audio")] == [
        data for _, data in read_packets(source, "audio")
    ]
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert container.streams.audio[0].codec_context.name == "wmav2"
    refits = engine.refits
    with pytest.raises(
        UsageError,
        match=r"A mp4 file cannot hold stream 1 of .* \(audio, wmav2\)\. Leave it out with --drop 1, "
        r"or name an output that ends in \.mkv\. Nothing",
    ):
        make(source, tmp_path / "out.mp4")
    assert engine.refits == refits
    make(source, tmp_path / "out.mp4", drop=("1",))


def test_opus_in_mov_is_refused_by_name(tmp_path: Path, make: Make) -> None:
    source = Clip(audio="libopus", frames=3).write(tmp_path / "in.mkv")
    with pytest.raises(UsageError, match=r"A mov file cannot hold stream 1 .*opus.*ends in \.mp4 or \.m4v or \.mkv\. Nothing"):
        make(source, tmp_path / "out.mov")


def test_a_muxer_that_refuses_only_at_its_end_is_known_before_the_work(tmp_path: Path, make: Make, engine: Dimmer) -> None:
    """FFmpeg 8 writes PCM of unknown channels into MP4 until it closes the file."""
    source, output = Clip(audio="pcm_s16le", frames=3).write(tmp_path / "in.mkv"), tmp_path / "out.mp4"
    message = ""
    try:
        make(source, output)
    except UsageError as error:
        message = str(error)
    if message:  # another FFmpeg may take it
        assert "cannot hold stream 1" in message
        assert "(audio, pcm_s16le): Invalid argument. Leave it out with --drop 1, or name" in message
        assert engine.refits == 0
    assert output.exists() == (not message)
    assert not job_folder_path(output).exists()


def test_a_cover_image_is_kept(tmp_path: Path, make: Make) -> None:
    picture = io.BytesIO()
    Image.fromarray(make_frame(3)).save(picture, "JPEG")
    plain, source = Clip(frames=3).write(tmp_path / "plain.mp4"), tmp_path / "in.mp4"
    with av.open(str(plain)) as container, av.open(str(source), "w") as output:
        copies = {stream.index: output.add_stream_from_template(stream) for stream in container.streams}
        cover = output.add_mux_stream("mjpeg", width=64, height=48)
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in container.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream_index]
                output.mux(packet)
        packet = av.Packet(picture.getvalue())
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), cover, True
        output.mux(packet)

    def find_covers(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            covers = [one for one in container.streams.video if one.disposition & av.stream.Disposition.attached_pic]
            return [next(bytes(packet) for packet in container.demux(cover)) for cover in covers]

    for suffix, count in ((".mp4", 1), (".mkv", 1), (".mov", 0)):
        report = make(source, tmp_path / f"out{suffix}")
        assert find_covers(tmp_path / f"out{suffix}") == [picture.getvalue()] * count
        assert len(report.notes) == 1 - count
    assert report.notes == ("1 cover image left out: .mov has no place for that, .mkv has",)
    make(tmp_path / "out.mkv", tmp_path / "back.mp4")
    assert find_covers(tmp_path / "back.mp4") == [picture.getvalue()]


def test_a_timecode_track_is_written_again_without_a_note(tmp_path: Path, make: Make) -> None:
    source = tmp_path / "in.mov"
    with av.open(str(source), "w") as output:
        video: Any = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.colorspace = video.codec_context.color_range = 1
        video.metadata["timecode"] = "01:00:00:00"
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(make_frame(index), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    for options in ({}, {"streams": (0, 1)}):
        report = make(source, tmp_path / f"out{len(options)}.mov", **options)
        assert report.notes == ()
        with av.open(str(tmp_path / f"out{len(options)}.mov")) as container:
            assert [stream.metadata.get("timecode") for stream in container.streams] == ["01:00:00:00"] * 2


def test_a_damaged_packet_is_left_out(tmp_path: Path, make: Make) -> None:
    """The header of one frame of sound is broken: the muxer refuses what it cannot take apart."""
    source = copy_packets(Clip().write(tmp_path / "in.mp4"), tmp_path / "in.ts")
    data = bytearray(source.read_bytes())
    place = data.index(b"\xff\xf1", len(data) // 2)
    data[place : place + 2] = b"\0\0"
    source.write_bytes(data)
    report = make(source, tmp_path / "out.mp4")
    assert report.frames == 20
    assert any("left out, damaged (Invalid data found" in note for note in report.notes)


def test_an_error_of_the_join_keeps_all_segments(
    tmp_path: Path, make: Make, engine: Dimmer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = Clip().write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    make(source, tmp_path / "whole.mp4")
    real = mux.add_video_stream
    for error, message in (
        (
            av.error.ArgumentError(22, "Invalid argument"),
            "could not be put together .Invalid argument.*with --drop .*continues",
        ),
        (InputError("The source is gone."), "The source is gone. All frames are done and kept"),
        (ValueError("odd"), "A segment was damaged meanwhile"),
    ):

        def fail(target: Any, *args: Any, error: Exception = error) -> Any:
            if target.name != "/dev/null":
                raise error
            return real(target, *args)

        with monkeypatch.context() as patch:
            patch.setattr(mux, "add_video_stream", fail)
            with pytest.raises(mux.JoinError, match=message):
                make(source, output)
        assert not output.exists()
        assert len(list(job_folder_path(output).glob("*.segment"))) == 3
    assert make(source, tmp_path / "out.mp4", drop=("data",)).resumed_frames == 20
    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_an_output_that_appeared_meanwhile_keeps_all_segments(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = Clip(audio=None).write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    mux_segments = verb.mux_segments

    def create(*args: Any) -> None:
        mux_segments(*args)
        output.write_bytes(b"another")

    with monkeypatch.context() as patch:
        patch.setattr(verb, "mux_segments", create)
        with pytest.raises(UsageError, match="was created by another process meanwhile"):
            make(source, output)
    assert output.read_bytes() == b"another"
    assert make(source, output, force=True).resumed_frames == 20


def test_an_error_of_the_source_keeps_finished_segments(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of the source went away: the same command continues when it is back."""
    source, output = Clip(audio=None).write(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    fix_timestamp, count = VideoReader._fix_timestamp, [0]

    def fail(reader: VideoReader, frame: Any) -> int:
        count[0] += 1
        if count[0] == 18:
            raise InputError("The disk is gone.")
        return fix_timestamp(reader, frame)

    with monkeypatch.context() as patch:
        patch.setattr(VideoReader, "_fix_timestamp", fail)
        with pytest.raises(InputError, match="The disk is gone"):
            make(source, output)
    assert make(source, output).resumed_frames == 16


def test_ticks_are_rounded_as_ffmpeg_does() -> None:
    assert [rescale(value, Fraction(1, 2)) for value in (-3, -2, -1, 0, 1, 2, 3)] == [-2, -1, -1, 0, 1, 1, 2]
    assert [rescale(value, Fraction(1000, 90000)) for value in (44, 45, 90, 134, 135)] == [0, 1, 1, 1, 2]
