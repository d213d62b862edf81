"""Presets: what is written can be read again, and everything else is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.blending.group_rules import Rule, parse_rule
from dni_deploy.blending.preset import Preset
from dni_deploy.errors import InputError, UsageError

ABC = ("a", "b", "c")


def test_a_preset_round_trips(tmp_path: Path) -> None:
    rules = tuple(parse_rule(text, ABC) for text in ("norm:*=b=1", "body.*=a=0.1,c=0.9..base..c=base*0.5"))
    preset = Preset(ABC, Coefficients.parse("a=0.2,b=0.8", ABC), rules)
    preset.write(tmp_path / "look.json")
    assert Preset.read(tmp_path / "look.json") == preset
    with pytest.raises(UsageError, match="exists"):
        preset.write(tmp_path / "look.json")
    assert isinstance(preset.rules[0], Rule)


@pytest.mark.parametrize(
    ("fields", "message"),
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
def test_a_preset_is_read_strictly(fields: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "off.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match=message) as caught:
        Preset.read(path)
    assert str(caught.value).startswith(str(path))
