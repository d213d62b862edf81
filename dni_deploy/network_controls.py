"""Controls: inputs of a network beside the image, such as a noise level, as numbers that a running engine changes.

A control is a tensor of one number among the weights. Every member has the same number there, its default, so that a blend keeps
it. Another value is this number times a coefficient of its own, as a rule for a group of weights gives one: an engine changes it in
the same refit as alpha, and knows of nothing new.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dni_deploy.errors import BundleError, UsageError, escape_name

CONTROL_PREFIX = "controls."
MAX_CONTROLS = 64
CONTROL_NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,40}(?:\.(?:0|[1-9][0-9]?))?", re.ASCII)
DECLARATION_PATTERN = re.compile(
    r"(?P<name>[^=:@]+)(?::(?P<count>\d{1,2}))?=(?P<low>.+?)\.\.(?P<high>[^@]+)(?:@(?P<default>.+))?"
)
NUMBER_PATTERN = re.compile(r"\s*([^/]+?)\s*(?:/\s*([^/]+?)\s*)?")


@dataclass(frozen=True)
class Control:
    """A number that the network takes beside the image.

    Attributes:
        name: Name of the argument of the network's forward; "NAME.INDEX" is one number of an argument that has several.
        low: Its smallest value.
        high: Its largest value.
        default: Its value where nothing else is set.
    """

    name: str
    low: float
    high: float
    default: float

    def __post_init__(self) -> None:
        """Raises UsageError where the name is none, or the default is not within the range."""
        if CONTROL_NAME_PATTERN.fullmatch(self.name) is None:
            raise UsageError(f"{escape_name(self.name, 80)!r} is no name for a control: letters, digits and underscores.")
        numbers = (self.low, self.high, self.default)
        if not all(math.isfinite(number) for number in numbers) or not self.low < self.high:
            raise UsageError(f"The control {self.name} needs a range that goes up; got {self.low:g}..{self.high:g}.")
        if not self.low <= self.default <= self.high:
            raise UsageError(
                f"The default of the control {self.name} is {self.default:g}, outside its range {self.low:g}..{self.high:g}."
            )

    @property
    def weight_name(self) -> str:
        """Name of its tensor, (1,), in the graph and in every member."""
        return CONTROL_PREFIX + self.name

    @property
    def argument(self) -> str:
        """Name of the network's argument."""
        return self.name.partition(".")[0]

    @property
    def offset(self) -> float:
        """What the stored number has more than the value: a default of 0 times a coefficient would always be 0."""
        return 1.0 if self.default == 0 else 0.0

    @property
    def stored(self) -> float:
        """The number in every member's tensor."""
        return self.default + self.offset

    def compute_coefficient(self, value: float) -> float:
        """Computes the coefficient at which the stored number becomes that of a value."""
        return (value + self.offset) / self.stored

    def check_value(self, value: object) -> float:
        """Returns a value as a float.

        Raises:
            UsageError: It is no number, or outside the range.
        """
        number = parse_number(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise UsageError(
                f"The control {self.name} is a number from {self.low:g} to {self.high:g}; got {escape_name(value, 40)!r}."
            )
        if not self.low <= number <= self.high:
            raise UsageError(f"The control {self.name} is {number:g}, outside its range {self.low:g}..{self.high:g}.")
        return float(number)

    @classmethod
    def from_json(cls, fields: object) -> Control:
        """Reads a control of a manifest.

        Raises:
            BundleError: A field is unknown, missing or of the wrong type.
        """
        names = {"name", "low", "high", "default"}
        if not isinstance(fields, dict) or set(fields) != names or not isinstance(fields["name"], str):
            raise BundleError("The manifest's 'signature' has a control without the fields of this version.")
        numbers = [fields[name] for name in ("low", "high", "default")]
        if not all(type(number) in (int, float) for number in numbers):
            raise BundleError("The manifest's 'signature' has a control with a value that is no number.")
        try:
            return cls(fields["name"], *map(float, numbers))
        except (UsageError, OverflowError) as error:
            raise BundleError(f"The manifest's 'signature' has a control that cannot be used: {error}") from None


def parse_number(text: str) -> float:
    """Parses a number or a fraction such as "25/255"; NaN for anything else."""
    match = NUMBER_PATTERN.fullmatch(text)
    try:
        return float(match[1]) / float(match[2] or 1) if match else math.nan
    except (ValueError, ZeroDivisionError):
        return math.nan


def parse_declarations(texts: Sequence[str]) -> tuple[Control, ...]:
    """Parses what declares the controls of a network.

        sigma=0..50/255@15/255      one number: range and default; without @ the default is the low end
        label:5=0..1@0              an argument of five numbers, label.0 to label.4
        label.0=0..1@1              one of them; a later declaration wins

    Args:
        texts: One declaration each.

    Raises:
        UsageError: A text declares no control, or there are too many.
    """
    controls: dict[str, Control] = {}
    for text in texts:
        match = DECLARATION_PATTERN.fullmatch(text.strip())
        numbers = [] if match is None else [parse_number(match[name] or match["low"]) for name in ("low", "high", "default")]
        if match is None or any(math.isnan(number) for number in numbers):
            raise UsageError(
                f"{escape_name(text, 80)!r} declares no control; write NAME=LOW..HIGH@DEFAULT, such as sigma=0..50/255@15/255."
            )
        name, count = match["name"].strip(), match["count"]
        names = [name] if count is None else [f"{name}.{index}" for index in range(int(count))]
        controls |= {each: Control(each, *numbers) for each in names}
    check_controls(tuple(controls.values()))
    return tuple(controls.values())


def check_controls(controls: Sequence[Control]) -> None:
    """Checks that controls go together.

    Raises:
        UsageError: There are too many, a name is given twice, or the numbers of one argument are not 0, 1, 2 and so on.
    """
    if len(controls) > MAX_CONTROLS:
        raise UsageError(f"A network has at most {MAX_CONTROLS} controls; got {len(controls)}.")
    for argument, names in group_by_argument(controls).items():
        if names != [argument] and sorted(names) != sorted(f"{argument}.{index}" for index in range(len(names))):
            raise UsageError(
                f"The controls {', '.join(names)} are not the numbers of one argument: {argument}, or {argument}.0 and so on."
            )


def group_by_argument(controls: Sequence[Control]) -> dict[str, list[str]]:
    """Groups the names of controls by their argument: arguments in the order of the controls, names by their index."""
    groups: dict[str, list[str]] = {}
    for control in controls:
        groups.setdefault(control.argument, []).append(control.name)
    return {argument: sorted(names, key=lambda name: int(name.partition(".")[2] or 0)) for argument, names in groups.items()}


def parse_values(texts: Sequence[str]) -> dict[str, str]:
    """Parses NAME=VALUE, as on a command line, into values by name; the network's controls check them.

    Raises:
        UsageError: A text has no name or no value.
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise UsageError(f"{escape_name(text, 80)!r} sets no control; write NAME=VALUE, such as sigma=25/255.")
        values[name.strip()] = value.strip()
    return values


def drop_control_tensors(tensors: Mapping[str, Any], controls: Sequence[Control]) -> dict[str, Any]:
    """Returns a bundle's tensors without those of the controls, which are no part of a checkpoint."""
    names = {control.weight_name for control in controls}
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def find_control(controls: Sequence[Control], name: object) -> Control:
    """Finds a control by its name.

    Raises:
        UsageError: There is none of that name.
    """
    for control in controls:
        if control.name == name:
            return control
    known = ", ".join(control.name for control in controls)
    raise UsageError(
        f"There is no control {escape_name(name, 40)!r}; "
        + (f"this network has {known}." if known else "this network has none.")
    )


ControlValues = Mapping[str, Any]
"""What a user may pass: numbers, or texts such as "25/255", by the controls' names."""


def check_values(controls: Sequence[Control], values: ControlValues) -> dict[str, float]:
    """Returns the values of some controls as floats, by name.

    Raises:
        UsageError: A name is no control's, or a value is no number in its range.
    """
    return {name: find_control(controls, name).check_value(value) for name, value in values.items()}
