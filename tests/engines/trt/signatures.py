"""Signatures: whether a call fits one of those that a pybind11 docstring lists."""

from __future__ import annotations

import re
from dataclasses import dataclass

LINE = re.compile(r"^(?:\d+\. )?(\w+)\((.*)\) -> (.+)$")
PREFIX = re.compile(
    r"\b(?:tensorrt_bindings\.tensorrt|tensorrt_rtx_bindings\.tensorrt_rtx|nvinfer1|nvonnxparser|tensorrt)(?:\.|::)"
)
INTEGERS = {"int", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "bool", "DeviceAllocation"}
BUFFERS = {"bytes", "bytearray", "memoryview", "IHostMemory", "ndarray"}
SEQUENCES = {"tuple", "list", "Dims"}
TAKEN = {
    "str": {"str"},
    "int": INTEGERS,
    "SupportsInt": INTEGERS,
    "float": {"float", "int"},
    "bool": {"bool"},
    "buffer": BUFFERS,
    "Buffer": BUFFERS,
    "tuple": {"tuple", "Dims"},
    "list": {"list"},
    "Dims": SEQUENCES,
    "numpy.ndarray": {"ndarray"},
}
"""Kinds of argument that pybind11 takes for what its docstrings say."""
ANY = ("object", "handle", "capsule", "CapsuleType")


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    optional: bool

    def takes(self, kind: str, bases: dict[str, list[str]]) -> bool:
        """kind: of the argument; bases: of each class of the bindings, itself first."""
        if self.kind in ANY or (kind == "NoneType" and self.optional):
            return True
        if self.kind.startswith(("List[", "list[", "Sequence[", "Tuple[", "tuple[")):
            return kind in SEQUENCES
        if self.kind in TAKEN:
            return kind in TAKEN[self.kind] or (self.kind == "SupportsInt" and kind in bases and "members" in bases[kind])
        return self.kind in bases.get(kind, [kind])


def signatures(name: str, docstring: str) -> list[list[Parameter]]:
    """The parameters of each overload, without self."""
    found = []
    for line in docstring.splitlines():
        match = LINE.match(line.strip())
        if match is not None and match[1] == name:
            found.append([_parameter(text) for text in _split(match[2]) if not text.startswith("self:")])
    return found


def fits(
    parameters: list[Parameter], kinds: tuple[str, ...], named: tuple[tuple[str, str], ...], bases: dict[str, list[str]]
) -> bool:
    """Whether these arguments fill the parameters."""
    given = dict(named)
    if len(kinds) > len(parameters) or not set(given) <= {one.name for one in parameters[len(kinds) :]}:
        return False
    if not all(one.takes(kind, bases) for one, kind in zip(parameters, kinds, strict=False)):
        return False
    return all(one.takes(given[one.name], bases) if one.name in given else one.optional for one in parameters[len(kinds) :])


def _parameter(text: str) -> Parameter:
    name, _, rest = text.partition(":")
    kind, equals, _ = rest.partition("=")
    kind = PREFIX.sub("", kind.strip()).replace("typing_extensions.", "").replace("collections.abc.", "").replace("typing.", "")
    return Parameter(name.strip(), kind, bool(equals))


def _split(text: str) -> list[str]:
    """At the commas that are within no bracket."""
    parts, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        if sign in "([{<":
            depth += 1
        elif sign in ")]}>":
            depth -= 1
        elif sign == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [part for part in (*parts, text[start:].strip()) if part]
