"""Muxing: segments and the other streams of the source become one video file, packet by packet."""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from heapq import merge
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from dni_deploy.errors import InputError, LimitError, UnavailableError, UsageError, escape_name
from dni_deploy.utils.atomic_write import DISK_FULL_ERRNOS
from dni_deploy.utils.format_count import format_count
from dni_deploy.video_io.containers import CONSTANT_RATE_MUXERS, MUXER_BY_SUFFIX
from dni_deploy.video_io.decoder import has_separate_transparency
from dni_deploy.video_io.encoder import (
    COMMON_ENCODERS,
    Encoder,
    EncoderOptions,
    OutputFormat,
    add_video_stream,
    choose_output_format,
    keeps_encoder_header,
)
from dni_deploy.video_io.image_sequence import find_frame_encoder, names_frames
from dni_deploy.video_io.matroska import make_packet_with_transparency
from dni_deploy.video_io.scheduling import keep_scheduling
from dni_deploy.video_io.segments import EncodedPacket, Segment
from dni_deploy.video_io.streams import (
    StreamCopier,
    StreamCopy,
    add_copied_stream,
    copy_metadata,
    demux_copied_packets,
    find_common_start,
    plan_stream_copy,
    read_cover,
)
from dni_deploy.video_io.timestamps import shift_packet
from dni_deploy.video_io.video_file import VideoFile, describe_stream, open_container
from dni_deploy.video_io.video_part import VideoPart

ADVISED_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
"""The containers that a message may name: those of old and of broadcast claim more than players make of them."""


FRAMES_MUXER = "image2"
"""FFmpeg's name for pictures with numbers in their names."""


def _plan_frames(path: Path, video_file: VideoFile) -> OutputPlan:
    """Plans pictures, which hold no other streams."""
    with open_container(video_file.path) as source:
        notes = [
            f"stream {index} ({describe_stream(source.streams[index])}) is left out: pictures have no place for it"
            for index in video_file.copied_streams
        ]
    return OutputPlan(FRAMES_MUXER, False, (), Fraction(0), tuple(notes))


def find_muxer(path: Path) -> str:
    """Returns FFmpeg's muxer for the suffix of a path, or FRAMES_MUXER for a pattern of pictures.

    Raises:
        UsageError: The suffix is none of MUXER_BY_SUFFIX.
    """
    if names_frames(path):
        find_frame_encoder(path)
        return FRAMES_MUXER
    try:
        return MUXER_BY_SUFFIX[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{escape_name(path.name)} does not end in one of {', '.join(MUXER_BY_SUFFIX)}, so its container is unknown. "
            "Nothing was written."
        ) from None


def list_container_options(muxer: str) -> dict[str, str]:
    """Lists the options of a muxer: the same bytes in every run; MP4 with its index first; WebP that starts over, as GIF does."""
    own = {"mp4": {"movflags": "+faststart"}, "mov": {"movflags": "+faststart"}, "webp": {"loop": "0"}}
    return {"fflags": "+bitexact", **own.get(muxer, {})}


class JoinError(InputError):
    """The segments could not be put together. They stay, and the same command goes on with them."""

    kind = "JoinError"


@dataclass(frozen=True)
class OutputPlan:
    """How the output is put together, tried before the work.

    Attributes:
        muxer: FFmpeg's muxer.
        has_global_header: The container keeps the encoder's header.
        copies: The streams of the source that are copied.
        start: When the source begins, in seconds; the output begins at 0.
        notes: What could not be kept as it is, one phrase each.
    """

    muxer: str
    has_global_header: bool
    copies: tuple[StreamCopy, ...]
    start: Fraction
    notes: tuple[str, ...]


