"""Alpha rules: what a user may write, which weights it picks, and the shares that come of it; recipes keep it in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.blending.group_rules import AlphaRules, Rule, parse_rule
from dni_deploy.blending.preset import Preset
from dni_deploy.blending.weight_groups import GroupedWeight, WeightGroups
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import CoefficientsError, DniError, InputError, UsageError
from tests.support import pico_bundle

AB = ("a", "b")
ABC = ("a", "b", "c")
GROUPS = WeightGroups(
    tuple(
        GroupedWeight(f"body.{layer}.{name}", roles, 2 * layer + number)
        for layer in range(4)
        for number, weights in enumerate(
            (
                (("weight", ("conv", "weight")), ("bias", ("conv", "bias"))),
                (("norm.weight", ("norm", "weight")), ("norm.running_var", ("norm", "statistics"))),
            )
        )
        for name, roles in weights
    )
)


def rows(*rules: str, members: tuple[str, ...] = AB, base: Any = 0.5, extrapolate: bool = False) -> dict[str, list[float]]:
    bound = AlphaRules.parse(rules, GROUPS, members, extrapolate=extrapolate)
    shares = bound.compute_coefficients(Coefficients.parse(base, members, extrapolate=extrapolate).to_array())
    assert shares.shape == (16, len(members))
    return {name: row.tolist() for name, row in zip(GROUPS.names, shares, strict=True)}


def test_later_rules_win_and_the_rest_follows_the_base() -> None:
    got = rows("norm:*=0.2", "body.[0-1].*=1", "body.1.norm.weight=base", base=0.25)
    assert got["body.0.norm.weight"] == [1.0, 0.0]
    assert got["body.1.norm.weight"] == [0.25, 0.75]
    assert got["body.2.norm.weight"] == [0.2, 0.8]
    assert got["body.3.bias"] == [0.25, 0.75]


def test_roles_pick_layers_and_parts() -> None:
    picked = {
        role: [GROUPS.names[index] for index in GROUPS.select(f"{role}:body.2.*")] for role in ("conv", "bias", "statistics")
    }
    assert picked == {
        "conv": ["body.2.weight", "body.2.bias"],
        "bias": ["body.2.bias"],
        "statistics": ["body.2.norm.running_var"],
    }
    assert GROUPS.roles == ("conv", "norm", "weight", "bias", "statistics")


def test_a_gradient_goes_over_the_layers_that_are_picked() -> None:
    got = rows("conv:*=0..1")
    assert [got[f"body.{layer}.weight"][0] for layer in range(4)] == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-15)
    assert got["body.0.bias"] == [0.0, 1.0]  # of the same layer, and the ends are exact
    assert got["body.3.bias"] == [1.0, 0.0]
    there_and_back = rows("conv:*=a=1..base..a=1", base=0.0)
    assert there_and_back["body.1.weight"] == pytest.approx([1 / 3, 2 / 3])
    assert there_and_back["body.3.weight"] == [1.0, 0.0]


def test_relative_alphas_follow_the_base_and_stay_shares() -> None:
    assert rows("bias:*=base*0.5", base=0.5)["body.0.bias"] == [0.25, 0.75]
    assert rows("bias:*=base + 0.3", base=0.9)["body.0.bias"] == [1.0, 0.0]
    assert rows("bias:*=base-0.75")["body.0.bias"] == [0.0, 1.0]
    assert rows("bias:*=b=base*0.5")["body.0.bias"] == [0.75, 0.25]
    three = rows("bias:*=c=base*0.5", members=ABC, base=(0.1, 0.3, 0.6))["body.0.bias"]
    assert three == pytest.approx([0.7 / 4, 0.7 * 3 / 4, 0.3])
    assert rows("bias:*=c=base*0.5", members=ABC, base="c=1")["body.0.bias"] == [0.25, 0.25, 0.5]
    assert rows("bias:*=base*2", base=0.75, extrapolate=True)["body.0.bias"] == [1.5, -0.5]


NUMBERS = st.floats(0, 1)
KNOTS = st.one_of(
    NUMBERS.map(repr),
    st.just("base"),
    NUMBERS.map(lambda number: f"base*{number!r}"),
    NUMBERS.map(lambda number: f"b=base+{number!r}"),
    NUMBERS.map(lambda number: f"a={number!r},b={1 - number!r}"),
)


@given(st.lists(KNOTS, min_size=1, max_size=4), NUMBERS)
def test_whatever_is_written_gives_shares_and_is_written_back(knots: list[str], base: float) -> None:
    rule = parse_rule(f"body.*={'..'.join(knots)}", AB)
    bound = AlphaRules([rule], GROUPS)
    start = Coefficients.parse(base, AB).to_array()
    shares = bound.compute_coefficients(start)
    assert ((shares >= 0) & (shares <= 1)).all()
    # A share given for b by 1 - number is off by a rounding, and each interpolation adds some.
    assert np.abs(shares.sum(axis=1) - 1).max() <= 4 * 2.0**-52
    kept = Preset.from_json(json.loads(json.dumps(Preset(AB, None, (rule,)).to_json()))).rules
    assert np.array_equal(AlphaRules(kept, GROUPS).compute_coefficients(start), shares)
    # As text, a share of two members is that of the first.
    assert np.abs(AlphaRules([parse_rule(str(rule), AB)], GROUPS).compute_coefficients(start) - shares).max() <= 4 * 2.0**-52


@given(st.text(max_size=30))
def test_any_text_is_a_rule_or_an_error_in_a_sentence(text: str) -> None:
    told = "a rule."
    try:
        AlphaRules.parse([text], GROUPS, AB)
    except DniError as error:
        told = str(error)
    assert told.endswith(".")
    assert "\n" not in told


@pytest.mark.parametrize(
    ("rule", "members", "told"),
    [
        ("norm:*", AB, "no rule for alpha; write PATTERN=ALPHA"),
        ("norm:*=1.2", AB, r"The rule for 'norm:\*': The share of 'a' is 1.2, outside 0 to 1"),
        ("norm:*=0.5", ABC, "One number is an alpha for two members"),
        ("norm:*=base*0.5", ABC, "Whose share"),
        ("norm:*=d=base", AB, "Alpha names 'd'; the members are a, b"),
        ("norm:*=base*x", AB, "'x' is not a number"),
        ("norm:*=base*nan", AB, "is not a number"),
        ("norm:*=0.2..", AB, "is not a number"),
        ("body.0.weihgt=0.2", AB, "picks no weight; near it are 'body.0.weight'"),
        ("norn:*=0.2", AB, "there is no role 'norn', did you mean 'norm'"),
        ("linear:*=0.2", AB, "the roles here are conv, norm, weight, bias, statistics"),
        ("body.0.norm.*=0..1", AB, "needs two layers and more"),
    ],
)
def test_what_is_off_is_told(rule: str, members: tuple[str, ...], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        AlphaRules.parse([rule], GROUPS, members)
    assert caught.value.exit_code == 2


def test_rules_of_others_and_a_single_text_are_told() -> None:
    with pytest.raises(UsageError, match="is for the members a, b, c, this family has a, b"):
        AlphaRules.parse([parse_rule("norm:*=a=1", ABC)], GROUPS, AB)
    with pytest.raises(UsageError, match="Rules are a list"):
        AlphaRules.parse("norm:*=1", GROUPS, AB)


def test_what_rules_govern_and_split_norms_are_told() -> None:
    rules = AlphaRules.parse(["norm:*=0.2", "body.0.*=0..1"], GROUPS, AB)
    assert [(told.weights, told.alpha, told.count) for told in rules.describe_rules()] == [
        ("norm:*", "0.2", 6),
        ("body.0.*", "0..1", 4),
    ]
    assert rules.describe_split_norms() == ()
    assert (
        "4 BatchNorms have tensors under different rules, first that of 'body.0.norm.weight'"
        in (AlphaRules.parse(["statistics:*=0.2"], GROUPS, AB).describe_split_norms()[0])
    )


def test_groups_are_read_off_the_graph(tmp_path: Path) -> None:
    bundle = pico_bundle.write(tmp_path / "pico.dni")
    found = {weight.name: (weight.roles, weight.depth) for weight in WeightGroups.from_bundle(Bundle.open(bundle.path)).weights}
    assert found == {
        "conv.weight": (("conv", "weight"), 0),
        "conv.bias": (("conv", "bias"), 0),
        "bn.weight": (("norm", "weight"), 1),
        "bn.bias": (("norm", "bias"), 1),
        "bn.running_mean": (("norm", "statistics"), 1),
        "bn.running_var": (("norm", "statistics"), 1),
        "prelu.weight": (("activation", "weight"), 2),
    }


def test_a_linear_layer_in_two_nodes_is_one_layer_and_movers_are_looked_through() -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["l"]),
        helper.make_node("Mul", ["l", "gain"], ["y"]),
    ]
    names = ("gain", "w", "b")
    values = [numpy_helper.from_array(np.ones((3, 3) if name == "w" else 3, np.float32), name) for name in names]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy"]
    groups = WeightGroups.from_graph(helper.make_model(helper.make_graph(nodes, "linear", ends[:1], ends[1:], values)), names)
    assert groups.weights == (
        GroupedWeight("gain", ("other", "weight"), 1),
        GroupedWeight("w", ("linear", "weight"), 0),
        GroupedWeight("b", ("linear", "bias"), 0),
    )


def test_a_recipe_comes_back_as_it_was_written(tmp_path: Path) -> None:
    rules = tuple(parse_rule(text, ABC) for text in ("norm:*=b=1", "body.*=a=0.1,c=0.9..base..c=base*0.5"))
    recipe = Preset(ABC, Coefficients.parse("a=0.2,b=0.8", ABC), rules)
    recipe.write(tmp_path / "look.json")
    assert Preset.read(tmp_path / "look.json") == recipe
    with pytest.raises(UsageError, match="exists"):
        recipe.write(tmp_path / "look.json")
    assert isinstance(recipe.rules[0], Rule)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ([], 'an object with a list "members"'),
        ({"members": []}, "a list of different names"),
        ({"members": ["a", "a"]}, "a list of different names"),
        ({"members": ["a", "b"], "rule": []}, "a preset has no 'rule'; it has schema, members, alpha, rules"),
        ({"members": ["a", "b"], "schema": 2}, "its schema is 2; this version reads 1"),
        ({"members": ["a", "b"], "alpha": True}, '"alpha" is true'),
        ({"members": ["a", "b"], "alpha": 1.5}, "outside 0 to 1"),
        ({"members": ["a", "b"], "rules": {}}, '"rules" is a list'),
        ({"members": ["a", "b"], "rules": ["norm:*=1"]}, "rule 1 is no object with a pattern"),
        ({"members": ["a", "b"], "rules": [{"weights": "*"}]}, 'rule 1 needs either an "alpha" or a "gradient"'),
        ({"members": ["a", "b"], "rules": [{"weights": "*", "alpha": 1, "beta": 2}]}, "rule 1 has no 'beta'"),
        ({"members": ["a", "b"], "rules": [{"weights": "*", "gradient": [1]}]}, "rule 1 has a gradient that is no list of two"),
        ({"members": ["a", "b"], "rules": [{"weights": "*", "alpha": [0.5, None]}]}, "rule 1's alpha is"),
    ],
)
def test_a_recipe_is_read_strictly(fields: object, told: str, tmp_path: Path) -> None:
    path = tmp_path / "off.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match=told) as caught:
        Preset.read(path)
    assert str(caught.value).startswith(str(path))


def test_coefficients_errors_stay_what_they_are() -> None:
    with pytest.raises(CoefficientsError):
        parse_rule("norm:*=a=0.3,b=0.3", AB)
