"""Recipe: an alpha and rules for groups of weights, kept in a file.

{"schema": 1, "members": ["psnr", "gan"], "alpha": {"psnr": 0.35, "gan": 0.65},
 "rules": [{"weights": "norm:*", "alpha": 0.2}, {"weights": "body.*", "gradient": [0.2, "base", {"gan": 1}]}]}
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.blending.group_rules import Rule, make_rule
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.atomic_write import write_bytes_atomically
from dni_deploy.utils.text_file import name_file_in_errors, read_json

PRESET_SCHEMA_VERSION = 1
PRESET_FIELDS = ("schema", "members", "alpha", "rules")


@dataclass(frozen=True)
class Preset:
    """members: those that it was written for, in family order; alpha: the base, or None where it leaves that open; rules: in order."""

    members: tuple[str, ...]
    alpha: Coefficients | None
    rules: tuple[Rule, ...]

    @classmethod
    def from_json(cls, fields: object, *, extrapolate: bool = False) -> Preset:
        """Raises UsageError: what is unknown, of another type, or no alpha for these members."""
        if not isinstance(fields, dict) or not isinstance(fields.get("members"), list):
            raise UsageError('a recipe is an object with a list "members" and a list "rules".')
        _check_fields(fields, PRESET_FIELDS, "a recipe")
        if fields.get("schema", PRESET_SCHEMA_VERSION) != PRESET_SCHEMA_VERSION:
            raise UsageError(f"its schema is {escape_name(fields['schema'], 40)}; this version reads {PRESET_SCHEMA_VERSION}.")
        names = fields["members"]
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise UsageError('"members" is a list of different names.')
        rules = fields.get("rules", [])
        if not isinstance(rules, list):
            raise UsageError('"rules" is a list of objects, such as {"weights": "norm:*", "alpha": 0.2}.')
        alpha = fields.get("alpha")
        return cls(
            tuple(names),
            None if alpha is None else Coefficients.parse(_validate_alpha(alpha, '"alpha"'), names, extrapolate=extrapolate),
            tuple(_parse_rule(rule, number, names, extrapolate) for number, rule in enumerate(rules, 1)),
        )

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, extrapolate: bool = False) -> Preset:
        """A JSON file. Raises InputError, LimitError."""
        fields = read_json(path, "preset", 1 << 20)
        with name_file_in_errors(path):
            return cls.from_json(fields, extrapolate=extrapolate)

    def to_json(self) -> dict[str, Any]:
        """As `read` takes it."""
        alpha = None if self.alpha is None else dict(zip(self.members, self.alpha.values, strict=True))
        return {
            "schema": PRESET_SCHEMA_VERSION,
            "members": list(self.members),
            **({} if alpha is None else {"alpha": alpha}),
            "rules": [rule.to_json() for rule in self.rules],
        }

    def write(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Raises UsageError (exists), LimitError, InputError."""
        write_bytes_atomically(path, (json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n").encode(), force=force)


def _parse_rule(fields: object, number: int, members: Sequence[str], extrapolate: bool) -> Rule:
    where = f"rule {number}"
    if not isinstance(fields, dict) or not isinstance(fields.get("weights"), str) or not fields["weights"]:
        raise UsageError(f'{where} is no object with a pattern "weights", such as {{"weights": "norm:*", "alpha": 0.2}}.')
    _check_fields(fields, ("weights", "alpha", "gradient"), where)
    if ("alpha" in fields) == ("gradient" in fields):
        raise UsageError(f'{where} needs either an "alpha" or a "gradient".')
    knots = fields.get("gradient", [fields.get("alpha")])
    if not isinstance(knots, list) or ("gradient" in fields and len(knots) < 2):
        raise UsageError(f"{where} has a gradient that is no list of two alphas and more.")
    return make_rule(
        fields["weights"], [_validate_alpha(knot, f"{where}'s alpha") for knot in knots], members, extrapolate=extrapolate
    )


def _validate_alpha(value: object, where: str) -> Any:
    """A number, a text, or shares by name; true and false are none."""
    numbers = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers) or isinstance(value, str):
        return value
    raise UsageError(f"{where} is {escape_name(json.dumps(value), 40)}; it is a number, a text, or numbers by name.")


def _check_fields(fields: dict[str, Any], known: Sequence[str], what: str) -> None:
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise UsageError(f"{what} has no {escape_name(repr(unknown[0]), 80)}; it has {', '.join(known)}.")
