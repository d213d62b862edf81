"""The other streams of a video: how a container takes them, packet by packet, with times that rise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.subtitle import AssSubtitle, SubtitleSet

from dni_deploy.errors import escape_name
from dni_deploy.video_io.reader import demux_past_errors
from dni_deploy.video_io.timestamps import shift_packet
from dni_deploy.video_io.video_file import VideoFile

SUBTITLE_ENCODERS = ("subrip", "mov_text", "webvtt")
"""Encoders of text subtitles, of which the first that a container takes converts those that it does not take as they are."""

ATTACHMENT_MUXER = "matroska"
"""The only muxer of ours that takes attachments, such as fonts; cover images are attachments there."""

COVER_MUXERS = ("mp4", "matroska")
"""Muxers that keep cover images; that of .mov drops them without an error."""

AVFMT_TS_NONSTRICT = 0x20000
"""FFmpeg's flag of containers in which a decoding time may equal the one before."""

EDIT_LIST_MUXERS = ("mp4", "mov")
"""Muxers that can say that the first packets of a stream are decoded and not shown."""

MAX_PREROLL_S = Fraction(1, 10)
"""How much of what an edit list cuts away at the beginning is kept in other containers: decoders of sound need some."""

COVER_MIME_TYPES = {"mjpeg": "image/jpeg", "png": "image/png", "gif": "image/gif", "bmp": "image/bmp", "tiff": "image/tiff"}

CAN_COPY_PARAMETERS = int(av.__version__.partition(".")[0]) >= 18
"""Whether a bitstream filter can set the parameters of a stream without a codec context; it crashes in PyAV 17."""

STALE_METADATA = ("DURATION", "NUMBER_OF", "BPS", "_STATISTICS", "ENCODER", "encoder", "rotate", "ALPHA_MODE", "alpha_mode")
"""How tags begin that describe the packets of the source, and would be wrong for others."""


@dataclass(frozen=True)
class StreamCopy:
    """How one stream of the source gets into the output.

    Attributes:
        index: The stream of the source.
        encoder: The encoder of its text subtitles; None: its packets are copied.
        cover: A cover image, to be attached; None for everything else.
    """

    index: int
    encoder: str | None = None
    cover: bytes | None = None


def copy_metadata(stream: Stream) -> dict[str, str]:
    """Returns the metadata of a stream without what describes the old packets."""
    return {key: value for key, value in stream.metadata.items() if not key.startswith(STALE_METADATA)}


def plan_stream_copy(muxer: str, stream: Stream, cover: bytes | None) -> StreamCopy | None:
    """Finds how a container can hold a stream, by trying.

    Args:
        muxer: FFmpeg's muxer.
        stream: A stream of an open source.
        cover: Its data, where it is a cover image.

    Returns:
        The way; None where there is none.
    """
    if stream.type == "attachment":
        return StreamCopy(stream.index) if muxer == ATTACHMENT_MUXER else None
    if cover is not None and muxer not in COVER_MUXERS:
        return None
    if cover is not None and muxer == ATTACHMENT_MUXER:
        return StreamCopy(stream.index, cover=cover)
    codec_context = stream.codec_context
    is_text = stream.type == "subtitle" and codec_context is not None and codec_context.codec.text_sub
    for encoder in (None, *(SUBTITLE_ENCODERS if is_text else ())):
        copy = StreamCopy(stream.index, encoder)
        with suppress(av.error.FFmpegError, ValueError), av.open(os.devnull, "w", format=muxer) as output:
            add_copied_stream(output, stream, copy)
            output.start_encoding()
            return copy
    return None


def read_cover(container: InputContainer, stream: Stream) -> bytes | None:
    """Reads a cover image; None where the stream is none."""
    if not stream.disposition & Disposition.attached_pic:
        return None
    return next((bytes(packet) for packet in container.demux(stream) if packet.size), None)


def add_copied_stream(output: OutputContainer, source: Stream, copy: StreamCopy) -> Stream:
    """Adds a stream for the packets of another one.

    Raises:
        ValueError: The container takes no such stream.
        FFmpegError: As for ValueError.
    """
    if copy.cover is not None:
        codec = source.codec_context.name if source.codec_context is not None else ""
        mime_type = source.metadata.get("mimetype") or COVER_MIME_TYPES.get(codec, "image/jpeg")
        name = source.metadata.get("filename") or f"cover.{mime_type.rpartition('/')[2].replace('jpeg', 'jpg')}"
        return output.add_attachment(name, mime_type, copy.cover)
    if copy.encoder is not None:
        target = _add_converted_subtitles(output, source, copy.encoder)
    else:
        target = _add_stream_of_same_codec(output, source)
    if source.type != "attachment":
        target.metadata.update(copy_metadata(source))
        target.disposition = source.disposition
    return target