def plan_output(path: Path, video_file: VideoFile, settings: EncoderOptions, output_format: OutputFormat) -> OutputPlan:
    """Plans the output. All packets of the copied streams go through the muxer once, to nowhere.

    Args:
        path: The path of the output.
        video_file: The input.
        settings: How the video is encoded.
        output_format: What is encoded.

    Raises:
        UsageError: The container cannot hold a stream, or what the encoder makes.
        UnavailableError: The encoder does not work here, or the container cannot be begun.
    """
    muxer = find_muxer(path)
    if muxer == FRAMES_MUXER:
        return _plan_frames(path, video_file)
    has_global_header = keeps_encoder_header(muxer)
    Encoder(settings, output_format, global_header=has_global_header)
    if not _can_hold_codec(muxer, settings, output_format):
        raise UsageError(_format_codec_error(muxer, video_file, settings, output_format))
    with open_container(video_file.path) as source:
        streams = [source.streams[index] for index in video_file.copied_streams]
        covers = {stream.index: read_cover(source, stream) for stream in streams}
        copies, left_out = [], []
        for stream in streams:
            copy = plan_stream_copy(muxer, stream, covers[stream.index])
            if copy is not None:
                copies.append(copy)
            elif stream.type == "attachment" or covers[stream.index] is not None:
                left_out.append(stream)
            else:
                raise UsageError(_format_stream_error(muxer, video_file, stream, settings, output_format))
        start = find_common_start(source, video_file)
        notes = list(
            _describe_changes(path, source, copies, left_out, start, len(video_file.time_jumps.positions), video_file.part)
        )
    plan = OutputPlan(muxer, has_global_header, tuple(copies), start, ())
    return replace(plan, notes=(*notes, *_rehearse(path, plan, video_file, settings, output_format)))


