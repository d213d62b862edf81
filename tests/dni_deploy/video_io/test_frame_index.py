"""The list of frames, and the units that it is cut into."""

from __future__ import annotations

import json

import pytest

from dni_deploy.utils.format_count import format_numbers
from dni_deploy.video_io.frame_index import DroppedFrames, FrameIndex, KeyFrame, SegmentPlace
from dni_deploy.video_io.segment_units import SegmentUnit, list_units

INDEX = FrameIndex(
    tuple(range(0, 250, 10)), 3, 20, (KeyFrame(0, -2), KeyFrame(8, 78), KeyFrame(16, 158)), DroppedFrames(True, missing=2)
)
"""25 frames, of which 20 are read, the first of them the fourth."""


def test_segments_lie_behind_their_key_frames() -> None:
    assert INDEX.list_segments(8) == [SegmentPlace(0, 0, 8, 0), SegmentPlace(1, 8, 8, 8), SegmentPlace(2, 16, 4, 16)]
    assert [INDEX.find_key_frame(number) for number in (4, 5, 12, 13)] == [
        INDEX.key_frames[0],
        INDEX.key_frames[1],
        INDEX.key_frames[1],
        INDEX.key_frames[2],
    ]
    assert FrameIndex((0, 1), 0, 2).find_key_frame(1) is None
    assert INDEX.list_times(16, 4) == (190, 200, 210, 220)


def test_an_index_is_read_as_it_was_written() -> None:
    assert FrameIndex.from_json(json.loads(json.dumps(INDEX.to_json()))) == INDEX
    with pytest.raises(ValueError, match="another version"):
        FrameIndex.from_json({**INDEX.to_json(), "schema": 0})


@pytest.mark.parametrize("frames", [1, 8, 9, 400, 2001])
@pytest.mark.parametrize("shards", [1, 3, 500])
def test_units_cover_a_video_once(frames: int, shards: int) -> None:
    index = FrameIndex(tuple(range(frames)), 0, frames)
    units = list_units(index, 8, shards)
    places = [place for unit in units for place in unit.places]
    assert places == index.list_segments(8)
    assert max(len(unit.places) for unit in units) <= 8
    assert len(units) >= min(len(places), 4 * shards)
    assert [unit.id for unit in units] == sorted(unit.id for unit in units)
    assert units[-1].end_frame == frames


def test_what_is_missing_of_a_unit_is_made_in_runs() -> None:
    unit = SegmentUnit(tuple(FrameIndex(tuple(range(40)), 0, 40).list_segments(5)))
    assert [part.id for part in unit.split_missing({0, 3, 4, 7})] == ["000001-000002", "000005-000006"]
    assert unit.split_missing(range(8)) == []


def test_numbers_are_formatted_as_ranges() -> None:
    assert format_numbers([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7 to 8"
