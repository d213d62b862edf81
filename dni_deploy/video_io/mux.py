"""Join: segments and the source's other streams become one film, packet by packet."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

from dni_deploy.errors import EnvironmentProblem, InputError, LimitError, UsageError, shown
from dni_deploy.utils.atomic_write import FULL
from dni_deploy.video_io.encoder import Encoder, EncoderSettings, Target, add_video
from dni_deploy.video_io.segments import Encoded, Segment
from dni_deploy.video_io.video_file import Source, open_source

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffix of the output -> FFmpeg's muxer."""


def container_format(path: Path) -> str:
    """The muxer for that name. Raises UsageError."""
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{shown(path.name)} does not end in one of {', '.join(CONTAINERS)}, so its container is unknown. Nothing was written."
        ) from None


HOLDS_FILES = "matroska"
"""The only one of them that has a place for attachments, such as fonts."""


def check_output(path: Path, source: Source, chosen: EncoderSettings, target: Target) -> bool:
    """See, in memory, that such a container takes all the streams; tells whether it keeps the encoder's header.

    Raises UsageError (a stream that it cannot hold, a codec that does not go in), EnvironmentProblem (no such encoder here).
    """
    name = container_format(path)
    with open_source(source.path) as given, av.open(os.devnull, "w", format=name) as output:
        header = bool(output.format.flags & av.format.Flags.global_header.value)
        Encoder(chosen, target, header=header)
        try:
            add_video(output, chosen, target)
        except ValueError as error:
            raise UsageError(f"A {name} file cannot hold what {shown(chosen.codec)} encodes; choose .mkv.") from error
        copies = _copies(output, given, source, name)
        try:
            output.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            kinds = ", ".join(sorted({stream.type for stream in copies.values()})) or "none"
            raise EnvironmentProblem(
                f"A {name} file could not be begun with {shown(chosen.codec)} and the film's other streams ({kinds}): "
                f"{shown(getattr(error, 'strerror', error))}. Try .mkv."
            ) from error
        return header


def join(path: Path, name: str, segments: Sequence[Segment], source: Source, chosen: EncoderSettings, target: Target) -> None:
    """Write the film to `path`, a temporary name: the segments' packets, and the source's kept streams unchanged.

    Raises LimitError (no room), InputError (the source changed or broke meanwhile).
    """
    # Nothing that changes from run to run: the same segments give the same bytes.
    with (
        open_source(source.path) as given,
        _explained(path),
        av.open(str(path.absolute()), "w", format=name, container_options={"fflags": "+bitexact"}) as output,
    ):
        video = add_video(output, chosen, target)
        output.metadata.update(given.metadata)
        described = given.streams[source.index]
        video.metadata.update(_described(described))
        video.disposition = described.disposition
        output.set_chapters(given.chapters())
        copies = _copies(output, given, source, name)
        output.start_encoding()
        for timed in merge(_video(segments, video, target), _copied(given, copies), key=lambda timed: timed.seconds):
            output.mux_one(timed.packet)


def _described(stream: Stream) -> dict[str, str]:
    """The stream's metadata without what described the old packets."""
    stale = ("DURATION", "NUMBER_OF", "BPS", "_STATISTICS", "ENCODER", "encoder", "rotate")
    return {key: value for key, value in stream.metadata.items() if not key.startswith(stale)}


def _copies(output: OutputContainer, given: InputContainer, source: Source, name: str) -> dict[int, Stream]:
    made: dict[int, Stream] = {}
    for index in source.kept:
        stream = given.streams[index]
        if stream.type == "attachment" and name != HOLDS_FILES:
            continue
        try:
            made[index] = output.add_stream_from_template(stream)
        except (av.error.FFmpegError, ValueError) as error:
            codec = stream.codec_context.name if stream.codec_context else "unknown"
            raise UsageError(
                f"A {name} file cannot hold stream {index} of {shown(source.path)} ({shown(stream.type)}, {shown(codec)}), and "
                "nothing is to be lost; name an output that ends in .mkv. Nothing was written."
            ) from error
        if stream.type != "attachment":
            made[index].metadata.update(_described(stream))
            made[index].disposition = stream.disposition
    return made


class Timed(NamedTuple):
    """A packet and when the decoder wants it."""

    seconds: Fraction
    packet: Packet[Any]


def _video(segments: Sequence[Segment], stream: VideoStream, target: Target) -> Iterator[Timed]:
    """The packets with decoding times that never go back, across segments too: each that of the frame `delay` places before."""
    delay = max(segment.delay for segment in segments)
    head = list(islice(chain.from_iterable(segment.foot().times for segment in segments), delay + 1))
    lead = max(delay, head[-1][0] - head[0][0])
    before = deque(pts - lead for pts, _ in head[:delay])
    for segment, following in zip(segments, [*segments[1:], None], strict=True):
        times = segment.foot().times
        lengths = _lengths(times, following.foot().times[0][0] if following else None)
        for (pts, _), encoded in zip(times, segment.packets(), strict=True):
            before.append(pts)
            yield Timed(before[0] * target.time_base, _packet(encoded, before.popleft(), lengths[encoded.pts], stream, target))


def _lengths(times: Sequence[tuple[int, int]], following: int | None) -> dict[int, int]:
    """How long each frame is shown, in ticks: until the next one; the film's last one as long as the source says."""
    lengths = {pts: later - pts for (pts, _), (later, _) in pairwise(times)}
    last, duration = times[-1]
    lengths[last] = following - last if following is not None else duration or (lengths[times[-2][0]] if lengths else 1)
    return lengths


def _packet(encoded: Encoded, dts: int, duration: int, stream: VideoStream, target: Target) -> Packet[Any]:
    packet = Packet(encoded.data)
    packet.stream = stream
    packet.time_base = target.time_base
    packet.pts, packet.dts, packet.duration = encoded.pts, dts, duration
    packet.is_keyframe = encoded.key
    return packet


def _copied(given: InputContainer, copies: dict[int, Stream]) -> Iterator[Timed]:
    """The kept streams' packets as they are; a place that cannot be read ends them."""
    wanted = [given.streams[index] for index in copies if given.streams[index].type != "attachment"]
    if not wanted:
        return
    late = Fraction(-(1 << 40))
    packets = given.demux(*wanted)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            return
        if packet is None:
            return
        if packet.dts is None and packet.pts is None:
            continue  # the mark of a stream's end
        time = packet.dts if packet.dts is not None else packet.pts
        assert time is not None
        if packet.time_base is not None:
            late = max(late, time * packet.time_base)
        packet.stream = copies[packet.stream_index]
        yield Timed(late, packet)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        if error.errno in FULL:
            raise LimitError(
                f"There is no room to write {shown(path)}; free some space and give the same command again."
            ) from error
        raise InputError(f"The film could not be put together ({shown(error.strerror)}).") from error