def _add_stream_of_same_codec(output: OutputContainer, source: Stream) -> Stream:
    try:
        return output.add_stream_from_template(source, opaque=True)
    except ValueError:
        # PyAV asks for the codecs that the specification of Matroska names. FFmpeg writes more, such as WMA as in AVI.
        if source.type != "audio" or output.format.name != "matroska" or not CAN_COPY_PARAMETERS:
            raise
    target = output.add_mux_stream(output.default_audio_codec)
    BitStreamFilterContext("null", in_stream=source, out_stream=target)  # copies the codec's parameters
    target.time_base = source.time_base
    return target


def _add_converted_subtitles(output: OutputContainer, source: Stream, encoder: str) -> Stream:
    decoder = source.codec_context
    assert isinstance(decoder, SubtitleCodecContext)
    decoder.open(strict=False)
    target = output.add_stream(encoder)
    assert isinstance(target.codec_context, SubtitleCodecContext)
    target.codec_context.subtitle_header = decoder.subtitle_header
    target.time_base = source.time_base
    return target


def convert_subtitle(packet: Packet[Any], decoder: SubtitleCodecContext, encoder: SubtitleCodecContext) -> Packet[Any] | None:
    """Converts a packet of text subtitles; None where nothing is shown, such as the gaps of mov_text."""
    subtitles = decoder.decode2(packet)
    events = [event.ass for event in subtitles or () if isinstance(event, AssSubtitle)]
    if not events:
        return None
    # One event of ASS has nine fields, the text last. Simultaneous ones become lines of one.
    event = b"\\N".join([events[0], *(other.split(b",", 8)[-1] for other in events[1:])])
    converted = encoder.encode_subtitle(SubtitleSet.create(event, 0, 1))
    converted.pts, converted.dts, converted.duration = packet.pts, packet.dts, packet.duration
    converted.time_base, converted.is_keyframe = packet.time_base, True
    return converted


def rescale(value: int, ratio: Fraction) -> int:
    """Multiplies ticks by the ratio of two time bases, rounding halves away from zero as FFmpeg does."""
    ticks = (2 * abs(value) * ratio.numerator + ratio.denominator) // (2 * ratio.denominator)
    return ticks if value >= 0 else -ticks


def _clip_to_start(packet: Packet[Any]) -> bool:
    """Cuts off what a subtitle shows before the time 0; returns whether something is left."""
    assert packet.pts is not None
    if packet.pts < 0 and packet.duration:
        packet.duration += packet.pts
        packet.pts = packet.dts = 0
        return packet.duration > 0
    return True


