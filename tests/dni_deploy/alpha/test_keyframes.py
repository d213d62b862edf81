"""Parsing of keyframes without a family: times, units, and the three notations."""

from __future__ import annotations

import pytest

from dni_deploy.alpha import keyframes
from dni_deploy.alpha.keyframes import (
    ParsedKeyframes,
    convert_to_common_unit,
    from_csv,
    from_json,
    from_pairs,
    from_text,
)
from dni_deploy.errors import LimitError, UsageError
from dni_deploy.utils.moment import Moment


def test_frames_become_seconds_only_where_units_are_mixed() -> None:
    frames = [Moment(0, "frames"), Moment(50, "frames")]
    assert convert_to_common_unit(frames, None, "timeline") == ("frames", [0, 50])
    mixed = [Moment(1, "seconds"), Moment(50, "frames")]
    assert convert_to_common_unit(mixed, 25, "curve") == ("seconds", [1, 2])
    for fps in (None, 0.0, float("nan")):
        with pytest.raises(UsageError, match="The curve mixes seconds and frames"):
            convert_to_common_unit(mixed, fps, "curve")


def test_text_json_csv_and_pairs_parse_alike() -> None:
    moments = [Moment(0, "seconds"), Moment(62.5, "seconds")]
    parsed_forms = [
        from_text("0:gan=0, 1:02.5:gan=1"),
        from_json({"keyframes": [{"time": 0, "alpha": "gan=0"}, {"time": "1:02.5", "alpha": "gan=1"}]}),
        from_csv("time,gan\n0,0\n1:02.5,1\n"),
        from_pairs([(0, "gan=0"), ("1:02.5", "gan=1")], "linear", False),
    ]
    assert [parsed.moments for parsed in parsed_forms] == [moments] * 4
    assert [parsed.values for parsed in parsed_forms[:2]] == [["gan=0", "gan=1"]] * 2
    assert parsed_forms[2].values == [{"gan": "0"}, {"gan": "1"}]


def test_an_alpha_with_commas_belongs_to_the_time_before_it() -> None:
    parsed = from_text("0:psnr=0.8,gan=0.2, 2s:gan=1; smooth; loop")
    assert parsed.values == ["psnr=0.8,gan=0.2", "gan=1"]
    assert (parsed.interpolation, parsed.loop, parsed.has_times) == ("smooth", True, True)
    assert not from_text("gan=0.3").has_times


@pytest.mark.parametrize("fields", [{"time": True}, {"time": None}, {"time": 0, "frame": 0}, {}])
def test_a_json_keyframe_has_one_time(fields: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"^Keyframe 2"):
        from_json({"keyframes": [{"time": 0, "alpha": 1}, {"alpha": 1, **fields}]})


def test_too_many_keyframes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyframes, "MAX_KEYFRAMES", 1)
    parsed = ParsedKeyframes("path")
    parsed.add(Moment(0, "seconds"), 1)
    with pytest.raises(LimitError, match="A path has at most 1 keyframes"):
        parsed.add(Moment(1, "seconds"), 1)
