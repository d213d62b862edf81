"""Coefficients: every notation of alpha, and a one-line error for every invalid one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_deploy.alpha.coefficients import SUM_TOLERANCE, Coefficients, find_decimal_comma
from dni_deploy.errors import CoefficientsError

TWO, THREE = ("psnr", "gan"), ("a", "b", "c")


@pytest.mark.parametrize(
    ("alpha", "members", "values"),
    [
        (0.35, TWO, (0.35, 0.65)),
        (1, TWO, (1.0, 0.0)),
        (True, TWO, (1.0, 0.0)),
        (np.float32(0.25), TWO, (0.25, 0.75)),
        (-0.0, TWO, (0.0, 1.0)),
        ("0.35", TWO, (0.35, 0.65)),
        (" 1e-3 ", TWO, (0.001, 0.999)),
        ("psnr=0.3,gan=0.7", TWO, (0.3, 0.7)),
        ("gan = 0.7 , psnr = 0.3", TWO, (0.3, 0.7)),
        ("gan=1", TWO, (0.0, 1.0)),
        ("35%", TWO, (0.35, 0.65)),
        (" 35 % ", TWO, (0.35, 0.65)),
        ("gan=65%", TWO, (0.35, 0.65)),
        ("20%,30%,50%", THREE, (0.2, 0.3, 0.5)),
        ("GAN=0.65", TWO, (0.35, 0.65)),
        ({"Gan": 0.65}, TWO, (0.35, 0.65)),
        ("n20=0.65", ("N20", "N60"), (0.65, 0.35)),
        ("a=1", ("A", "a"), (0.0, 1.0)),
        ("0.2,0.3,0.5", THREE, (0.2, 0.3, 0.5)),
        ({"b": 1}, THREE, (0.0, 1.0, 0.0)),
        ([0.2, 0.3, 0.5], THREE, (0.2, 0.3, 0.5)),
        (np.array([0.25, 0.75], np.float32), TWO, (0.25, 0.75)),
        ((0.1,) * 10, tuple("abcdefghij"), (0.1,) * 10),
        (5e-324, TWO, (5e-324, 1.0)),  # the smallest denormal
        (1 - 2**-53, TWO, (1 - 2**-53, 2**-53)),
    ],
)
def test_every_form_of_alpha_is_parsed(alpha: Any, members: tuple[str, ...], values: tuple[float, ...]) -> None:
    coefficients = Coefficients.parse(alpha, members)
    assert (coefficients.members, coefficients.values) == (members, values)
    assert all(type(value) is float for value in coefficients.values)
    assert Coefficients.parse(coefficients, members) == coefficients
    array = coefficients.to_array()
    assert (array.dtype, array.tolist()) == (np.float64, list(values))
    array[0] = 7
    assert coefficients.values == values


def test_one_hot_is_that_member_exactly() -> None:
    assert Coefficients.one_hot("b", THREE).values == (0, 1, 0)
    assert str(Coefficients.one_hot("b", THREE)) == "a=0, b=1, c=0"


@pytest.mark.parametrize(
    ("alpha", "members", "message"),
    [
        (math.nan, TWO, "finite"),
        ("nan", TWO, "finite"),
        (math.inf, TWO, "finite"),
        ("1e999", TWO, "finite"),
        ("-inf", TWO, "finite"),
        (1.5, TWO, "outside 0 to 1"),
        (-0.2, TWO, "outside 0 to 1"),
        (-5e-324, TWO, "outside 0 to 1"),
        (math.nextafter(1, 2), TWO, "outside 0 to 1"),
        ("1.5,-0.5", TWO, "outside 0 to 1"),
        (0.5, THREE, "two members, this family has 3"),
        ("0.5,0.5", THREE, "2 numbers"),
        ([], TWO, "0 numbers"),
        ([1.0], TWO, "1 numbers"),
        ("0.5,0.6", TWO, "sum to 1.1 "),
        ([0, 0, 0], THREE, "sum to 0 "),
        ({"a": 0.5}, THREE, "sum to 0.5 "),
        ({}, TWO, "empty"),
        ("", TWO, "not a number"),
        (",", TWO, "not a number"),
        ("half", TWO, "'half'"),
        ("0.5;0.5", TWO, "not a number"),
        ("x=1", TWO, "names 'x'; the members are 'psnr', 'gan'"),
        ({"x": 1.0}, TWO, "names 'x'"),
        ({3: 1.0}, TWO, "names '3'"),
        ("psnr=0.5,psnr=0.5", TWO, "twice"),
        ("psnr=0.5,0.5", TWO, "mixes"),
        ("=1", TWO, "mixes"),
        ("psnr=", TWO, "not a number"),
        ("0,4", TWO, "for one number write 0.4"),
        ("0,35", TWO, "for one number write 0.35"),
        ("1,5", TWO, "for one number write 1.5"),
        ("psnr", TWO, "for that member alone write psnr=1"),
        ("PSNR", TWO, "for that member alone write psnr=1"),
        ("psnr:0.3", TWO, "a name has an equals sign"),
        ("0.3 0.7", TWO, "separated by commas"),
        ("0.3/0.7", TWO, "separated by commas"),
        ("0:gan=0, 2s:gan=1", TWO, "for `video`, `filter` and `serve`"),
        ("ga=1", TWO, "did you mean 'gan'?"),
        ("PNSR=1", TWO, "did you mean 'psnr'?"),
        ("%", TWO, "not a number"),
        ("101%", TWO, "outside 0 to 1"),
        ("abc=1", ("Abc", "aBc"), "may be 'Abc', 'aBc'"),
        ("psnr=0.5,PSNR=0.5", TWO, "twice"),
        ("psnr=0.5=0.5", TWO, "names 'psnr=0.5'"),
        (None, TWO, "not a number"),
        ([None, 1], TWO, "not a number"),
        (["0.5", "x"], TWO, "not a number"),
        (object(), TWO, "not a number"),
        (np.ones((1, 2)) / 2, TWO, "not a number"),
        (10**400, TWO, "larger than any float"),
        ([10**5000, 0], TWO, "larger than any float"),
        (b"\x00\x01", TWO, "not a number"),
        (Coefficients(("x", "y"), (0.5, 0.5)), TWO, "for the members 'x', 'y'"),
    ],
)
def test_invalid_alphas_are_refused(alpha: Any, members: tuple[str, ...], message: str) -> None:
    with pytest.raises(CoefficientsError) as caught:
        Coefficients.parse(alpha, members)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2
    assert isinstance(caught.value, ValueError)


def test_member_names_are_escaped_in_errors() -> None:
    with pytest.raises(CoefficientsError) as caught:
        Coefficients.parse("\x1b[31m\n\u202e=1", TWO)
    assert str(caught.value).isprintable()
    with pytest.raises(CoefficientsError) as caught:
        Coefficients.parse("x" * 100_000, TWO)
    assert len(str(caught.value)) < 300


def test_extrapolation_is_refused_unless_enabled() -> None:
    assert Coefficients.parse(1.5, TWO, extrapolate=True).values == (1.5, -0.5)
    for alpha in (math.nan, math.inf, "1e999"):
        with pytest.raises(CoefficientsError, match="finite"):
            Coefficients.parse(alpha, TWO, extrapolate=True)
    with pytest.raises(CoefficientsError, match="sum to 3"):
        Coefficients.parse([1.5, 1.5], TWO, extrapolate=True)
    with pytest.raises(CoefficientsError, match="sum to inf"):
        Coefficients.parse([1e308, 1e308], TWO, extrapolate=True)
    extrapolated = Coefficients.parse(1.5, TWO, extrapolate=True)
    with pytest.raises(CoefficientsError, match="outside"):
        Coefficients.parse(extrapolated, TWO)


def test_coefficients_sum_to_1_within_the_tolerance() -> None:
    assert Coefficients.parse([0.5, 0.5 + 0.9 * SUM_TOLERANCE], TWO).values[1] == 0.5 + 0.9 * SUM_TOLERANCE  # not renormalized
    with pytest.raises(CoefficientsError):
        Coefficients.parse([0.5, 0.5 + 1.1 * SUM_TOLERANCE], TWO)


@given(st.floats(0, 1))
def test_any_coefficient_of_two_members(alpha: float) -> None:
    coefficients = Coefficients.parse(alpha, TWO)
    assert coefficients.values == (alpha, 1 - alpha)
    assert Coefficients.parse(repr(alpha), TWO) == coefficients


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=16).filter(any), st.randoms(use_true_random=False))
def test_any_simplex_point_is_parsed_in_any_member_order(weights: list[int], random: Any) -> None:
    names = tuple(f"m{index}" for index in range(len(weights)))
    values = [weight / sum(weights) for weight in weights]
    coefficients = Coefficients.parse(values, names)
    assert coefficients.values == tuple(values)
    pairs = list(zip(names, values, strict=True))
    random.shuffle(pairs)
    assert Coefficients.parse(dict(pairs), names) == coefficients
    assert Coefficients.parse(",".join(f"{name}={value!r}" for name, value in pairs), names) == coefficients


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(TWO), inner, max_size=4) | st.tuples(inner),
    max_leaves=6,
)  # fmt: skip


@given(anything, st.booleans())
def test_any_input_gives_coefficients_or_one_line_error(alpha: Any, extrapolate: bool) -> None:
    try:
        coefficients = Coefficients.parse(alpha, TWO, extrapolate=extrapolate)
    except CoefficientsError as error:
        text = str(error)
    else:
        text = str(coefficients)
        assert abs(math.fsum(coefficients.values) - 1) <= SUM_TOLERANCE
        assert extrapolate or all(0 <= value <= 1 for value in coefficients.values)
    assert text.isprintable()


@pytest.mark.parametrize(
    ("alpha", "members", "values"),
    [
        ("gan=0", TWO, (1.0, 0.0)),
        ("gan=0.3", TWO, (0.7, 0.3)),
        ({"psnr": 0.25}, TWO, (0.25, 0.75)),
        ("a=0.25,c=0.25", THREE, (0.25, 0.5, 0.25)),
        ("a=1", THREE, (1.0, 0.0, 0.0)),
        ("psnr=0.3,gan=0.7", TWO, (0.3, 0.7)),
        (0.25, TWO, (0.25, 0.75)),
        ("0.25", TWO, (0.25, 0.75)),
        ([0.2, 0.3, 0.5], THREE, (0.2, 0.3, 0.5)),
    ],
)
def test_one_missing_member_takes_the_rest(alpha: Any, members: tuple[str, ...], values: tuple[float, ...]) -> None:
    assert Coefficients.parse(alpha, members).values == values


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        ("gan=1.5", "'gan' is 1.5, outside 0 to 1"),
        ("gan=-0.5", "'gan' is -0.5, outside 0 to 1"),
        ("gan=nan", "finite"),
        ("gan=x", "not a number"),
        ({"gan": 10**400}, "larger than any float"),
        ({"gan": None}, "not a number"),
        ("other=1", "names 'other'"),
        ("gan=0.5,gan=0.5", "twice"),
    ],
)
def test_errors_are_the_same_with_a_missing_member(alpha: Any, message: str) -> None:
    with pytest.raises(CoefficientsError, match=message):
        Coefficients.parse(alpha, TWO)


def test_several_missing_members_have_coefficient_0() -> None:
    with pytest.raises(CoefficientsError, match=r"sum to 0\.5"):
        Coefficients.parse("a=0.5", THREE)
    assert Coefficients.parse("gan=1.5", TWO, extrapolate=True).values == (-0.5, 1.5)


@pytest.mark.parametrize("alpha", ["0,1", " 0,1 "])
def test_the_alpha_that_is_two_shares_or_a_decimal_fraction_has_a_note(alpha: str) -> None:
    assert "for one number write 0.1" in (find_decimal_comma(alpha) or "")
    assert Coefficients.parse(alpha, TWO).values == (0.0, 1.0)


@pytest.mark.parametrize("alpha", ["1,0", "0.0,1.0", "0,0,1", "0.1", 0.1, None, [0, 1]])
def test_other_alphas_have_no_note(alpha: Any) -> None:
    assert find_decimal_comma(alpha) is None
