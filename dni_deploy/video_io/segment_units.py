"""Units of a video job: runs of consecutive segments, each of which is done by itself and in any order."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from dni_deploy.video_io.frame_index import FrameIndex, SegmentPlace

MAX_UNIT_SEGMENTS = 8
"""Most segments of a unit: decoding from the key frame before it, and opening the file, are then little beside the work."""

MIN_UNITS_PER_SHARD = 4
"""Units are made shorter rather than to give a shard fewer of them, so that all shards get about the same number of frames."""


@dataclass(frozen=True)
class SegmentUnit:
    """Consecutive segments of a video.

    Attributes:
        places: Where they lie.
    """

    places: tuple[SegmentPlace, ...]

    @property
    def id(self) -> str:
        """Numbers of the first and last segment; it sorts as they do."""
        return f"{self.places[0].number:06d}-{self.places[-1].number:06d}"

    @property
    def first_frame(self) -> int:
        """Number of the first frame."""
        return self.places[0].first_frame

    @property
    def end_frame(self) -> int:
        """Number of the frame behind the last one."""
        return self.places[-1].first_frame + self.places[-1].frames

    def split_missing(self, stored: Container[int]) -> list[SegmentUnit]:
        """Returns the parts of the unit whose segments are not stored, by their numbers."""
        parts: list[list[SegmentPlace]] = []
        for place in self.places:
            if place.number in stored:
                continue
            if parts and parts[-1][-1].number == place.number - 1:
                parts[-1].append(place)
            else:
                parts.append([place])
        return [SegmentUnit(tuple(part)) for part in parts]


def list_units(index: FrameIndex, segment_frames: int, shard_count: int = 1) -> list[SegmentUnit]:
    """Cuts a video into units, the same ones in each of the shards."""
    places = index.list_segments(segment_frames)
    size = max(1, min(MAX_UNIT_SEGMENTS, len(places) // (MIN_UNITS_PER_SHARD * shard_count)))
    return [SegmentUnit(tuple(places[start : start + size])) for start in range(0, len(places), size)]
