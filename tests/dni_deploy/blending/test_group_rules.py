"""Group rules: what a user may write, which weights it selects, and the resulting coefficients."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.blending.group_rules import AlphaRules, parse_rule
from dni_deploy.blending.preset import Preset
from dni_deploy.errors import CoefficientsError, DniError, UsageError
from tests.dni_deploy.blending.test_weight_groups import GROUPS

AB = ("a", "b")


ABC = ("a", "b", "c")


def rows(*rules: str, members: tuple[str, ...] = AB, base: Any = 0.5, extrapolate: bool = False) -> dict[str, list[float]]:
    bound = AlphaRules.parse(rules, GROUPS, members, extrapolate=extrapolate)
    coefficients = bound.compute_coefficients(Coefficients.parse(base, members, extrapolate=extrapolate).to_array())
    assert coefficients.shape == (16, len(members))
    return {name: row.tolist() for name, row in zip(GROUPS.names, coefficients, strict=True)}


def test_later_rules_win_and_other_weights_follow_the_base() -> None:
    actual = rows("norm:*=0.2", "body.[0-1].*=1", "body.1.norm.weight=base", base=0.25)
    assert actual["body.0.norm.weight"] == [1.0, 0.0]
    assert actual["body.1.norm.weight"] == [0.25, 0.75]
    assert actual["body.2.norm.weight"] == [0.2, 0.8]
    assert actual["body.3.bias"] == [0.25, 0.75]


def test_a_gradient_spans_the_selected_layers() -> None:
    actual = rows("conv:*=0..1")
    assert [actual[f"body.{layer}.weight"][0] for layer in range(4)] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-15)
    assert actual["body.0.bias"] == [0.0, 1.0]  # of the same layer, and the ends are exact
    assert actual["body.3.bias"] == [1.0, 0.0]
    rising_and_falling = rows("conv:*=a=1..base..a=1", base=0.0)
    assert rising_and_falling["body.1.weight"] == pytest.approx([1 / 3, 2 / 3])
    assert rising_and_falling["body.3.weight"] == [1.0, 0.0]


def test_relative_alphas_follow_the_base_and_sum_to_one() -> None:
    assert rows("bias:*=base*0.5", base=0.5)["body.0.bias"] == [0.25, 0.75]
    assert rows("bias:*=base + 0.3", base=0.9)["body.0.bias"] == [1.0, 0.0]
    assert rows("bias:*=base-0.75")["body.0.bias"] == [0.0, 1.0]
    assert rows("bias:*=b=base*0.5")["body.0.bias"] == rows("bias:*=B=base*0.5")["body.0.bias"] == [0.75, 0.25]
    assert rows("bias:*=B=25%")["body.0.bias"] == rows("bias:*=75%")["body.0.bias"] == [0.75, 0.25]
    three = rows("bias:*=c=base*0.5", members=ABC, base=(0.1, 0.3, 0.6))["body.0.bias"]
    assert three == pytest.approx([0.7 / 4, 0.7 * 3 / 4, 0.3])
    assert rows("bias:*=c=base*0.5", members=ABC, base="c=1")["body.0.bias"] == [0.25, 0.25, 0.5]
    assert rows("bias:*=base*2", base=0.75, extrapolate=True)["body.0.bias"] == [1.5, -0.5]


NUMBERS = st.floats(0, 1)


GRADIENTS = st.one_of(
    NUMBERS.map(repr),
    st.just("base"),
    NUMBERS.map(lambda number: f"base*{number!r}"),
    NUMBERS.map(lambda number: f"b=base+{number!r}"),
    NUMBERS.map(lambda number: f"a={number!r},b={1 - number!r}"),
)


@given(st.lists(GRADIENTS, min_size=1, max_size=4), NUMBERS)
def test_any_rule_gives_coefficients_and_round_trips(numbers: list[str], base: float) -> None:
    rule = parse_rule(f"body.*={'..'.join(numbers)}", AB)
    bound = AlphaRules([rule], GROUPS)
    start = Coefficients.parse(base, AB).to_array()
    coefficients = bound.compute_coefficients(start)
    assert ((coefficients >= 0) & (coefficients <= 1)).all()
    # A coefficient for b from 1 - number has one rounding error, and each interpolation adds some.
    assert np.abs(coefficients.sum(axis=1) - 1).max() <= 4 * 2.0**-52
    stored_rules = Preset.from_json(json.loads(json.dumps(Preset(AB, None, (rule,)).to_json()))).rules
    assert np.array_equal(AlphaRules(stored_rules, GROUPS).compute_coefficients(start), coefficients)
    # In text, a single number is the coefficient of the first of two members.
    assert (
        np.abs(AlphaRules([parse_rule(str(rule), AB)], GROUPS).compute_coefficients(start) - coefficients).max() <= 4 * 2.0**-52
    )


@given(st.text(max_size=30))
def test_any_text_is_a_rule_or_a_one_sentence_error(text: str) -> None:
    message = "a rule."
    try:
        AlphaRules.parse([text], GROUPS, AB)
    except DniError as error:
        message = str(error)
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("rule", "members", "message"),
    [
        ("norm:*", AB, "no rule for alpha; write PATTERN=ALPHA"),
        ("norm:*=1.2", AB, r"The rule for 'norm:\*': The share of 'a' is 1.2, outside 0 to 1"),
        ("norm:*=0.5", ABC, "One number is an alpha for two members"),
        ("norm:*=base*0.5", ABC, "Whose share"),
        ("norm:*=d=base", AB, "There is no member 'd'; the members are 'a', 'b'"),
        ("norm:*=base*x", AB, "'x' is not a number"),
        ("norm:*=base*nan", AB, "is not a number"),
        ("norm:*=0.2..", AB, "is not a number"),
        ("body.0.weihgt=0.2", AB, "picks no weight; near it are 'body.0.weight'"),
        ("norn:*=0.2", AB, "there is no role 'norn', did you mean 'norm'"),
        ("linear:*=0.2", AB, "the roles here are conv, norm, weight, bias, statistics"),
        ("body.0.norm.*=0..1", AB, "needs two layers and more"),
    ],
)
def test_invalid_rules_are_reported(rule: str, members: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        AlphaRules.parse([rule], GROUPS, members)
    assert caught.value.exit_code == 2


def test_foreign_objects_and_a_single_string_are_not_rules() -> None:
    with pytest.raises(UsageError, match="is for the members a, b, c, this family has a, b"):
        AlphaRules.parse([parse_rule("norm:*=a=1", ABC)], GROUPS, AB)
    with pytest.raises(UsageError, match="Rules are a list"):
        AlphaRules.parse("norm:*=1", GROUPS, AB)


def test_rule_report_lists_weights_and_split_norms() -> None:
    rules = AlphaRules.parse(["norm:*=0.2", "body.0.*=0..1"], GROUPS, AB)
    assert [(rule.weights, rule.alpha, rule.count) for rule in rules.describe_rules()] == [
        ("norm:*", "0.2", 6),
        ("body.0.*", "0..1", 4),
    ]
    assert rules.describe_split_norms() == ()
    assert (
        "4 BatchNorms have tensors under different rules, first that of 'body.0.norm.weight'"
        in (AlphaRules.parse(["statistics:*=0.2"], GROUPS, AB).describe_split_norms()[0])
    )


def test_invalid_coefficients_raise_their_own_errors() -> None:
    with pytest.raises(CoefficientsError):
        parse_rule("norm:*=a=0.3,b=0.3", AB)


def test_rules_are_equal_where_they_give_the_same_coefficients() -> None:
    rule, other = parse_rule("bias:*=base*2", AB), parse_rule("bias:*=base*3", AB)
    assert AlphaRules([rule], GROUPS) == AlphaRules([rule], GROUPS)
    assert AlphaRules([rule], GROUPS) != AlphaRules([other], GROUPS)
    assert AlphaRules([rule], GROUPS) != AlphaRules([rule], GROUPS, extrapolate=True)
    assert AlphaRules([rule], GROUPS) != "bias:*=base*2"
