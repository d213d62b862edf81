"""The list of a video's frames, made before they are decoded: it cuts the video into segments and says where to begin to decode."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from dni_deploy.errors import InputError

INDEX_SCHEMA_VERSION = 1


@dataclass
class DroppedFrames:
    """What a video has lost, and what else was found while it was read.

    Attributes:
        has_losses: Whether anything was lost.
        damaged: Number of packets that could not be decoded and of frames that were damaged.
        missing: Number of frames that should be there by what the file says, and are not.
        adjusted_timestamps: Number of timestamps that were absent or not later than the one before, and were set after it.
        interlaced: Number of frames that are marked as interlaced.
        pulldown: Number of frames that are marked to be shown for three fields.
    """

    has_losses: bool = False
    damaged: int = 0
    missing: int = 0
    adjusted_timestamps: int = 0
    interlaced: int = 0
    pulldown: int = 0

    @property
    def frames(self) -> int:
        """Number of lost frames, about."""
        return max(self.damaged, self.missing)

    def __bool__(self) -> bool:
        return self.has_losses


class IndexMismatchError(InputError):
    """The frames that are decoded are not those of the index."""

    kind = "IndexMismatchError"


class KeyFrame(NamedTuple):
    """A frame from which on every frame is decoded as from the beginning.

    Attributes:
        rank: Its place in `FrameIndex.times`.
        seek_ticks: The timestamp to seek to.
    """

    rank: int
    seek_ticks: int


class SegmentPlace(NamedTuple):
    """Where a segment lies in the video.

    Attributes:
        number: Number of the segment, from 0.
        first_frame: Number of its first frame among those that are read.
        frames: Number of frames.
        key_frame: Place of the key frame before it in `FrameIndex.times`; None where it is decoded from the beginning.
    """

    number: int
    first_frame: int
    frames: int
    key_frame: int | None


@dataclass(frozen=True)
class FrameIndex:
    """The frames of a video in the order in which they are shown.

    Attributes:
        times: Timestamp of each frame in ticks, those before and behind the part that is read included where they are known.
        offset: Place in `times` of the first frame that is read.
        frames: Number of frames that are read.
        key_frames: Frames to begin at, ascending.
        dropped_frames: What is lost; without fields, where the frames were not decoded.
        is_decoded: Whether the video was decoded for it; else it says what the packets promise, and only decoding shows
            whether they keep it.
    """

    times: tuple[int, ...]
    offset: int
    frames: int
    key_frames: tuple[KeyFrame, ...] = ()
    dropped_frames: DroppedFrames = field(default_factory=DroppedFrames)
    is_decoded: bool = False

    def find_key_frame(self, number: int) -> KeyFrame | None:
        """Returns the last key frame not behind a frame; None where there is none, so that reading begins with the video."""
        position = bisect_right(self.key_frames, self.offset + number, key=lambda key_frame: key_frame.rank)
        return self.key_frames[position - 1] if position else None

    def get_time(self, number: int) -> int:
        """Returns the timestamp of a frame in ticks."""
        return self.times[self.offset + number]

    def list_times(self, first_frame: int, frames: int) -> tuple[int, ...]:
        """Returns the timestamps of consecutive frames."""
        return self.times[self.offset + first_frame : self.offset + first_frame + frames]

    def list_segments(self, segment_frames: int) -> list[SegmentPlace]:
        """Lists the segments of the video; all but the last have the same number of frames."""
        places = []
        for number, first_frame in enumerate(range(0, self.frames, segment_frames)):
            key_frame = self.find_key_frame(first_frame)
            frames = min(segment_frames, self.frames - first_frame)
            places.append(SegmentPlace(number, first_frame, frames, None if key_frame is None else key_frame.rank))
        return places

    def to_json(self) -> dict[str, Any]:
        """Returns the index as it is stored in a job folder."""
        return {"schema": INDEX_SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> FrameIndex:
        """Reads a stored index.

        Raises:
            ValueError: It is none of this version, or KeyError or TypeError: a field is missing or none.
        """
        if fields["schema"] != INDEX_SCHEMA_VERSION:
            raise ValueError("an index of another version")
        return cls(
            tuple(fields["times"]),
            fields["offset"],
            fields["frames"],
            tuple(KeyFrame(*pair) for pair in fields["key_frames"]),
            DroppedFrames(**fields["dropped_frames"]),
            fields["is_decoded"],
        )