def _rehearse(
    path: Path, plan: OutputPlan, video_file: VideoFile, settings: EncoderOptions, output_format: OutputFormat
) -> list[str]:
    """Puts the output together without its frames, to nowhere, and returns a note on each stream that has to be changed.

    Raises:
        UsageError: The container does not take a stream.
        UnavailableError: It does not take them together, or not the video.
    """

    def mux_to_nowhere(copies: tuple[StreamCopy, ...]) -> list[str]:
        with (
            open_container(video_file.path) as source,
            av.open(os.devnull, "w", format=plan.muxer) as output,
        ):
            video = add_video_stream(output, settings, output_format)
            targets = _add_copied_streams(output, source, copies)
            with keep_scheduling():
                output.start_encoding()
            for packet in _encode_black_frame(settings, output_format, plan.has_global_header):
                packet.stream, packet.dts = video, packet.pts  # x265 leaves the decoding time of a single frame undefined
                output.mux_one(packet)
            copiers = _make_copiers(source, targets, plan.start)
            for packet in demux_copied_packets(source, video_file, copiers):
                _mux_packet(output, packet, copiers)
            for copier in copiers.values():
                if copier.refused_packets and not copier.muxed_packets:
                    raise UsageError(
                        _format_stream_error(plan.muxer, video_file, copier.source, settings, output_format, copier.refusal)
                    )
            output.close()  # some muxers look at their streams only now
            return [note for copier in copiers.values() for note in _describe_repairs(path, copier)]

    try:
        return mux_to_nowhere(plan.copies)
    except (av.error.FFmpegError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        reason = escape_name(getattr(error, "strerror", error))
    for copy in plan.copies:
        try:
            mux_to_nowhere((copy,))
        except (av.error.FFmpegError, ValueError) as error:
            with open_container(video_file.path) as source:
                stream = source.streams[copy.index]
                raise UsageError(
                    _format_stream_error(plan.muxer, video_file, stream, settings, output_format, reason)
                ) from error
    raise UnavailableError(
        f"A {plan.muxer} file could not be put together with {escape_name(settings.codec)} and the other streams of the video: "
        f"{reason}. Try another container or --codec, or leave streams out (--drop). Nothing was written."
    )


def _encode_black_frame(
    settings: EncoderOptions, output_format: OutputFormat, has_global_header: bool
) -> Iterator[Packet[Any]]:
    encoder = Encoder(settings, output_format, global_header=has_global_header)
    yield from encoder.encode(np.zeros((output_format.height, output_format.width, 3), np.uint8), 0)
    yield from encoder.flush()


def mux_segments(
    path: Path,
    plan: OutputPlan,
    segments: Sequence[Segment],
    video_file: VideoFile,
    settings: EncoderOptions,
    output_format: OutputFormat,
) -> None:
    """Writes the packets of the segments, and the copied streams of the source.

    Args:
        path: The file to write, under a temporary name.
        plan: How it is put together.
        segments: The whole segments, in order.
        video_file: The input.
        settings: How the segments were encoded.
        output_format: What was encoded.

    Raises:
        LimitError: There is no room.
        JoinError: The source or a segment cannot be read any more, or the container does not take a packet.
    """
    # Nothing that changes from run to run: the same segments give the same bytes.
    with (
        _raise_readable(path),
        open_container(video_file.path) as source,
        av.open(str(path.absolute()), "w", format=plan.muxer, container_options=list_container_options(plan.muxer)) as output,
    ):
        video = add_video_stream(output, settings, output_format)
        output.metadata.update(source.metadata)
        source_video = source.streams[video_file.stream_index]
        video.metadata.update(copy_metadata(source_video))
        if has_separate_transparency(settings.codec, output_format.pixel_format):
            video.metadata["alpha_mode"] = "1"
        video.disposition = source_video.disposition
        chapters = [_shift_chapter(chapter, plan.start, video_file.part) for chapter in source.chapters()]
        output.set_chapters([chapter for chapter in chapters if chapter["end"] > chapter["start"]])
        targets = _add_copied_streams(output, source, plan.copies)
        with keep_scheduling():
            output.start_encoding()
        copiers = _make_copiers(source, targets, plan.start)
        start_ticks = round(plan.start / output_format.time_base)
        for timed in merge(
            _read_video_packets(segments, video, output_format, start_ticks),
            _time_packets(demux_copied_packets(source, video_file, copiers)),
            key=lambda timed: timed.seconds,
        ):
            _mux_packet(output, timed.packet, copiers)


def _add_copied_streams(output: OutputContainer, source: InputContainer, copies: Sequence[StreamCopy]) -> dict[int, Stream]:
    """Adds the copied streams; returns those that have packets, by their index in the source."""
    targets = {copy.index: add_copied_stream(output, source.streams[copy.index], copy) for copy in copies}
    return {index: target for index, target in targets.items() if target.type != "attachment"}


def _make_copiers(source: InputContainer, targets: dict[int, Stream], start: Fraction) -> dict[int, StreamCopier]:
    return {index: StreamCopier(source.streams[index], target, start) for index, target in targets.items()}


def _mux_packet(output: OutputContainer, packet: Packet[Any], copiers: dict[int, StreamCopier]) -> None:
    """Muxes a packet. One of a copied stream that the muxer refuses, such as a damaged one, is left out and counted."""
    copier = next((copier for copier in copiers.values() if copier.target.index == packet.stream_index), None)
    try:
        output.mux_one(packet)
    except (av.error.InvalidDataError, av.error.ArgumentError) as error:
        if copier is None:
            raise
        copier.refused_packets += 1
        copier.refusal = escape_name(error.strerror)
    else:
        if copier is not None:
            copier.muxed_packets += 1


def _shift_chapter(chapter: Any, start: Fraction, part: VideoPart | None) -> Any:
    time_base = chapter["time_base"] or Fraction(1, av.time_base)
    ticks = round(start / time_base)
    begin, end = max(0, chapter["start"] - ticks), max(0, chapter["end"] - ticks)
    if part is not None and part.end is not None:
        end = min(end, round((part.end - part.start) / time_base))
    return {**chapter, "start": begin, "end": end}


def _describe_changes(
    path: Path,
    source: InputContainer,
    copies: Sequence[StreamCopy],
    left_out: Sequence[Stream],
    start: Fraction,
    jumps: int,
    part: VideoPart | None,
) -> Iterator[str]:
    """Says what is known before the packets are read."""
    if part is not None:
        yield f"the part from {part}; alpha over time keeps the times of the whole video"
    elif start:
        yield f"the video begins at {float(start):.3f} s: moved to 0 s, with all streams alike"
    if jumps:
        places = format_count(jumps, "place")
        yield f"its timestamps jump at {places}: what follows was moved, in all streams alike, so that it continues"
    for copy in copies:
        if copy.encoder is not None:
            yield f"stream {copy.index} ({describe_stream(source.streams[copy.index])}) is converted to {copy.encoder}"
    for kind, noun in (("attachment", "attached file"), ("video", "cover image")):
        count = sum(stream.type == kind for stream in left_out)
        if count:
            yield f"{format_count(count, noun)} left out: {path.suffix} has no place for that, .mkv has"


def _describe_repairs(path: Path, copier: StreamCopier) -> Iterator[str]:
    """Says what was changed in the packets of a stream."""
    name = f"stream {copier.source.index} ({describe_stream(copier.source)})"
    if copier.moved_packets:
        moved = format_count(copier.moved_packets, "packet")
        yield f"{name}: the times of {moved} were absent or not later than that before, and were set behind it"
    if copier.refused_packets:
        yield f"{name}: {format_count(copier.refused_packets, 'packet')} left out, damaged ({copier.refusal})"
    if copier.cut_packets:
        yield f"{name}: {format_count(copier.cut_packets, 'packet')} that its edit list cuts away left out of the {path.suffix} file"


def _can_hold_codec(muxer: str, settings: EncoderOptions, output_format: OutputFormat) -> bool:
    try:
        with av.open(os.devnull, "w", format=muxer) as output:
            add_video_stream(output, settings, output_format)
    except ValueError:
        return False
    return True


def _format_codec_error(muxer: str, video_file: VideoFile, settings: EncoderOptions, output_format: OutputFormat) -> str:
    """Says which containers hold what an encoder makes, and which encoders this container has."""
    suffixes = [suffix for suffix in ADVISED_SUFFIXES if _can_hold_codec(MUXER_BY_SUFFIX[suffix], settings, output_format)]
    advice = [f"choose {' or '.join(suffixes)}"] if suffixes else []
    for codec in COMMON_ENCODERS:
        with suppress(UsageError, UnavailableError):
            other = EncoderOptions(codec=codec)
            other_format = choose_output_format(other, video_file, output_format.width // video_file.width, muxer)
            if _can_hold_codec(muxer, other, other_format):
                advice.append(f"give --codec {codec}")
                break
    return (
        f"A {muxer} file cannot hold what {escape_name(settings.codec)} encodes; {', or '.join(advice)}. Nothing was written."
    )


def _format_stream_error(
    muxer: str,
    video_file: VideoFile,
    stream: Stream,
    settings: EncoderOptions,
    output_format: OutputFormat,
    reason: str | None = None,
) -> str:
    """Says which stream does not fit, how to leave it out, and which containers take all streams, by trying them."""
    source = stream.container
    assert isinstance(source, InputContainer)
    streams = [source.streams[index] for index in video_file.copied_streams]
    needed = [one for one in streams if one.type != "attachment" and not one.disposition & Disposition.attached_pic]
    suffixes = [
        suffix
        for suffix, other in ((suffix, MUXER_BY_SUFFIX[suffix]) for suffix in ADVISED_SUFFIXES)
        if other != muxer
        and _can_hold_codec(other, settings, output_format)
        and all(plan_stream_copy(other, one, None) is not None for one in needed)
    ]
    containers = f", or name an output that ends in {' or '.join(suffixes)}" if suffixes else ""
    return (
        f"A {muxer} file cannot hold stream {stream.index} of {escape_name(video_file.path)} ({describe_stream(stream)})"
        f"{f': {escape_name(reason)}' if reason else ''}. Leave it out with --drop {stream.index}{containers}. Nothing was written."
    )


class TimedPacket(NamedTuple):
    """A packet with its decoding time.

    Attributes:
        seconds: When the decoder needs it.
        packet: The packet.
    """

    seconds: Fraction
    packet: Packet[Any]


def _read_video_packets(
    segments: Sequence[Segment], stream: VideoStream, output_format: OutputFormat, start_ticks: int = 0
) -> Iterator[TimedPacket]:
    """Reads the video packets with decoding times that never go back, across segments, too. `start_ticks` becomes time 0.

    The decoding time of a packet is the timestamp of the frame that is shown `delay` frames before it in decoding order.
    """
    is_constant, last = stream.container.format.name in CONSTANT_RATE_MUXERS, -1
    delay = max(segment.delay for segment in segments)
    head = list(islice(chain.from_iterable(segment.read_footer().frame_times for segment in segments), delay + 1))
    lead = max(delay, head[-1][0] - head[0][0])
    decoding_times = deque(pts - lead for pts, _ in head[:delay])
    for segment, following in zip(segments, [*segments[1:], None], strict=True):
        times = segment.read_footer().frame_times
        durations = _compute_durations(times, following.read_footer().frame_times[0][0] if following else None)
        for (pts, _), encoded in zip(times, segment.read_packets(), strict=True):
            decoding_times.append(pts)
            dts = decoding_times.popleft()
            packet = _make_packet(encoded, dts, durations[encoded.pts], stream, output_format)
            shift_packet(packet, -start_ticks)
            if is_constant:
                last = max(last + 1, round(max(0, (dts - start_ticks)) * output_format.time_base * output_format.frame_rate))
                packet.time_base, packet.duration = 1 / output_format.frame_rate, 1
                packet.pts = packet.dts = last
            yield TimedPacket((dts - start_ticks) * output_format.time_base, packet)


def _compute_durations(times: Sequence[tuple[int, int]], next_pts: int | None) -> dict[int, int]:
    """Computes how long each frame is shown, in ticks: until the next one; the last one of all as long as the source says."""
    durations = {pts: later - pts for (pts, _), (later, _) in pairwise(times)}
    last, duration = times[-1]
    durations[last] = next_pts - last if next_pts is not None else duration or (durations[times[-2][0]] if durations else 1)
    return durations


def _make_packet(
    encoded: EncodedPacket, dts: int, duration: int, stream: VideoStream, output_format: OutputFormat
) -> Packet[Any]:
    if encoded.transparency is None:
        packet: Packet[Any] = Packet(encoded.data)
    else:
        packet = make_packet_with_transparency(stream.codec_context.codec.canonical_name, encoded.data, encoded.transparency)
    packet.stream = stream
    packet.time_base = output_format.time_base
    packet.pts, packet.dts, packet.duration = encoded.pts, dts, duration
    packet.is_keyframe = encoded.is_keyframe
    return packet


def _time_packets(packets: Iterator[Packet[Any]]) -> Iterator[TimedPacket]:
    """Adds the latest decoding time so far to each packet of several streams."""
    latest = Fraction(-(1 << 40))
    for packet in packets:
        assert packet.dts is not None
        assert packet.time_base is not None
        latest = max(latest, packet.dts * packet.time_base)
        yield TimedPacket(latest, packet)


@contextmanager
def _raise_readable(path: Path) -> Iterator[None]:
    """Turns what goes wrong while the output is put together into errors that say how to go on."""
    advice = "All frames are done and kept: the same command, with --drop for other streams if need be, continues from there"
    try:
        yield
    except av.error.FFmpegError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise LimitError(
                f"There is no room to write {escape_name(path)}; free some space and give the same command again."
            ) from error
        raise JoinError(f"The video could not be put together ({escape_name(error.strerror)}). {advice}.") from error
    except InputError as error:
        raise JoinError(f"{error} {advice}.") from error
    except (struct.error, ValueError, KeyError) as error:
        raise JoinError(f"A segment was damaged meanwhile ({escape_name(error)}). {advice}.") from error
