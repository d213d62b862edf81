"""Rules for groups of weights that have an alpha of their own, while all others follow the alpha that moves.

    norm:*=0.2                   every normalization layer at alpha 0.2
    body.[0-7].*=psnr=0.8,gan=0.2    by name, as anywhere else
    body.*=0.2..0.8              a gradient over depth, from the first selected layer to the last; more points: 0..1..0
    bias:*=base*0.5              half of the moving alpha; base+0.2 and base-0.2 shift it, base alone follows it again
    body.*=gan=base*0.5          of the member gan; the others share what is left as they did

The paper: "a better scheme considering the property of different kinds of parameters is worthy of exploiting".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.alpha.member_names import require_member
from dni_deploy.blending.weight_groups import WeightGroups
from dni_deploy.errors import CoefficientsError, UsageError, escape_name

RELATIVE_ALPHA_PATTERN = re.compile(r"base(?:\s*([*+-])\s*(\S+))?")
GRADIENT_SEPARATOR = ".."


@dataclass(frozen=True)
class RelativeAlpha:
    """An alpha that follows the base, the alpha of all other weights.

    `factor * base + offset` is the coefficient of `member`, clipped to 0 to 1 except where extrapolation is allowed. The others
    keep their proportions, or get equal coefficients where theirs are all 0.

    Attributes:
        member: Position in family order.
        factor: Of the member's coefficient.
        offset: Added to it.
    """

    member: int
    factor: float = 1.0
    offset: float = 0.0

    def compute_coefficients(self, base: NDArray[np.float64], extrapolate: bool) -> NDArray[np.float64]:
        """Computes the coefficients at a base, both float64 (N,), summing to 1."""
        if self.factor == 1.0 and self.offset == 0.0:
            return base
        coefficient = self.factor * float(base[self.member]) + self.offset
        coefficient = coefficient if extrapolate else min(max(coefficient, 0.0), 1.0)
        others = np.delete(base, self.member)
        total = float(others.sum())
        others = others / total if total else np.full(len(others), 1 / max(len(others), 1))
        return np.insert(others * (1.0 - coefficient), self.member, coefficient)

    def to_text(self, members: Sequence[str]) -> str:
        """Formats it as a user writes it."""
        change = f"*{self.factor!r}" if self.factor != 1.0 else f"{'+' if self.offset > 0 else ''}{self.offset!r}"
        change = change if (self.factor, self.offset) != (1.0, 0.0) else ""
        plain = not change or (len(members) == 2 and self.member == 0)
        return f"base{change}" if plain else f"{members[self.member]}=base{change}"


RuleAlpha = Union[Coefficients, RelativeAlpha]


@dataclass(frozen=True)
class Rule:
    """An alpha for the weights that a pattern selects, or a gradient over their depth.

    Attributes:
        weights: The pattern, as `WeightGroups.select` takes it.
        alphas: One for all of them, or two points and more of a gradient.
        members: Of the family, in its order.
    """

    weights: str
    alphas: tuple[RuleAlpha, ...]
    members: tuple[str, ...]

    @property
    def alpha_text(self) -> str:
        """The alphas as a user writes them."""
        return GRADIENT_SEPARATOR.join(
            _format_coefficients(alpha) if isinstance(alpha, Coefficients) else alpha.to_text(self.members)
            for alpha in self.alphas
        )

    def __str__(self) -> str:
        return f"{self.weights}={self.alpha_text}"

    def to_json(self) -> dict[str, Any]:
        """Returns the rule as a preset has it."""
        alphas = [
            dict(zip(alpha.members, alpha.values, strict=True))
            if isinstance(alpha, Coefficients)
            else alpha.to_text(self.members)
            for alpha in self.alphas
        ]
        return {"weights": self.weights, **({"alpha": alphas[0]} if len(alphas) == 1 else {"gradient": alphas})}


def parse_rule(text: str, members: Sequence[str], *, extrapolate: bool = False) -> Rule:
    """Parses PATTERN=ALPHA, as on a command line.

    Args:
        text: The rule.
        members: Of the family, in its order.
        extrapolate: Whether coefficients outside 0 to 1 are allowed.

    Raises:
        UsageError: There is no pattern or no alpha.
        CoefficientsError: An alpha is none for these members.
    """
    pattern, equals, alpha = text.partition("=")
    if not equals or not pattern.strip() or not alpha.strip():
        raise UsageError(f"{escape_name(repr(text))} is no rule for alpha; write PATTERN=ALPHA, such as 'norm:*=0.2'.")
    return make_rule(pattern.strip(), alpha.split(GRADIENT_SEPARATOR), members, extrapolate=extrapolate)


def make_rule(pattern: str, alphas: Sequence[Alpha], members: Sequence[str], *, extrapolate: bool = False) -> Rule:
    """Makes a rule of its parts.

    Args:
        pattern: As `WeightGroups.select` takes it.
        alphas: One, or the points of a gradient.
        members: Of the family, in its order.
        extrapolate: Whether coefficients outside 0 to 1 are allowed.

    Raises:
        UsageError: An alpha is of another type.
        CoefficientsError: An alpha is none for these members.
    """
    names = tuple(members)
    try:
        return Rule(pattern, tuple(_parse_alpha(alpha, names, extrapolate) for alpha in alphas), names)
    except CoefficientsError as error:
        raise CoefficientsError(f"The rule for {escape_name(repr(pattern))}: {error}") from None


def _parse_alpha(alpha: Alpha, members: tuple[str, ...], extrapolate: bool) -> RuleAlpha:
    if isinstance(alpha, str):
        name, equals, last = alpha.rpartition("=")
        relative = RELATIVE_ALPHA_PATTERN.fullmatch(last.strip())
        if relative is not None:
            return _parse_relative(relative, name.strip() if equals else None, members)
    return Coefficients.parse(alpha, members, extrapolate=extrapolate)


def _parse_relative(match: re.Match[str], name: str | None, members: tuple[str, ...]) -> RelativeAlpha:
    sign, number = match.groups()
    if name is not None:
        name = require_member(name, members)
    if sign is None:
        return RelativeAlpha(0)
    if name is None and len(members) != 2:
        raise CoefficientsError(
            f"Whose share? Write {escape_name(members[0])}=base{sign}{escape_name(number, 20)}, or another member's."
        )
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise CoefficientsError(f"{escape_name(repr(number), 40)} is not a number; write base*0.5, base+0.2 or base-0.2.")
    member = 0 if name is None else members.index(name)
    return (
        RelativeAlpha(member, factor=value) if sign == "*" else RelativeAlpha(member, offset=value if sign == "+" else -value)
    )


def _format_coefficients(coefficients: Coefficients) -> str:
    if len(coefficients.members) == 2:
        return repr(coefficients.values[0]).removesuffix(".0")
    return ",".join(f"{name}={share!r}" for name, share in zip(coefficients.members, coefficients.values, strict=True))


@dataclass(frozen=True)
class AppliedRule:
    """A rule for reports, and how many weights have their alpha from it (later rules win)."""

    weights: str
    alpha: str
    count: int


class AlphaRules:
    """Rules bound to the weights of one bundle, which give the coefficients of each weight at every change of the base.

    Thread safety: they do not change; any thread may use them.
    """

    def __init__(self, rules: Sequence[Rule], groups: WeightGroups, *, extrapolate: bool = False) -> None:
        """Binds rules to weights.

        Args:
            rules: Of the same members; a later one wins where two select one weight.
            groups: The weights of the bundle.
            extrapolate: Whether coefficients outside 0 to 1 are allowed.

        Raises:
            UsageError: A pattern selects nothing, or a gradient goes over a single layer.
        """
        self.rules = tuple(rules)
        self.groups = groups
        self._extrapolate = extrapolate
        self._selected = [groups.select(rule.weights) for rule in rules]
        self._gradient_weights = [
            _compute_gradient_weights(rule, np.array([groups.weights[index].depth for index in selected]))
            if len(rule.alphas) > 1
            else None
            for rule, selected in zip(self.rules, self._selected, strict=True)
        ]
        self._rule_by_weight = np.full(len(groups.weights), -1)
        for number, selected in enumerate(self._selected):
            self._rule_by_weight[selected] = number

    @classmethod
    def parse(
        cls, rules: Sequence[str | Rule], groups: WeightGroups, members: Sequence[str], *, extrapolate: bool = False
    ) -> AlphaRules:
        """Parses rules and binds them.

        Args:
            rules: Texts as `parse_rule` takes them, and rules.
            groups: The weights of the bundle.
            members: Of the family, in its order.
            extrapolate: Whether coefficients outside 0 to 1 are allowed.

        Raises:
            UsageError: A rule is none, is for other members, or cannot be bound.
            CoefficientsError: An alpha is none for these members.
        """
        if isinstance(rules, str):
            raise UsageError(f"Rules are a list of them; got one text, {escape_name(repr(rules))}.")
        parsed = [rule if isinstance(rule, Rule) else parse_rule(rule, members, extrapolate=extrapolate) for rule in rules]
        for rule in parsed:
            if rule.members != tuple(members):
                raise UsageError(
                    f"The rule for {escape_name(repr(rule.weights))} is for the members "
                    f"{', '.join(map(escape_name, rule.members))}, this family has {', '.join(map(escape_name, members))}."
                )
        return cls(parsed, groups, extrapolate=extrapolate)

    def compute_coefficients(self, base: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes the coefficients of every weight.

        Args:
            base: float64 (N,), the alpha of all other weights.

        Returns:
            float64 (W, N), fresh, in the order of the bundle's `weight_names`.
        """
        rows = np.tile(base, (len(self._rule_by_weight), 1))
        for rule, selected, weights in zip(self.rules, self._selected, self._gradient_weights, strict=True):
            points = [
                alpha.to_array() if isinstance(alpha, Coefficients) else alpha.compute_coefficients(base, self._extrapolate)
                for alpha in rule.alphas
            ]
            rows[selected] = points[0] if weights is None else weights @ np.stack(points)
        return rows

    def describe_rules(self) -> tuple[AppliedRule, ...]:
        """Lists the rules with the number of weights that each governs, for reports."""
        return tuple(
            AppliedRule(rule.weights, rule.alpha_text, int((self._rule_by_weight == number).sum()))
            for number, rule in enumerate(self.rules)
        )

    def describe_split_norms(self) -> tuple[str, ...]:
        """Warns of BatchNorms whose tensors are under different rules; they are blended, then folded, all the same.

        Returns:
            One sentence, or none.
        """
        layers: dict[int, list[int]] = {}
        for index, weight in enumerate(self.groups.weights):
            if weight.roles[0] == "norm":
                layers.setdefault(weight.depth, []).append(index)
        split = [
            tensors
            for tensors in layers.values()
            if any(self.groups.weights[index].roles[1] == "statistics" for index in tensors)
            and len(set(self._rule_by_weight[tensors].tolist())) > 1
        ]
        if not split:
            return ()
        first = self.groups.weights[split[0][0]].name
        return (
            f"{len(split)} BatchNorms have tensors under different rules, first that of {escape_name(repr(first))}: their "
            "running statistics then are of another blend than their scale or shift.",
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AlphaRules) and self._key() == other._key()

    def _key(self) -> tuple[object, ...]:
        return self.rules, self._extrapolate, self.groups

    def __hash__(self) -> int:
        return hash(self.rules)


def _compute_gradient_weights(rule: Rule, depths: NDArray[np.int64]) -> NDArray[np.float64]:
    """How much of each of K points each of M weights has: float64 (M, K); points lie evenly over the selected layers."""
    layers, order = np.unique(depths, return_inverse=True)
    if len(layers) < 2:
        raise UsageError(
            f"The gradient of {escape_name(repr(rule.weights))} needs two layers and more to go over; "
            "it picks weights of one layer."
        )
    points = np.arange(len(rule.alphas))
    positions = order.reshape(-1) * points[-1] / (len(layers) - 1)
    return np.stack([np.interp(positions, points, row) for row in np.eye(len(points))], axis=1)


Rules = Union[AlphaRules, Sequence[Union[str, Rule]]]
"""What a user may pass: texts as on a command line, rules such as a preset's, or rules that are bound to the bundle."""
