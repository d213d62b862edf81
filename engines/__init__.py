"""Engines: how a bundle runs. To add one, write `engines/<name>/` with an `open` function, add a line to ENGINES and a test.

`load_engine` is the only door; an engine's packages are imported when it is asked for and not before.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dni_deploy.errors import EnvironmentProblem, UsageError, shown

if TYPE_CHECKING:
    from dni_deploy.bundle import Bundle
    from engines.engine import Engine

DISTRIBUTION = "dni-deploy"


@dataclass(frozen=True)
class EngineEntry:
    """One line of the list: where to open the engine, and which package and extra it needs.

    opener  "module:function"; the function takes (bundle, threads=, slots=) and returns an Engine.
    auto    whether `--engine auto` may choose it: the others exist to be compared with.
    """

    opener: str
    package: str
    extra: str
    title: str
    auto: bool = False


ENGINES: dict[str, EngineEntry] = {
    "onnxruntime": EngineEntry(
        "engines.onnxruntime_cpu:open_in_place", "onnxruntime", "cpu", "ONNX Runtime on the CPU, weights blended in place", True
    ),
    "onnxruntime-rebuild": EngineEntry(
        "engines.onnxruntime_cpu:open_rebuild", "onnxruntime", "cpu", "ONNX Runtime on the CPU, a new session per alpha"
    ),
    "onnxruntime-constant": EngineEntry(
        "engines.onnxruntime_cpu:open_constant", "onnxruntime", "cpu", "ONNX Runtime on the CPU, first member only, for timing"
    ),
    "onnxruntime-inputs": EngineEntry(
        "engines.onnxruntime_cpu:open_inputs", "onnxruntime", "cpu", "ONNX Runtime on the CPU, weights as graph inputs"
    ),
    "onnxruntime-graph": EngineEntry(
        "engines.onnxruntime_cpu:open_in_graph", "onnxruntime", "cpu", "ONNX Runtime on the CPU, alpha as a graph input"
    ),
}


def choose(name: str = "auto") -> str:
    """The engine's name that `auto` stands for here, or `name` itself. Raises UsageError, EnvironmentProblem."""
    if name == "auto":
        for candidate, entry in ENGINES.items():
            if entry.auto and installed(entry):
                return candidate
        raise EnvironmentProblem(
            "No engine can run: install ONNX Runtime with pip install 'dni-deploy[cpu]'; `dni-deploy doctor` tells more."
        )
    if name not in ENGINES:
        raise UsageError(f"There is no engine {shown(name)!r}; there are auto, {', '.join(ENGINES)}.")
    entry = ENGINES[name]
    if not installed(entry):
        raise EnvironmentProblem(
            f"The engine {name} needs the package {entry.package}: pip install 'dni-deploy[{entry.extra}]'."
        )
    return name


def installed(entry: EngineEntry) -> bool:
    """Whether the package is there; it is not imported."""
    return importlib.util.find_spec(entry.package) is not None


def load_engine(bundle: Bundle, name: str = "auto", *, threads: int = 0, slots: int = 2) -> Engine:
    """Open the bundle in an engine; every slot still needs its first refit. The caller closes it.

    Raises UsageError (name, slots, threads), EnvironmentProblem (not installed), EngineError (the network cannot be opened).
    """
    if not isinstance(slots, int) or slots < 1:
        raise UsageError(f"slots is how many sets of weights an engine holds, a whole number from 1; got {shown(slots)}.")
    if not isinstance(threads, int) or threads < 0:
        raise UsageError(f"threads is a whole number, 0 for the engine's own choice; got {shown(threads)}.")
    module, function = ENGINES[choose(name)].opener.split(":")
    engine: Engine = getattr(importlib.import_module(module), function)(bundle, threads=threads, slots=slots)
    return engine
