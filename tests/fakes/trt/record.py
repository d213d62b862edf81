"""Records the calls to the fake TensorRT, so that they can be checked against the signatures of the real bindings.

Also derives the classes of one version: an attribute marked `since` or `until` is absent in other versions.
"""

from __future__ import annotations

import functools
import inspect
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

RTX = 12
"""What TensorRT for RTX counts as: all of 11, and more of its own."""


class Call(NamedTuple):
    """kinds: of the arguments, by position; names: of those given by name. A property that was set is a call of kind "set"."""

    owner: str
    name: str
    kinds: tuple[str, ...]
    named: tuple[tuple[str, str], ...] = ()
    kind: str = "call"


MADE_BY_USERS = ("Builder", "Dims", "ILogger", "IProgressMonitor", "Logger", "OnnxParser", "Refitter", "Runtime", "Weights")
"""Classes with a constructor; objects of the others are returned by calls."""

CALLS: dict[str, set[Call]] = defaultdict(set)
"""By version ("11.4"), since the process started."""


class Recording:
    """version: where calls go; None switches it off (the stress of 20,000 schedules needs none)."""

    version: str | None = None


def kind_of(value: Any) -> str:
    for base in type(value).__mro__:
        if vars(base).get("_fake"):
            return base.__name__
    return type(value).__name__


def since(version: int) -> Callable[[T], T]:
    """Marks a method or a property getter that is new in a major version."""
    return lambda what: _mark(what, "_since", version)


def until(version: int) -> Callable[[T], T]:
    """Marks the last major version that has it."""
    return lambda what: _mark(what, "_until", version)


def _mark(what: T, name: str, version: int) -> T:
    setattr(what, name, version)
    return what


def _has(what: Any, version: str) -> bool:
    function = what.fget if isinstance(what, property) else what
    major = RTX if version.startswith("rtx") else float(version)
    return getattr(function, "_since", 0) <= major < getattr(function, "_until", 99) + 1


def version_of(cls: type, version: str, built: dict[type, type]) -> type:
    """Returns this version's class with every public call recorded. `built`: the classes made so far, bases first."""
    content = {}
    for name, value in vars(cls).items():
        if name in ("__dict__", "__weakref__") or not _has(value, version):
            continue
        content[name] = _recorded(cls.__name__, name, value)
    bases = tuple(built.get(base, base) for base in cls.__bases__)
    versioned = type(cls)(cls.__name__, bases, content)
    versioned._fake = True  # type: ignore[attr-defined]
    versioned.__module__ = "tensorrt"
    return versioned


def _recorded(owner: str, name: str, value: Any) -> Any:
    if isinstance(value, property):
        if value.fset is None:
            return value
        return property(value.fget, _setter(owner, name, value.fset), doc=value.__doc__)
    if not inspect.isfunction(value) or (name.startswith("_") and (name != "__init__" or owner not in MADE_BY_USERS)):
        return value

    @functools.wraps(value)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        if Recording.version is not None:
            named = tuple(sorted((key, kind_of(each)) for key, each in options.items()))
            CALLS[Recording.version].add(Call(owner, name, tuple(map(kind_of, args)), named))
        return value(self, *args, **options)

    return call


def _setter(owner: str, name: str, function: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def call(self: Any, value: Any) -> None:
        if Recording.version is not None:
            CALLS[Recording.version].add(Call(owner, name, (kind_of(value),), kind="set"))
        function(self, value)

    return call
