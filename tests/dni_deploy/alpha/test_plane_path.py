"""Paths on a control plane: the point at each time, file round trips, and a message for each malformed file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.alpha import keyframes
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.alpha.plane_path import PlanePath
from dni_deploy.errors import LimitError, UsageError

FOUR = ("mosaic", "fire", "fine", "coarse")


def test_a_path_is_piecewise_linear_and_round_trips(tmp_path: Path) -> None:
    path = PlanePath.from_keyframes(ControlPlane.default(FOUR), [(0, (0, 0)), (1, (1, 0)), ("2s", (1, 1))], loop=True)
    assert path.at(0.25, 0).values == (0.75, 0.25, 0, 0)
    assert path.at(1.5, 0).values == (0, 0.5, 0, 0.5)
    assert path.at(2.25, 0).values == (0.75, 0.25, 0, 0)
    file = tmp_path / "path.json"
    file.write_text(json.dumps(path.to_json()))
    path_read = PlanePath.read(file, FOUR)
    assert path_read.to_json() == path.to_json()
    assert path_read.at(1.3, 0) == path.at(1.3, 0)
    frames = PlanePath.from_keyframes(ControlPlane.default(FOUR), [("0f", (0, 0)), ("10f", (1, 1))], "smooth")
    assert frames.at(0.0, 5).values == (0.25,) * 4
    assert frames.to_json()["keyframes"][1] == {"frame": 10, "at": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "keyframes"),
        ({"keyframes": []}, "0 keyframes"),
        ({"keyframes": [{"time": 0, "at": [0, 0]}], "loop": True}, "at least 2"),
        ({"keyframes": [{"time": 0, "at": [0, 0]}], "loop": 3}, "true or false"),
        ({"keyframes": [{"time": 0}]}, "Keyframe 1 is not"),
        ({"keyframes": [{"at": [0, 0]}]}, "Keyframe 1 is to have"),
        ({"keyframes": [{"time": 0, "at": [0, None]}]}, "Keyframe 1 at 0s: the point"),
        ({"keyframes": [{"time": 0, "at": [0, 1]}, {"time": 0, "at": [0, 1]}]}, "Keyframe 2 is at 0s, as"),
        ({"keyframes": [{"time": 0, "at": [0, 1]}], "interpolation": "cubic"}, "no interpolation"),
    ],
)
def test_malformed_paths_are_refused(fields: dict[str, Any], message: str) -> None:
    places = ControlPlane.default(FOUR).to_json()
    with pytest.raises(UsageError, match=message):
        PlanePath.from_json({**places, **fields}, FOUR)


def test_a_file_with_too_many_keyframes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = PlanePath.from_keyframes(ControlPlane.default(FOUR), [(0, (0, 0)), (1, (1, 1))])
    file = tmp_path / "path.json"
    file.write_text(json.dumps(path.to_json()))
    monkeypatch.setattr(keyframes, "MAX_KEYFRAMES", 1)
    with pytest.raises(LimitError, match=r"path\.json: A path has at most 1 keyframes"):
        PlanePath.read(file, FOUR)


def test_the_arrays_are_read_only() -> None:
    path = PlanePath.from_keyframes(ControlPlane.default(FOUR), [(0, (0, 0))])
    for array in (path.times, path.points):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
