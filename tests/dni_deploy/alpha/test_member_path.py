"""The path through a family, as a constant alpha and over time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.member_path import follow_path, read_path_position
from dni_deploy.alpha.timeline import AlphaTimeline
from dni_deploy.errors import CoefficientsError, InputError

FOUR = ("n0", "n1", "n2", "n3")


@pytest.mark.parametrize("members", range(1, 9))
def test_two_neighbors_at_most_have_a_share(members: int) -> None:
    for position in np.linspace(0, 1, 101).tolist():
        values = follow_path(position, members)
        used = [index for index, value in enumerate(values) if value]
        assert sum(values) == 1.0
        assert all(0 <= value <= 1 for value in values)
        assert 1 <= len(used) <= 2
        assert used[-1] - used[0] == len(used) - 1
        where = sum(index * value for index, value in enumerate(values))
        assert where == pytest.approx(position * (members - 1), abs=1e-12)
    assert follow_path(0.0, members)[0] == follow_path(1.0, members)[-1] == 1.0


@pytest.mark.parametrize("alpha", ["path=0.5", " path = 0.5 ", {"path": 0.5}, {"path": "0.5"}])
def test_every_spelling(alpha: object) -> None:
    assert read_path_position(alpha, FOUR) == 0.5
    assert Coefficients.parse(alpha, FOUR).values == (0.0, 0.5, 0.5, 0.0)  # type: ignore[arg-type]


def test_of_two_members_it_runs_from_the_first_to_the_second() -> None:
    assert Coefficients.parse("path=0.25", ("psnr", "gan")).values == (0.75, 0.25)


def test_a_member_of_this_name_comes_first() -> None:
    assert Coefficients.parse({"path": 0.25, "other": 0.75}, ("path", "other")).values == (0.25, 0.75)
    with pytest.raises(CoefficientsError, match="sum to"):
        Coefficients.parse("path=0.25", ("path", "other", "third"))


@pytest.mark.parametrize("value", ["1.01", "-0.1", "nan", "inf", "x", ""])
def test_what_is_no_position(value: str) -> None:
    with pytest.raises(CoefficientsError, match="is not a position on the path, which goes from 0 to 1"):
        Coefficients.parse(f"path={value}", FOUR, extrapolate=True)
    with pytest.raises(CoefficientsError, match="is not a position"):
        Coefficients.parse({"path": None}, FOUR)  # type: ignore[dict-item]


def test_a_path_is_alone() -> None:
    with pytest.raises(CoefficientsError, match=r"'path'; the members are .*, and a path is alone"):
        Coefficients.parse("path=0.5,n0=0.5", FOUR)


@pytest.mark.parametrize("interpolation", ["linear", "smooth"])
def test_between_two_positions_a_timeline_follows_the_path(interpolation: str) -> None:
    """A straight line from the first member to the last would pass none of the others."""
    timeline = AlphaTimeline.parse(f"0:path=0, 3s:path=1; {interpolation}", FOUR)
    line = AlphaTimeline.parse(f"0:n0=1, 3s:n3=1; {interpolation}", FOUR)
    for second in np.linspace(0, 3, 61).tolist():
        progress = line.at(second, 0).values[3]
        assert timeline.at(second, 0).values == pytest.approx(follow_path(progress, 4), abs=1e-12)
    assert timeline.at(1.5, 0).values == (0.0, 0.5, 0.5, 0.0)


def test_between_a_position_and_another_alpha_the_line_is_straight() -> None:
    timeline = AlphaTimeline.parse("0:path=0, 2s:n3=1, 4s:path=1, 5s:path=0; hold", FOUR)
    assert timeline.at(1, 0).values == (1.0, 0.0, 0.0, 0.0)
    timeline = AlphaTimeline.parse("0:path=0, 2s:n2=0.5,n3=0.5", FOUR)
    assert timeline.at(1, 0).values == (0.5, 0.0, 0.25, 0.25)


def test_a_timeline_is_written_and_read_with_its_positions(tmp_path: Path) -> None:
    timeline = AlphaTimeline.parse("0:path=0, 3s:path=0.7, 4s:n1=1; loop", FOUR)
    path = tmp_path / "alpha.json"
    path.write_text(json.dumps(timeline.to_json()))
    again = AlphaTimeline.read(path, FOUR)
    assert again.to_json() == timeline.to_json()
    assert again.at(1.7, 0).values == timeline.at(1.7, 0).values
    (tmp_path / "alpha.csv").write_text("time,path\n0,0\n3,0.7\n")
    assert AlphaTimeline.read(tmp_path / "alpha.csv", FOUR).at(1.7, 0).values == timeline.at(1.7, 0).values


def test_a_file_that_lists_its_members_in_another_order_has_no_path(tmp_path: Path) -> None:
    path = tmp_path / "alpha.json"
    path.write_text(json.dumps({"members": ["n3", "n2", "n1", "n0"], "keyframes": [{"time": 0, "alpha": {"path": 0.2}}]}))
    with pytest.raises(InputError, match="in the family's order"):
        AlphaTimeline.read(path, FOUR)
