"""Alpha over time as users pass it: each form is recognized, and options that do not apply are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.curves import AlphaCurve
from dni_deploy.alpha.log import AlphaLog
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.alpha.plane_path import PlanePath
from dni_deploy.alpha.source import as_alpha_source, is_constant, open_alpha_source
from dni_deploy.alpha.timeline import AlphaTimeline
from dni_deploy.errors import InputError, UsageError

THREE = ("a", "b", "c")
LOGGED = [Coefficients.parse(values, THREE) for values in ([1, 0, 0], [0.1, 0.2, 0.7], [0, 0.5, 0.5])]


def write_log(path: Path) -> None:
    with AlphaLog(path, THREE) as log:
        for frame, coefficients in enumerate(LOGGED):
            log.write(frame, frame / 25, frame, coefficients)


def test_an_alpha_becomes_a_source_and_a_source_is_kept() -> None:
    timeline = AlphaTimeline.parse("0:a=1, 1:b=1", THREE)
    assert as_alpha_source(timeline, THREE) is timeline
    assert type(as_alpha_source("sine(period=1, from=a, to=b)", THREE)) is AlphaCurve
    for alpha in ("a=1", {"a": 1.0}, [1.0, 0.0, 0.0], LOGGED[0]):
        assert as_alpha_source(alpha, THREE).at(3.0, 7) == LOGGED[0]


def test_only_a_single_keyframe_is_constant() -> None:
    assert is_constant(open_alpha_source("a=1", THREE))
    assert not is_constant(open_alpha_source("0:a=1, 1:b=1", THREE))
    assert not is_constant(open_alpha_source("sine(period=1, from=a, to=b)", THREE))


def test_every_kind_of_source_is_recognized(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(AlphaTimeline.parse("0:a=1, 1:b=1", THREE).to_json()))
    (tmp_path / "t.CSV").write_text("time,a,b,c\n0,0,1,0\n")
    (tmp_path / "p.json").write_text(json.dumps(PlanePath.from_keyframes(ControlPlane.default(THREE), [(0, (0, 0))]).to_json()))
    (tmp_path / "c.json").write_text(json.dumps(AlphaCurve.parse("sine(period=1, from=a, to=b)", THREE).to_json()))
    write_log(tmp_path / "l.jsonl")
    kinds: list[tuple[Any, type]] = [
        ("a=0.5,b=0.5", AlphaTimeline),
        ("0:a=1, 1:b=1", AlphaTimeline),
        ("sine(period=1, from=a, to=b)", AlphaCurve),
        (str(tmp_path / "t.json"), AlphaTimeline),
        (tmp_path / "t.CSV", AlphaTimeline),
        (tmp_path / "p.json", PlanePath),
        (tmp_path / "c.json", AlphaCurve),
        (str(tmp_path / "l.jsonl"), AlphaTimeline),
    ]
    for alpha, kind in kinds:
        source = open_alpha_source(alpha, THREE)
        assert type(source) is kind
        assert Coefficients.parse(source.at(0.5, 1), THREE)
    assert open_alpha_source(str(tmp_path / "l.jsonl"), THREE).at(0, 1) == LOGGED[1]
    held_source = open_alpha_source("0:a=1, 1:b=1", THREE, interpolation="hold", loop=True)
    assert isinstance(held_source, AlphaTimeline)
    assert (held_source.interpolation, held_source.loop) == ("hold", True)


def test_options_of_a_timeline_are_refused_for_other_sources(tmp_path: Path) -> None:
    write_log(tmp_path / "l.jsonl")
    (tmp_path / "p.json").write_text(json.dumps(PlanePath.from_keyframes(ControlPlane.default(THREE), [(0, (0, 0))]).to_json()))
    for alpha in ("sine(period=1, from=a, to=b)", tmp_path / "l.jsonl", tmp_path / "p.json"):
        with pytest.raises(UsageError, match="its own course"):
            open_alpha_source(alpha, THREE, interpolation="hold")
    (tmp_path / "c.json").write_text('{"curve": "sine(period=0, from=a, to=b)"}')
    with pytest.raises(InputError, match=r"c\.json: The period"):
        open_alpha_source(tmp_path / "c.json", THREE)
    with pytest.raises(InputError, match="does not exist"):
        open_alpha_source("absent.json", THREE)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match=r"bad\.json: it is not JSON"):
        open_alpha_source(tmp_path / "bad.json", THREE)
