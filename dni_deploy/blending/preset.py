"""Presets: an alpha and rules for groups of weights, kept in a JSON file.

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
    """An alpha and rules for groups of weights.

    Attributes:
        members: Those that it was written for, in family order.
        alpha: Of all other weights; None where the preset leaves that open.
        rules: In order; a later one wins.
    """

    members: tuple[str, ...]
    alpha: Coefficients | None
    rules: tuple[Rule, ...]

    @classmethod
    def from_json(cls, fields: object, *, extrapolate: bool = False) -> Preset:
        """Parses the content of a file.

        Args:
            fields: The decoded JSON.
            extrapolate: Whether coefficients outside 0 to 1 are allowed.

        Raises:
            UsageError: A field is unknown or of another type.
            CoefficientsError: An alpha is none for these members.
        """
        if not isinstance(fields, dict) or not isinstance(fields.get("members"), list):
            raise UsageError('a preset is an object with a list "members" and a list "rules".')
        _check_fields(fields, PRESET_FIELDS, "a preset")
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
        """Reads a JSON file.

        Raises:
            InputError: It cannot be read, or is no preset.
            LimitError: It is above 1 MiB.
        """
        fields = read_json(path, "preset", 1 << 20)
        with name_file_in_errors(path):
            return cls.from_json(fields, extrapolate=extrapolate)

    def to_json(self) -> dict[str, Any]:
        """Returns the content of a file as `from_json` parses it."""
        alpha = None if self.alpha is None else dict(zip(self.members, self.alpha.values, strict=True))
        return {
            "schema": PRESET_SCHEMA_VERSION,
            "members": list(self.members),
            **({} if alpha is None else {"alpha": alpha}),
            "rules": [rule.to_json() for rule in self.rules],
        }

    def write(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Writes a JSON file.

        Raises:
            UsageError: It exists and `force` is False.
            LimitError: There is no room on the disk.
            InputError: The folder cannot be written.
        """
        write_bytes_atomically(path, (json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n").encode(), force=force)


def _parse_rule(fields: object, number: int, members: Sequence[str], extrapolate: bool) -> Rule:
    context = f"rule {number}"
    if not isinstance(fields, dict) or not isinstance(fields.get("weights"), str) or not fields["weights"]:
        raise UsageError(f'{context} is no object with a pattern "weights", such as {{"weights": "norm:*", "alpha": 0.2}}.')
    _check_fields(fields, ("weights", "alpha", "gradient"), context)
    if ("alpha" in fields) == ("gradient" in fields):
        raise UsageError(f'{context} needs either an "alpha" or a "gradient".')
    points = fields.get("gradient", [fields.get("alpha")])
    if not isinstance(points, list) or ("gradient" in fields and len(points) < 2):
        raise UsageError(f"{context} has a gradient that is no list of two alphas and more.")
    return make_rule(
        fields["weights"], [_validate_alpha(point, f"{context}'s alpha") for point in points], members, extrapolate=extrapolate
    )


def _validate_alpha(value: object, context: str) -> Any:
    """A number, a text, or coefficients by name; true and false are none."""
    numbers = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers) or isinstance(value, str):
        return value
    raise UsageError(f"{context} is {escape_name(json.dumps(value), 40)}; it is a number, a text, or numbers by name.")


def _check_fields(fields: dict[str, Any], allowed: Sequence[str], context: str) -> None:
    unknown = [name for name in fields if name not in allowed]
    if unknown:
        raise UsageError(f"{context} has no {escape_name(repr(unknown[0]), 80)}; it has {', '.join(allowed)}.")
