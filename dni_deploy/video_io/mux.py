"""Muxing: segments and the other streams of the source become one video file, packet by packet."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from heapq import merge
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from dni_deploy.errors import InputError, LimitError, UnavailableError, UsageError, escape_name
from dni_deploy.utils.atomic_write import DISK_FULL_ERRNOS
from dni_deploy.video_io.decoder import has_separate_transparency
from dni_deploy.video_io.encoder import Encoder, EncoderOptions, OutputFormat, add_video_stream
from dni_deploy.video_io.matroska import make_packet_with_transparency
from dni_deploy.video_io.segments import EncodedPacket, Segment
from dni_deploy.video_io.video_file import VideoFile, open_container

MUXER_BY_SUFFIX = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffix of the output -> FFmpeg's muxer."""


def find_muxer(path: Path) -> str:
    """Returns FFmpeg's muxer for the suffix of a path.

    Raises:
        UsageError: The suffix is none of MUXER_BY_SUFFIX.
    """
    try:
        return MUXER_BY_SUFFIX[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{escape_name(path.name)} does not end in one of {', '.join(MUXER_BY_SUFFIX)}, so its container is unknown. "
            "Nothing was written."
        ) from None


def list_container_options(muxer: str) -> dict[str, str]:
    """Lists the options of a muxer: nothing that changes from run to run, and the index of MP4 before the frames."""
    return {"fflags": "+bitexact", **({"movflags": "+faststart"} if muxer in ("mp4", "mov") else {})}


ATTACHMENT_MUXER = "matroska"
"""The only muxer of them that takes attachments, such as fonts."""


def check_output_streams(path: Path, video_file: VideoFile, settings: EncoderOptions, output_format: OutputFormat) -> bool:
    """Checks, without writing, that a container of this name takes all streams.

    Args:
        path: The path of the output.
        video_file: The input.
        settings: How the video is encoded.
        output_format: What is encoded.

    Returns:
        Whether the container keeps the encoder's header.

    Raises:
        UsageError: The container cannot hold a stream, or what the encoder makes.
        UnavailableError: The encoder does not work here, or the container cannot be begun.
    """
    name = find_muxer(path)
    with open_container(video_file.path) as source, av.open(os.devnull, "w", format=name) as output:
        has_global_header = bool(output.format.flags & av.format.Flags.global_header.value)
        Encoder(settings, output_format, global_header=has_global_header)
        try:
            add_video_stream(output, settings, output_format)
        except ValueError as error:
            raise UsageError(f"A {name} file cannot hold what {escape_name(settings.codec)} encodes; choose .mkv.") from error
        copies = _add_copied_streams(output, source, video_file, name)
        try:
            output.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            kinds = ", ".join(sorted({stream.type for stream in copies.values()})) or "none"
            raise UnavailableError(
                f"A {name} file could not be begun with {escape_name(settings.codec)} and the other streams of the video "
                f"({kinds}): {escape_name(getattr(error, 'strerror', error))}. Try .mkv."
            ) from error
        return has_global_header


def mux_segments(
    path: Path,
    muxer: str,
    segments: Sequence[Segment],
    video_file: VideoFile,
    settings: EncoderOptions,
    output_format: OutputFormat,
) -> None:
    """Writes the packets of the segments, and the copied streams of the source unchanged.

    Args:
        path: The file to write, under a temporary name.
        muxer: FFmpeg's muxer.
        segments: The whole segments, in order.
        video_file: The input.
        settings: How the segments were encoded.
        output_format: What was encoded.

    Raises:
        LimitError: There is no room.
        InputError: The source changed or broke meanwhile.
    """
    # Nothing that changes from run to run: the same segments give the same bytes.
    with (
        open_container(video_file.path) as source,
        _raise_readable(path),
        av.open(str(path.absolute()), "w", format=muxer, container_options=list_container_options(muxer)) as output,
    ):
        video = add_video_stream(output, settings, output_format)
        output.metadata.update(source.metadata)
        source_video = source.streams[video_file.stream_index]
        video.metadata.update(_copy_metadata(source_video))
        if has_separate_transparency(settings.codec, output_format.pixel_format):
            video.metadata["alpha_mode"] = "1"
        video.disposition = source_video.disposition
        output.set_chapters(source.chapters())
        copies = _add_copied_streams(output, source, video_file, muxer)
        output.start_encoding()
        for timed in merge(
            _read_video_packets(segments, video, output_format), _copy_packets(source, copies), key=lambda timed: timed.seconds
        ):
            output.mux_one(timed.packet)


def _copy_metadata(stream: Stream) -> dict[str, str]:
    """Returns the metadata of a stream without what describes the old packets."""
    stale = ("DURATION", "NUMBER_OF", "BPS", "_STATISTICS", "ENCODER", "encoder", "rotate", "ALPHA_MODE", "alpha_mode")
    return {key: value for key, value in stream.metadata.items() if not key.startswith(stale)}


def _add_copied_streams(
    output: OutputContainer, container: InputContainer, video_file: VideoFile, muxer: str
) -> dict[int, Stream]:
    copies: dict[int, Stream] = {}
    for index in video_file.copied_streams:
        stream = container.streams[index]
        if stream.type == "attachment" and muxer != ATTACHMENT_MUXER:
            continue
        try:
            copies[index] = output.add_stream_from_template(stream)
        except (av.error.FFmpegError, ValueError) as error:
            codec = stream.codec_context.name if stream.codec_context else "unknown"
            raise UsageError(
                f"A {muxer} file cannot hold stream {index} of {escape_name(video_file.path)} ({escape_name(stream.type)}, "
                f"{escape_name(codec)}), and nothing is to be lost; name an output that ends in .mkv. Nothing was written."
            ) from error
        if stream.type != "attachment":
            copies[index].metadata.update(_copy_metadata(stream))
            copies[index].disposition = stream.disposition
    return copies


class TimedPacket(NamedTuple):
    """A packet with its decoding time.

    Attributes:
        seconds: When the decoder needs it.
        packet: The packet.
    """

    seconds: Fraction
    packet: Packet[Any]


def _read_video_packets(segments: Sequence[Segment], stream: VideoStream, output_format: OutputFormat) -> Iterator[TimedPacket]:
    """Reads the video packets with decoding times that never go back, across segments, too.

    The decoding time of a packet is the timestamp of the frame that is shown `delay` frames before it in decoding order.
    """
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
            yield TimedPacket(dts * output_format.time_base, packet)


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


def _copy_packets(container: InputContainer, copied_streams: dict[int, Stream]) -> Iterator[TimedPacket]:
    """Reads the packets of the copied streams as they are, until a place that cannot be read."""
    demuxed = [container.streams[index] for index in copied_streams if container.streams[index].type != "attachment"]
    if not demuxed:
        return
    latest = Fraction(-(1 << 40))
    with suppress(av.error.FFmpegError):
        for packet in container.demux(*demuxed):
            time = packet.dts if packet.dts is not None else packet.pts
            if time is None:
                continue  # the mark of a stream's end
            if packet.time_base is not None:
                latest = max(latest, time * packet.time_base)
            packet.stream = copied_streams[packet.stream_index]
            yield TimedPacket(latest, packet)


@contextmanager
def _raise_readable(path: Path) -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise LimitError(
                f"There is no room to write {escape_name(path)}; free some space and give the same command again."
            ) from error
        raise InputError(f"The video could not be put together ({escape_name(error.strerror)}).") from error
