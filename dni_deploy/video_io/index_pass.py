"""The pass over a video that lists its frames: by its packets alone where they tell, else by decoding all of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from av.packet import Packet
from av.video.stream import VideoStream

from dni_deploy.video_io.frame_index import FrameIndex, KeyFrame
from dni_deploy.video_io.image_sequence import is_image_sequence, list_frames
from dni_deploy.video_io.key_frames import KeyFrameChecker
from dni_deploy.video_io.reader import VideoReader
from dni_deploy.video_io.video_file import InputOptions, VideoFile, open_container


def make_index(video_file: VideoFile, options: InputOptions | None = None) -> FrameIndex:
    """Lists the frames of a video, by its packets if they promise a frame each, else by decoding.

    Raises:
        InputError: The file cannot be opened, or as VideoReader raises where it is decoded.
        LimitError: There is not enough memory.
    """
    return index_by_packets(video_file, options) or index_by_decoding(video_file, options)


def index_by_packets(video_file: VideoFile, options: InputOptions | None = None) -> FrameIndex | None:
    """Lists the frames of a video without decoding it.

    Returns:
        The index; None where only decoding tells the frames: packets that are damaged, missing, without timestamps or with one
        twice; frames that are made whole (--deinterlace).
    """
    options = options or InputOptions()
    if options.deinterlace:
        return None
    packets = _list_images(video_file) if is_image_sequence(video_file.path) else _scan_packets(video_file, options)
    if packets is None:
        return None
    times = sorted(packets.times)
    if not times or times[0] != video_file.start_pts or len(set(times)) < len(times):
        return None
    ranks = {pts: rank for rank, pts in enumerate(times)}
    offset, end = 0, len(times)
    if video_file.part is not None:
        first_pts, end_pts = video_file.part.find_ticks(video_file.start_pts, video_file.time_base)
        offset = sum(pts < first_pts for pts in times)
        end = sum(pts < end_pts for pts in times)
    return FrameIndex(tuple(times), offset, max(0, end - offset), packets.list_key_frames(ranks))


def index_by_decoding(video_file: VideoFile, options: InputOptions | None = None) -> FrameIndex:
    """Lists the good frames of a video by decoding all of it, and what is lost.

    Raises:
        SizeChangeError: The frames change their size; and as `make_index`, whose other errors it raises, too.
    """
    options = options or InputOptions()
    reader = VideoReader(video_file, options=options)
    times = reader.list_times()
    packets = None
    # A decoder that met damage may give other frames even behind an intact key frame, so that only all of it is the same again.
    if not (reader.dropped_frames or reader.dropped_frames.adjusted_timestamps or options.deinterlace or video_file.part):
        packets = _scan_packets(video_file, options, skip_damage=True)
    key_frames = () if packets is None else packets.list_key_frames({pts: rank for rank, pts in enumerate(times)})
    return FrameIndex(tuple(times), 0, len(times), key_frames, reader.dropped_frames, is_decoded=True)


@dataclass
class _PacketList:
    """What the packets of a video say.

    Attributes:
        times: Timestamp of each packet whose frame is shown.
        exact_key_frames: Of each frame to begin at, timestamp, where to seek, and whether it has parameter sets.
    """

    times: list[int] = field(default_factory=list)
    exact_key_frames: list[tuple[int, int, bool]] = field(default_factory=list)

    def add_packet(self, packet: Packet[Any], pts: int, checker: KeyFrameChecker) -> None:
        if packet.is_discard:  # decoded for the frames behind it, and not shown
            return
        self.times.append(pts)
        if packet.is_keyframe and checker.is_exact(packet):
            seek_ticks = pts if packet.dts is None else min(pts, packet.dts)
            self.exact_key_frames.append((pts, seek_ticks, checker.has_parameter_sets(packet)))

    def list_key_frames(self, ranks: dict[int, int]) -> tuple[KeyFrame, ...]:
        """Lists the key frames to begin at. Where some bring parameter sets, which may change, those that do not are none."""
        is_repeated = any(has_parameter_sets for _, _, has_parameter_sets in self.exact_key_frames[1:])
        return tuple(
            sorted(
                KeyFrame(ranks[pts], seek_ticks)
                for pts, seek_ticks, has_parameter_sets in self.exact_key_frames
                if pts in ranks and (has_parameter_sets or not is_repeated)
            )
        )


def _list_images(video_file: VideoFile) -> _PacketList:
    """Lists the images of a sequence, whose timestamps count them; none of them is read."""
    times = [video_file.start_pts + number for number in range(len(list_frames(video_file.path)))]
    return _PacketList(times, [(pts, pts, False) for pts in times])


def _scan_packets(video_file: VideoFile, options: InputOptions, *, skip_damage: bool = False) -> _PacketList | None:
    """Reads all packets; None where they are damaged or have no timestamps, or where the clock of the file jumps.

    Args:
        video_file: The video.
        options: How it is read.
        skip_damage: Leave damaged packets out instead.
    """
    if video_file.time_jumps.positions:
        return None
    reader = VideoReader(video_file, options=options)
    with open_container(video_file.path, options.hwaccel, options.frame_rate) as container:
        stream = container.streams[video_file.stream_index]
        assert isinstance(stream, VideoStream)
        packets, checker = _PacketList(), KeyFrameChecker(stream)
        for packet in reader.read_packets(container, stream):
            if packet.size and packet.pts is not None and not packet.is_corrupt:
                packets.add_packet(packet, packet.pts, checker)
            elif packet.size and not skip_damage:
                return None
    return packets if skip_damage or not (reader.dropped_frames or reader.has_gaps) else None
