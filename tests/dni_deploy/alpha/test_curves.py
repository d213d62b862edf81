"""AlphaCurve: the shapes at known points, every notation, and a one-line error for every invalid one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.curves import CURVE_SHAPES, AlphaCurve, is_curve
from dni_deploy.errors import DniError, UsageError

TWO, THREE = ("psnr", "gan"), ("a", "b", "c")
CLOSE = 1e-12
"""Error of the cosine of a phase that fmod reduced from a large time."""


def gan_values(text: str, *times: float) -> list[float]:
    curve = AlphaCurve.parse(text, TWO)
    return [curve.at(time, 0).values[1] for time in times]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("sine", [0, 0.5, 1, 0.5, 0]),
        ("triangle", [0, 0.5, 1, 0.5, 0]),
        ("saw", [0, 0.25, 0.5, 0.75, 0]),
        ("square", [0, 0, 1, 1, 0]),
    ],
)
def test_curve_values_at_quarters_of_a_period(shape: str, expected: list[float]) -> None:
    for turns in (0, 1, 1000):
        times = [4 * turns + second for second in range(5)]
        assert gan_values(f"{shape}(period=4s, from=psnr, to=gan)", *times) == pytest.approx(expected, abs=CLOSE)


def test_curve_ends_are_exact() -> None:
    curve = AlphaCurve.parse("sine(period=4s, from=psnr, to=gan)", TWO)
    assert curve.at(0, 0) == Coefficients.one_hot("psnr", TWO)
    assert curve.at(2, 0) == Coefficients.one_hot("gan", TWO)


def test_phase_and_offset_shift_a_curve() -> None:
    assert gan_values("saw(period=4, phase=0.25)", 0, 1, 3) == pytest.approx([0.25, 0.5, 0], abs=CLOSE)
    assert gan_values("saw(period=4, phase=-0.25)", 0, 1) == pytest.approx([0.75, 0], abs=CLOSE)
    assert gan_values("saw(period=4, offset=2s)", 0, 2, 3) == pytest.approx([0, 0, 0.25], abs=CLOSE)
    assert gan_values("saw(period=4, offset=2s, phase=0.5)", 0, 3, 4) == pytest.approx([0.5, 0.75, 0], abs=CLOSE)


def test_curve_ends_may_be_any_alpha() -> None:
    curve = AlphaCurve.parse(" Triangle( period=1:00, from=A=0.5,b=50%, to=0.2,0.3,0.5 ) ", THREE)
    assert curve.at(0, 0).values == (0.5, 0.5, 0)
    assert curve.at(30, 0).values == (0.2, 0.3, 0.5)
    assert curve.at(15, 0).values == pytest.approx((0.35, 0.4, 0.25), abs=CLOSE)
    assert gan_values("saw(period=1, from=PSNR, to=Gan)", 0.5) == pytest.approx([0.5], abs=CLOSE)
    assert gan_values("saw(period=1, from=gan=0.2, to=gan=0.8)", 0.5) == pytest.approx([0.5], abs=CLOSE)
    assert gan_values("saw(period=1)", 0.25) == [0.25]


def test_periods_in_frames_need_no_rate() -> None:
    curve = AlphaCurve.parse("triangle(period=100f)", TWO)
    assert curve.at(99.0, 25).values == (0.5, 0.5)
    assert curve.at(99.0, 50).values == (0, 1)
    mixed = AlphaCurve.parse("saw(period=100f, offset=1s)", TWO, fps=25)
    assert mixed.at(2.0, 0).values == pytest.approx((0.75, 0.25), abs=CLOSE)
    with pytest.raises(UsageError, match="mixes seconds and frames"):
        AlphaCurve.parse("saw(period=100f, offset=1s)", TWO)


@given(st.sampled_from(sorted(CURVE_SHAPES)), st.floats(1e-3, 1e6), st.floats(-10, 10), st.floats(0, 1e6), st.floats(-1e9, 1e9))
def test_every_point_is_on_the_simplex(shape: str, period: float, phase: float, offset: float, time: float) -> None:
    curve = AlphaCurve.parse(f"{shape}(period={period!r}, phase={phase!r}, offset={offset!r}, from=a, to=0.1,0.2,0.7)", THREE)
    point = curve.at(time, 0)
    assert abs(math.fsum(point.values) - 1) <= 2**-51
    assert Coefficients.parse(point, THREE) == point


@given(
    st.sampled_from(sorted(CURVE_SHAPES)),
    st.floats(1e-3, 1e6),
    st.floats(-10, 10),
    st.floats(0, 1e6),
    st.floats(0, 1),
    st.booleans(),
)
def test_json_round_trip(shape: str, period: float, phase: float, offset: float, coefficient: float, frames: bool) -> None:
    times = f"period={int(period) + 1}f, offset={int(offset)}f" if frames else f"period={period!r}, offset={offset!r}"
    curve = AlphaCurve.parse(f"{shape}({times}, phase={phase!r}, from=psnr={coefficient!r}, to=gan)", TWO)
    assert AlphaCurve.from_json(curve.to_json(), TWO) == curve
    assert is_curve(str(curve))


@pytest.mark.parametrize("fields", [None, 3, {}, {"curve": 3}, {"curve": "x"}, {"schema": 2, "curve": "sine(period=1)"}])
def test_malformed_json_is_refused(fields: object) -> None:
    with pytest.raises(UsageError):
        AlphaCurve.from_json(fields, TWO)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosine(period=1)", "no curve 'cosine'; there are sine"),
        ("sine()", "A curve has period="),
        ("sine(from=psnr)", "no period"),
        ("sine(period=0)", "longer than 0"),
        ("sine(period=-1)", "not a number from 0"),
        ("sine(period=nan)", "not a time"),
        ("sine(period=1, phase=x)", "phase 'x' is not"),
        ("sine(period=1, phase=nan)", "phase of a curve"),
        ("sine(period=1, period=2)", "twice"),
        ("sine(period=1, from=other)", "'from': 'other' in alpha is not a number"),
        ("sine(period=1, to=gan=2)", "'to': .* outside 0 to 1"),
        ("sine(period=1, speed=2)", "'1, speed=2' is not a time"),
        ("sine(speed=2)", "A curve has period="),
        ("sine", "not a curve"),
        ("", "not a curve"),
    ],
)
def test_malformed_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        AlphaCurve.parse(text, TWO)
    assert str(caught.value).isprintable()


def test_more_than_two_members_have_no_ends_of_their_own() -> None:
    with pytest.raises(UsageError, match="no 'to'; of 3 members"):
        AlphaCurve.parse("sine(period=1, from=a)", THREE)
    with pytest.raises(UsageError, match="finite"):
        AlphaCurve.parse("sine(period=1)", TWO).at(math.inf, 0)


@given(st.text(alphabet=st.sampled_from("sinetragle(),=period fromt:0.1e9\n\x00"), max_size=40))
def test_any_text_gives_a_curve_or_one_line_error(text: str) -> None:
    for attempt in (text, f"sine({text})", f"sine(period={text})"):
        message = "x"
        try:
            AlphaCurve.parse(attempt, TWO).at(1.0, 1)
            assert is_curve(attempt)
        except DniError as error:
            message = str(error)
        assert message.isprintable()
