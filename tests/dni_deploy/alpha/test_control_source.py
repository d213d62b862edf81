"""The value of a control over time."""

from __future__ import annotations

import pytest

from dni_deploy.alpha.control_source import ControlSource, open_control_sources
from dni_deploy.errors import UsageError
from dni_deploy.network_controls import Control

SIGMA = Control("sigma", -1.0, 50.0, 15.0)


@pytest.mark.parametrize(
    ("value", "seconds", "expected"),
    [
        (25, 7.0, 25.0),
        ("50/2", 7.0, 25.0),
        ("0:0, 4s:50", 1.0, 12.5),
        ("0:1/4, 4s:50/2; hold", 5.0, 25.0),
        ("sine(period=4s, from=-1, to=3)", 2.0, 3.0),
    ],
)
def test_value_at_a_time(value, seconds, expected):
    assert ControlSource.open(SIGMA, value).at(seconds, 0) == pytest.approx(expected, abs=1e-12)


def test_timeline_in_frames_and_in_a_file(tmp_path):
    file = tmp_path / "sigma.csv"
    file.write_text("time,sigma\n0,0\n2,10\n")
    assert ControlSource.open(SIGMA, str(file)).at(1.0, 0) == 5.0
    assert ControlSource.open(SIGMA, "0f:0, 10f:10").at(0.0, 4) == 4.0


@pytest.mark.parametrize(
    "value", ["loud", "0:0, 4s:51", "sine(period=4s, from=-2, to=3)", "0:sigma=1,gain=2", 51, float("nan"), None]
)
def test_what_is_no_value_is_refused_before_any_frame(value):
    with pytest.raises(UsageError):
        ControlSource.open(SIGMA, value)


def test_constants_are_told_apart():
    sources = open_control_sources({"sigma": "0:0, 4s:50"}, [SIGMA])
    assert not sources["sigma"].is_constant
    assert ControlSource.open(SIGMA, 3).is_constant
    with pytest.raises(UsageError, match="no control 'gamma'"):
        open_control_sources({"gamma": 1}, [SIGMA])
