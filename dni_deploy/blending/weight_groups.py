"""Weight groups: the weights of a network by name, by role and by depth, and patterns that pick some of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from dni_deploy.bundle.bundle import Bundle
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
"""What hands a weight on as it is."""


@dataclass(frozen=True)
class GroupedWeight:
    """One weight: its name, its roles (layer, part), and the number of the layer that uses it first, counted from the input, from 0."""

    name: str
    roles: tuple[str, str]
    depth: int


@dataclass(frozen=True)
class WeightGroups:
    """Every blended weight of a bundle, in the order of its `weight_names`."""

    weights: tuple[GroupedWeight, ...]

    @classmethod
    def from_graph(cls, graph: ModelProto, names: Sequence[str]) -> WeightGroups:
        """Read off the graph; names: the blended initializers, in the order that is kept."""
        found: dict[str, GroupedWeight] = {}
        layers: dict[int, int] = {}
        for node, producer, name, position in _iterate_uses(graph, names):
            if name in found:
                continue
            layer, part = _classify_use(node, position)
            if node.op_type == "Add" and producer is not None and producer.op_type in ("MatMul", "Gemm", "Conv"):
                node, layer, part = (
                    producer,
                    LAYER_ROLE_BY_OPERATOR[producer.op_type],
                    "bias",
                )  # of a layer that was written as two nodes
            found[name] = GroupedWeight(name, (layer, part), layers.setdefault(id(node), len(layers)))
        return cls(tuple(found.get(name, GroupedWeight(name, ("other", "weight"), len(layers))) for name in names))

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> WeightGroups:
        """Raises as Bundle.read_graph does."""
        return cls.from_graph(bundle.read_graph(), bundle.weight_names)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(weight.name for weight in self.weights)

    @property
    def roles(self) -> tuple[str, ...]:
        """Those that occur, in the order of WEIGHT_ROLES."""
        there = {role for weight in self.weights for role in weight.roles}
        return tuple(role for role in WEIGHT_ROLES if role in there)

    def select(self, pattern: str) -> NDArray[np.intp]:
        """Which weights a pattern picks: their numbers, ascending, at least one.

        pattern  NAME with *, ? and [..] as in a shell (a * goes over dots), or ROLE:NAME.
        Raises UsageError, with the names that come near or the roles that there are.
        """
        role, colon, rest = pattern.partition(":")
        if colon and role in WEIGHT_ROLES:
            found = [i for i, weight in enumerate(self.weights) if role in weight.roles and fnmatchcase(weight.name, rest)]
        else:
            rest = pattern
            found = [i for i, weight in enumerate(self.weights) if fnmatchcase(weight.name, pattern)]
        if not found:
            raise UsageError(
                f"The pattern {escape_name(repr(pattern))} picks no weight{self._format_advice(pattern, role, bool(colon), rest)}"
            )
        return np.array(found, np.intp)

    def _format_advice(self, pattern: str, role: str, has_role: bool, name_pattern: str) -> str:
        roles = f"; the roles here are {', '.join(self.roles)}"
        if has_role and role not in WEIGHT_ROLES:
            near = get_close_matches(role, WEIGHT_ROLES, 1)
            return f": there is no role {escape_name(repr(role), 40)}" + (
                f", did you mean {near[0]!r}?" if near else roles + "."
            )
        if has_role and role not in self.roles:
            return roles + "."
        stems = dict.fromkeys(stem for name in self.names for stem in _enumerate_name_patterns(name))
        near = get_close_matches(name_pattern, list(stems), 3, 0.5)
        told = f"; near it are {', '.join(escape_name(repr(name), 80) for name in near)}" if near else roles
        return f"{told}. `dni-deploy inspect --groups` lists all."


def _enumerate_name_patterns(name: str) -> Iterator[str]:
    """The name, and the modules that it lies in as patterns: body.0.weight, body.0.*, body.*."""
    yield name
    while "." in name:
        name = name.rpartition(".")[0]
        yield f"{name}.*"


def _iterate_uses(graph: ModelProto, names: Sequence[str]) -> Iterator[tuple[NodeProto, NodeProto | None, str, int]]:
    """Every reading of a weight, in the graph's order: the node, the node behind its first other input, the weight, the position."""
    alias = {name: name for name in names}
    producers: dict[str, NodeProto] = {}
    for node in graph.graph.node:
        for output in node.output:
            producers[output] = node
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
