"""What OSC addresses stand for: patterns as OSC defines them, and the addresses of other programs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dni_deploy.alpha.member_names import require_member
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.network_controls import Control, find_control

PATTERN_CHARACTERS = frozenset("?*[]{}")
MAX_WILDCARDS = 4
"""Most * and // of a pattern: each one more multiplies the time that a comparison may take."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_MAPPING_PATTERN = re.compile(
    rf"(?P<address>/[^=\s]+)=(?P<kind>alpha|shares|plane|control|x|y)(?::(?P<name>.+?))?(?:\[(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})\])?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True)
class OscTarget:
    """What an address sets.

    Attributes:
        kind: "alpha" (one number: a member's share; several: all shares), "shares", "plane" (two numbers), "x", "y" or
            "control" (a number that the network takes beside the image).
        member: Whose share; None: the first member's, of two.
        value_range: The numbers that stand for 0 and 1, or for the ends of the control's range; None: 0 and 1, and what lies far
            outside is refused; the control's own numbers.
        control: Which control.
    """

    kind: str
    member: str | None = None
    value_range: tuple[float, float] | None = None
    control: Control | None = None

    def sets_all(self, count: int) -> bool:
        """Whether a message of so many numbers sets all shares."""
        return self.kind == "shares" or (self.kind == "alpha" and self.member is None and count > 1)

    @property
    def argument_count(self) -> int:
        """How many numbers a message has that does not set all shares."""
        return 2 if self.kind == "plane" else 1


def parse_osc_mapping(text: str, members: Sequence[str], controls: Sequence[Control] = ()) -> tuple[str, OscTarget]:
    """Parses what an address of another program stands for.

    Args:
        text: "/1/fader1=alpha", "/1/fader1=alpha:gan[0..127]", "/multifader=shares", "/1/xy1=plane", "/pad/x=x[-1..1]" or
            "/1/fader2=control:sigma[0..127]".
        members: Names of the family's members.
        controls: What the network takes beside the image.

    Returns:
        The address, and what it sets.

    Raises:
        UsageError: The text is none of these, or names no member.
    """
    match = _MAPPING_PATTERN.fullmatch(text.strip())
    quoted = escape_name(text, 80)
    kind = "" if match is None else match["kind"].lower()
    if match is None or (match["name"] and kind not in ("alpha", "control")) or (kind == "control" and not match["name"]):
        raise UsageError(
            f"{quoted!r} is not an OSC mapping; write /ADDRESS=alpha, alpha:MEMBER, shares, plane, x, y or control:NAME, "
            "and a range behind it where numbers are not from 0 to 1: /1/fader1=alpha:gan[0..127]."
        )
    if PATTERN_CHARACTERS & set(match["address"]):
        raise UsageError(f"{quoted!r}: an address has none of the characters ? * [ ] {{ }}; only messages have patterns.")
    control = find_control(controls, match["name"]) if kind == "control" else None
    member = match["name"] if kind == "alpha" else None
    if member is not None:
        member = require_member(member, members)
    value_range = None if match["low"] is None else (float(match["low"]), float(match["high"]))
    if value_range is not None and value_range[0] == value_range[1]:
        raise UsageError(f"{quoted!r}: both ends of the range are {value_range[0]:g}.")
    return strip_trailing_slash(match["address"]), OscTarget(kind, member, value_range, control)


def list_own_addresses(prefix: str, members: Sequence[str], controls: Sequence[Control] = ()) -> dict[str, OscTarget]:
    """Returns the addresses that a family has without any mapping."""
    return {
        f"{prefix}alpha": OscTarget("alpha"),
        **{f"{prefix}alpha/{member}": OscTarget("alpha", member) for member in members},
        f"{prefix}shares": OscTarget("shares"),
        f"{prefix}plane": OscTarget("plane"),
        **{f"{prefix}control/{control.name}": OscTarget("control", control=control) for control in controls},
    }


def strip_trailing_slash(address: str) -> str:
    """Returns the address without a slash at its end."""
    return address[:-1] if address.endswith("/") and not address.endswith("//") else address


def match_addresses(pattern: str, addresses: Sequence[str]) -> list[str]:
    """Finds the addresses that a message is for.

    Args:
        pattern: An address, or an OSC address pattern: ? * [a-z] [!a] {one,two}, and // for any number of parts.
        addresses: Those that there are.

    Returns:
        The address itself where it exists, else all that the pattern matches, in their order.

    Raises:
        UsageError: The pattern is malformed, or has too many wildcards.

    Source: OSC 1.0 specification, "OSC Message Dispatching and Pattern Matching"; // is of OSC 1.1.
    """
    pattern = strip_trailing_slash(pattern)
    if pattern in addresses:
        return [pattern]
    if not PATTERN_CHARACTERS & set(pattern) and "//" not in pattern:
        return []
    expression = re.compile(_to_expression(pattern))
    return [address for address in addresses if expression.fullmatch(address)]


def _to_expression(pattern: str) -> str:
    """Translates an OSC address pattern to a regular expression."""
    if pattern.count("*") + pattern.count("//") > MAX_WILDCARDS:
        raise UsageError(f"The OSC pattern {escape_name(pattern, 80)} has more than {MAX_WILDCARDS} wildcards.")
    tokens = re.findall(r"//+|\[[^\[\]]*\]|\{[^{}]*\}|.", pattern, re.DOTALL)
    return "".join(_translate_token(token, pattern) for token in tokens)


def _translate_token(token: str, pattern: str) -> str:
    if token.startswith("//"):
        return "/(?:.*/)?"
    if token == "?":
        return "[^/]"
    if token == "*":
        return "[^/]*"
    if len(token) > 2 and token[0] == "[":
        is_negated, body = token[1] == "!", token[1:-1].removeprefix("!")
        escaped = re.sub(r"--+", r"\\-", re.sub(r"[\\^\[\]&~|]", r"\\\g<0>", body))
        try:
            re.compile(f"[{escaped}]")
        except re.error:
            raise UsageError(f"The OSC pattern {escape_name(pattern, 80)} has a set that is none.") from None
        return f"(?!/)[{'^' * is_negated}{escaped}]"
    if token[0] == "{" and token[-1] == "}":
        return f"(?:{'|'.join(map(re.escape, token[1:-1].split(',')))})"
    if token in PATTERN_CHARACTERS or token == "[]":
        raise UsageError(f"The OSC pattern {escape_name(pattern, 80)} has a bracket that is not closed, or empty.")
    return re.escape(token)
