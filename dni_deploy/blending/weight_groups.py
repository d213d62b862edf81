"""The weights of a network by name, role and depth, and patterns that select some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from dni_deploy.errors import UsageError, escape_name

LAYER_ROLE_BY_OPERATOR = {
    "Conv": "conv",
    "ConvTranspose": "transposed",
    "Gemm": "linear",
    "MatMul": "linear",
    "BatchNormalization": "norm",
    "InstanceNormalization": "norm",
    "LayerNormalization": "norm",
    "GroupNormalization": "norm",
    "PRelu": "activation",
    "Gather": "embedding",
}
"""A weight's first role: what kind of layer uses it, by the node that reads it. Whatever else reads it is "other"."""

PART_ROLES = ("weight", "bias", "statistics")
"""Its second role: what it is in that layer. Statistics are BatchNorm's running mean and variance."""

WEIGHT_ROLES = (*dict.fromkeys(LAYER_ROLE_BY_OPERATOR.values()), "other", *PART_ROLES)
WEIGHT_FORWARDING_OPERATORS = frozenset(("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose"))
"""These pass a weight on as it is."""


@dataclass(frozen=True)
class GroupedWeight:
    """A weight and where it stands in the network.

    Attributes:
        name: Of the initializer.
        roles: Its layer's (LAYER_ROLE_BY_OPERATOR or "other") and its own (PART_ROLES).
        depth: Number of the layer that uses it first, counted from the input, from 0.
    """

    name: str
    roles: tuple[str, str]
    depth: int


@dataclass(frozen=True)
class WeightGroups:
    """Every blended weight of a bundle, in the order of its `weight_names`.

    Thread safety: it does not change; any thread may use it.
    """

    weights: tuple[GroupedWeight, ...]

    @classmethod
    def from_graph(cls, graph: ModelProto, names: Sequence[str]) -> WeightGroups:
        """Groups the weights by their use in a graph.

        Args:
            graph: Of the bundle.
            names: The blended initializers, in the order that is kept.
        """
        weights: dict[str, GroupedWeight] = {}
        depths: dict[int, int] = {}
        for node, producer, name, position in _iterate_uses(graph, names):
            if name in weights:
                continue
            layer, part = _classify_use(node, position)
            if node.op_type == "Add" and producer is not None and producer.op_type in ("MatMul", "Gemm", "Conv"):
                # The bias of a layer that was written as two nodes.
                node, layer, part = producer, LAYER_ROLE_BY_OPERATOR[producer.op_type], "bias"
            weights[name] = GroupedWeight(name, (layer, part), depths.setdefault(id(node), len(depths)))
        return cls(tuple(weights.get(name, GroupedWeight(name, ("other", "weight"), len(depths))) for name in names))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the weights."""
        return tuple(weight.name for weight in self.weights)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that occur, in the order of WEIGHT_ROLES."""
        used = {role for weight in self.weights for role in weight.roles}
        return tuple(role for role in WEIGHT_ROLES if role in used)

    def select(self, pattern: str) -> NDArray[np.intp]:
        """Selects weights by a pattern.

        Args:
            pattern: NAME with *, ? and [..] as in a shell (a * matches dots, too), or ROLE:NAME.

        Returns:
            The positions of the weights, ascending, at least one.

        Raises:
            UsageError: No weight matches; the message has the nearest names, or the roles that occur.
        """
        role, colon, rest = pattern.partition(":")
        has_role = bool(colon) and role in WEIGHT_ROLES
        name_pattern = rest if has_role else pattern
        selected = [
            position
            for position, weight in enumerate(self.weights)
            if fnmatchcase(weight.name, name_pattern) and (not has_role or role in weight.roles)
        ]
        if not selected:
            advice = self._format_advice(role if colon else None, name_pattern)
            raise UsageError(f"The pattern {escape_name(repr(pattern))} picks no weight{advice}")
        return np.array(selected, np.intp)

    def _format_advice(self, role: str | None, name_pattern: str) -> str:
        roles = f"; the roles here are {', '.join(self.roles)}"
        if role is not None and role not in WEIGHT_ROLES:
            near = get_close_matches(role, WEIGHT_ROLES, 1)
            return f": there is no role {escape_name(repr(role), 40)}" + (
                f", did you mean {near[0]!r}?" if near else f"{roles}."
            )
        if role is not None and role not in self.roles:
            return f"{roles}."
        candidates = dict.fromkeys(candidate for name in self.names for candidate in _enumerate_name_patterns(name))
        near = get_close_matches(name_pattern, list(candidates), 3, 0.5)
        advice = f"; near it are {', '.join(escape_name(repr(name), 80) for name in near)}" if near else roles
        return f"{advice}. `dni-deploy inspect --groups` lists all."


def _enumerate_name_patterns(name: str) -> Iterator[str]:
    """The name, and patterns for the modules that it lies in: body.0.weight, body.0.*, body.*."""
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        yield f"{name}.*"


def _iterate_uses(graph: ModelProto, names: Sequence[str]) -> Iterator[tuple[NodeProto, NodeProto | None, str, int]]:
    """Every use of a weight, in graph order: the node, the producer of its first other input, the weight, its position."""
    alias = {name: name for name in names}
    producers: dict[str, NodeProto] = {}
    for node in graph.graph.node:
        producers.update(dict.fromkeys(node.output, node))
        if node.op_type in WEIGHT_FORWARDING_OPERATORS and node.input and node.input[0] in alias:
            alias[node.output[0]] = alias[node.input[0]]
            continue
        others = [value for value in node.input if value not in alias]
        for position, value in enumerate(node.input):
            if value in alias:
                yield node, producers.get(others[0]) if others else None, alias[value], position


def _classify_use(node: NodeProto, position: int) -> tuple[str, str]:
    layer = LAYER_ROLE_BY_OPERATOR.get(node.op_type, "other")
    if node.op_type in ("MatMul", "PRelu", "Gather") or layer == "other":
        return layer, "bias" if node.op_type in ("Add", "Sub") else "weight"
    return layer, "weight" if position <= 1 else "bias" if position == 2 else "statistics"
