"""Alpha for each frame: from a constant, a source or a shared alpha, with or without frame times."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.control.frame_alpha import open_frame_alpha, resolve_alpha_source
from dni_deploy.control.open_listeners import ListenerOptions
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import CoefficientsError, UsageError

MEMBERS = ("psnr", "gan")
RATE = Fraction(25)


def read_first_coefficients(alpha: Any, frames: tuple[int, ...], rate: Fraction | None = RATE) -> list[float]:
    with open_frame_alpha(MEMBERS, alpha, rate=rate) as control:
        return [control.at(frame).values[0] for frame in frames]


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (None, [1.0, 1.0, 1.0]),
        (0.25, [0.25] * 3),
        ("0.25", [0.25] * 3),
        ({"psnr": 0.25, "gan": 0.75}, [0.25] * 3),
        ([0.25, 0.75], [0.25] * 3),
        ("0:psnr=0, 2s:psnr=1", [0.0, 0.5, 1.0]),
        ("0f:psnr=0, 50f:psnr=1", [0.0, 0.5, 1.0]),
        ("triangle(period=4s, from=gan, to=psnr)", [0.0, 0.5, 1.0]),
    ],
)
def test_each_frame_gets_its_alpha(alpha: Any, expected: list[float]) -> None:
    assert read_first_coefficients(alpha, (0, 25, 50)) == expected


def test_a_file_of_keyframes_gives_each_frame_its_alpha(tmp_path: Path) -> None:
    path = tmp_path / "show.csv"
    path.write_text("frame,psnr,gan\n0,0,1\n50,1,0\n")
    assert read_first_coefficients(path, (0, 25, 50)) == [0.0, 0.5, 1.0]
    assert read_first_coefficients(str(path), (0, 25, 50), None) == [0.0, 0.5, 1.0]


def test_seconds_need_a_frame_rate() -> None:
    for alpha in ("0:psnr=0, 2s:psnr=1", "sine(period=4s)"):
        with pytest.raises(UsageError, match="--fps"):
            read_first_coefficients(alpha, (0,), None)
    assert read_first_coefficients("0f:psnr=0, 50f:psnr=1", (0, 25), None) == [0.0, 0.5]
    assert read_first_coefficients(0.5, (0, 25), None) == [0.5, 0.5]
    with open_frame_alpha(MEMBERS, rate=None) as control:
        assert math.isnan(control.frame_seconds(3))


def test_a_custom_source_is_evaluated_for_each_frame() -> None:
    class Even:
        def at(self, seconds: float, frame: int) -> Coefficients:
            return Coefficients.one_hot(MEMBERS[frame % 2], MEMBERS)

    assert read_first_coefficients(Even(), (0, 1, 2)) == [1.0, 0.0, 1.0]
    with pytest.raises(CoefficientsError):
        resolve_alpha_source(Even(), ("a", "b"))


def test_a_passed_shared_alpha_is_read_for_each_frame() -> None:
    shared_alpha = SharedAlpha(MEMBERS, Coefficients.parse(0.5, MEMBERS))
    with open_frame_alpha(MEMBERS, shared_alpha, rate=None) as control:
        assert control.is_live
        assert control.at(0).values[0] == 0.5
        shared_alpha.set_alpha(0.25)
        assert control.at(1).values[0] == 0.25


def test_options_that_exclude_each_other_are_refused() -> None:
    with (
        pytest.raises(UsageError, match="exclude each other"),
        open_frame_alpha(MEMBERS, "0f:0, 9f:1", listeners=ListenerOptions(osc=0)),
    ):
        pass
    with (
        pytest.raises(UsageError, match="slew limit is for live alpha"),
        open_frame_alpha(MEMBERS, 0.5, listeners=ListenerOptions(slew=1.0)),
    ):
        pass
