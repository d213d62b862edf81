"""Controls: declarations, values, coefficients and what a manifest holds."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.blending.control_settings import ControlSettings
from dni_deploy.errors import BundleError, UsageError
from dni_deploy.network_controls import Control, parse_declarations, parse_values
from dni_deploy.signature import Signature


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sigma=0..50/255@15/255", [Control("sigma", 0, 50 / 255, 15 / 255)]),
        ("sigma=-1..1", [Control("sigma", -1, 1, -1)]),
        ("c:2=0..1@0.5", [Control("c.0", 0, 1, 0.5), Control("c.1", 0, 1, 0.5)]),
        (" t = 1e-3 .. 1e3 @ 2 ", [Control("t", 1e-3, 1e3, 2)]),
    ],
)
def test_declaration(text, expected):
    assert list(parse_declarations([text])) == expected


def test_later_declaration_wins():
    assert [control.default for control in parse_declarations(["c:3=0..1@0", "c.1=0..1@1"])] == [0, 1, 0]


@pytest.mark.parametrize(
    "text",
    [
        "sigma",
        "sigma=1",
        "=0..1",
        "sigma=0..x",
        "sigma=1..0",
        "sigma=0..1@2",
        "sigma=nan..1",
        "a b=0..1",
        "sigma=0..1/0",
        "c:99=0..1",
    ],
)
def test_text_that_declares_nothing_is_refused(text):
    with pytest.raises(UsageError):
        parse_declarations([text])


def test_numbers_of_one_argument_have_no_gap():
    with pytest.raises(UsageError, match=r"c\.0, c\.2 are not the numbers of one argument"):
        parse_declarations(["c.0=0..1", "c.2=0..1"])


def test_values_of_a_command_line():
    settings = ControlSettings.make_default(
        parse_declarations(["sigma=0..50/255@15/255", "t=0..9@4"]), ["w", "controls.sigma", "controls.t"]
    )
    assert settings.change(parse_values(["sigma=25/255"])).to_dict() == {"sigma": 25 / 255, "t": 4}
    for texts in (["sigma"], ["sigma="], ["=1"]):
        with pytest.raises(UsageError, match="sets no control"):
            parse_values(texts)
    for values in ({"sigma": 0.5}, {"sigma": "x"}, {"sigma": True}, {"sigma": float("nan")}, {"gamma": 0.1}):
        with pytest.raises(UsageError, match="control"):
            settings.change(values)


@pytest.mark.parametrize("default", [0.0, 0.1])
def test_coefficients_make_the_stored_number_that_of_the_value(default):
    control = Control("sigma", 0, 1, default)
    settings = ControlSettings.make_default([control], ["w", control.weight_name])
    base = np.array([0.3, 0.7])
    assert settings.apply(base) is base
    rows = settings.change({"sigma": 0.25}).apply(base)
    assert rows[0].tolist() == [0.3, 0.7]
    assert rows[1] @ np.full(2, control.stored) - control.offset == pytest.approx(0.25, abs=1e-15)
    zero = settings.change({"sigma": 0}).apply(by_rules := np.array([[0.1, 0.9], [0.5, 0.5]]))
    assert zero[1] @ np.full(2, control.stored) == control.offset
    assert zero.any(axis=1).all()  # engines take no row of zeros
    assert settings.change({"sigma": 0.25}).apply(by_rules)[0].tolist() == [0.1, 0.9]
    assert by_rules[1].tolist() == [0.5, 0.5]


def test_signature_keeps_controls_and_omits_none():
    signature = Signature(controls=parse_declarations(["sigma=0..1@0.5"]))
    assert Signature.from_json(signature.to_json()) == signature
    assert "controls" not in Signature().to_json()
    assert signature.describe().endswith("sigma 0..1")


@pytest.mark.parametrize(
    "rows",
    [
        {"sigma": 1},
        [{"name": "sigma", "low": 0, "high": 1}],
        [{"name": "../x", "low": 0, "high": 1, "default": 0}],
        [{"name": "s", "low": 0, "high": "1", "default": 0}],
        [{"name": "s", "low": 0, "high": 1, "default": 2}],
        [{"name": "s.1", "low": 0, "high": 1, "default": 0}],
        [{"name": "s", "low": 0, "high": 10**400, "default": 0}],
    ],
)
def test_damaged_controls_of_a_manifest_are_refused(rows):
    with pytest.raises(BundleError, match="signature"):
        Signature.from_json({**Signature().to_json(), "controls": rows})