class StreamCopier:
    """Copies the packets of one stream into an output whose header is written.

    Attributes:
        source: The stream of the source.
        target: That of the output.
        moved_packets: Number of packets whose time was absent or not later than that of the one before.
        cut_packets: Number of packets that an edit list cuts away and that were left out.
        muxed_packets: Number of packets that the muxer took.
        refused_packets: Number of packets that it or the converter refused, and that were left out.
        refusal: Why the last of them was.

    Thread safety: For one thread.
    """

    def __init__(self, source: Stream, target: Stream, start: Fraction) -> None:
        """Prepares for a stream.

        Args:
            source: The stream of the source.
            target: That of the output.
            start: What is subtracted from all times, in seconds.
        """
        self.source, self.target = source, target
        self.moved_packets = self.cut_packets = self.muxed_packets = self.refused_packets = 0
        self.refusal = ""
        output = target.container
        assert source.time_base is not None
        assert target.time_base is not None
        self._time_base, self._target_time_base = source.time_base, target.time_base
        self._ratio = source.time_base / target.time_base
        self._start_ticks = round(start / source.time_base)
        self._has_edit_lists = output.format.name in EDIT_LIST_MUXERS
        self._min_step = 0 if output.format.flags & AVFMT_TS_NONSTRICT else 1
        self._has_begun = False
        self._next_dts = 0
        self._last_target_dts: int | None = None

    def copy_packet(self, packet: Packet[Any]) -> Packet[Any] | None:
        """Makes a packet of the output.

        Args:
            packet: A packet of the source, with its timestamps corrected. It may be changed and returned.

        Returns:
            The packet, or None where it is left out.
        """
        self._complete_timestamps(packet)
        if packet.is_discard and not self._is_preroll(packet):
            self.cut_packets += 1
            return None
        self._has_begun |= not packet.is_discard
        shift_packet(packet, -self._start_ticks)
        if self.source.type == "subtitle" and not _clip_to_start(packet):
            return None
        encoder = self.target.codec_context
        if isinstance(encoder, SubtitleCodecContext) and encoder.is_encoder:
            decoder = self.source.codec_context
            assert isinstance(decoder, SubtitleCodecContext)
            try:
                converted = convert_subtitle(packet, decoder, encoder)
            except (av.error.InvalidDataError, av.error.ArgumentError) as error:
                self.refused_packets += 1
                self.refusal = escape_name(error.strerror)
                return None
            if converted is None:
                return None
            packet = converted
        self._move_behind_last(packet)
        packet.stream = self.target
        return packet

    def _complete_timestamps(self, packet: Packet[Any]) -> None:
        if packet.dts is None:
            self.moved_packets += packet.pts is None and not self.source.disposition & Disposition.attached_pic
            packet.dts = self._next_dts if packet.pts is None else packet.pts
        if packet.pts is None:
            packet.pts = packet.dts
        self._next_dts = packet.dts + (packet.duration or 0)

    def _is_preroll(self, packet: Packet[Any]) -> bool:
        """Tells whether a packet that is not to be shown is needed: at the beginning, by the decoder."""
        assert packet.pts is not None
        first_shown = self.source.start_time or 0
        end = packet.pts + (packet.duration or 0)
        is_near = (first_shown - end) * self._time_base < MAX_PREROLL_S
        return not self._has_begun and (self._has_edit_lists or is_near)

    def _move_behind_last(self, packet: Packet[Any]) -> None:
        """Gives a packet the earliest time that the container takes, where its own is earlier. So does FFmpeg."""
        assert packet.dts is not None
        assert packet.pts is not None
        dts = rescale(packet.dts, self._ratio)
        if self._last_target_dts is not None and dts < self._last_target_dts + self._min_step:
            dts = self._last_target_dts + self._min_step
            pts = rescale(packet.pts, self._ratio)
            duration = rescale(packet.duration or 0, self._ratio)
            packet.time_base = self._target_time_base
            packet.dts, packet.pts, packet.duration = dts, max(pts, dts), duration
            self.moved_packets += 1
        self._last_target_dts = dts


def demux_copied_packets(
    container: InputContainer, video_file: VideoFile, copiers: dict[int, StreamCopier]
) -> Iterator[Packet[Any]]:
    """Reads the packets of the copied streams, as far as they can be read, and makes packets of the output.

    Yields:
        Packets of the output, in the order of the source.
    """
    for stream in container.streams:
        stream.discard = Discard.default if stream.index in copiers else Discard.all
    correct_timestamps = video_file.time_jumps.make_correction()
    for packet in demux_past_errors(container, [container.streams[index] for index in copiers]) if copiers else ():
        if packet is None or (packet.dts is None and packet.pts is None and not packet.size):
            continue  # a place that cannot be read, or the mark of a stream's end
        correct_timestamps(packet)
        if not _is_in_part(packet, container.streams[packet.stream_index], video_file):
            continue
        copied = copiers[packet.stream_index].copy_packet(packet)
        if copied is not None:
            yield copied


def _is_in_part(packet: Packet[Any], stream: Stream, video_file: VideoFile) -> bool:
    """Tells whether a packet belongs to the part that is kept: sound that begins in it, and subtitles that are seen in it."""
    pts = packet.pts if packet.pts is not None else packet.dts
    if video_file.part is None or stream.disposition & Disposition.attached_pic or pts is None or stream.time_base is None:
        return True
    seconds = pts * stream.time_base - video_file.start_pts * video_file.time_base
    seen_until = seconds + (packet.duration or 0) * stream.time_base if stream.type == "subtitle" else seconds
    is_late = video_file.part.end is not None and seconds >= video_file.part.end
    return seen_until >= video_file.part.start and not is_late


def find_common_start(container: InputContainer, video_file: VideoFile) -> Fraction:
    """Returns when the first of the video and the copied sound begins, or the part that is kept, in seconds."""
    if video_file.part is not None:
        return video_file.start_pts * video_file.time_base + video_file.part.start
    starts = [video_file.start_pts * video_file.time_base]
    for index in video_file.copied_streams:
        stream = container.streams[index]
        if stream.type == "audio" and stream.start_time is not None and stream.time_base is not None:
            starts.append(stream.start_time * stream.time_base)
    return min(starts)
