"""Engines: how a bundle runs. To add one, write `engines/<name>/` with an `open` function, add a line to ENGINES and a test.

`load_engine` is the only door; an engine's packages are imported when it is asked for and not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dni_deploy.errors import EnvironmentProblem, UsageError, shown
from dni_deploy.progress import MaybeProgress
from engines import obstacles
from engines.options import BuildOptions, EngineOptions

if TYPE_CHECKING:
    from dni_deploy.bundle import Bundle
    from engines.engine import Engine

DISTRIBUTION = "dni-deploy"


@dataclass(frozen=True)
class EngineEntry:
    """One line of the list.

    opener    "module:function" that takes (bundle, options: EngineOptions) and returns an Engine.
    title     what it is, in a few words.
    obstacle  why it cannot run here, one sentence without a full stop, or None: asked with the bundle, or with None for the
              machine alone.
    builder   "module:function" that takes (bundle, options: BuildOptions, progress) and returns a Built; None where
              there is nothing to build ahead.
    auto      whether `--engine auto` may choose it: the others exist to be compared with.
    """

    opener: str
    title: str
    obstacle: obstacles.Obstacle
    builder: str | None = None
    auto: bool = False


@dataclass(frozen=True)
class Built:
    """What a builder made.

    plan      the file, or None where the engine will do without one (`road` says why).
    weights   how many weights of the network change with alpha, and were verified to.
    error     the verification's largest relative error against the reference, or None.
    """

    plan: Path | None
    road: str
    weights: int
    error: float | None


# The order is that of `auto`.
ENGINES: Mapping[str, EngineEntry] = {
    "tensorrt": EngineEntry(
        "engines.trt:open_refit",
        "TensorRT, weights blended on the GPU and refitted",
        obstacles.tensorrt("refit"),
        "engines.trt:build_refit",
        True,
    ),
    "onnxruntime-gpu": EngineEntry(
        "engines.onnxruntime_gpu:open_bound",
        "ONNX Runtime on the GPU, weights blended in the memory that it reads",
        obstacles.onnxruntime_gpu,
        None,
        True,
    ),
    "onnxruntime": EngineEntry(
        "engines.onnxruntime_cpu:open_in_place",
        "ONNX Runtime on the CPU, weights blended in place",
        obstacles.onnxruntime,
        "engines.onnxruntime_cpu:build_plan",
        True,
    ),
    "tensorrt-inputs": EngineEntry(
        "engines.trt:open_inputs",
        "TensorRT, weights as inputs of the network",
        obstacles.tensorrt("inputs"),
        "engines.trt:build_inputs",
    ),
    "tensorrt-graph": EngineEntry(
        "engines.trt:open_graph",
        "TensorRT, alpha as an input, blend in the network",
        obstacles.tensorrt("graph"),
        "engines.trt:build_graph",
    ),
    "tensorrt-constant": EngineEntry(
        "engines.trt:open_constant",
        "TensorRT, first member only, for timing",
        obstacles.tensorrt("constant"),
        "engines.trt:build_constant",
    ),
    "onnxruntime-rebuild": EngineEntry(
        "engines.onnxruntime_cpu:open_rebuild", "ONNX Runtime on the CPU, a new session per alpha", obstacles.onnxruntime
    ),
    "onnxruntime-constant": EngineEntry(
        "engines.onnxruntime_cpu:open_constant", "ONNX Runtime on the CPU, first member only, for timing", obstacles.onnxruntime
    ),
    "onnxruntime-inputs": EngineEntry(
        "engines.onnxruntime_cpu:open_inputs", "ONNX Runtime on the CPU, weights as graph inputs", obstacles.onnxruntime
    ),
    "onnxruntime-graph": EngineEntry(
        "engines.onnxruntime_cpu:open_in_graph", "ONNX Runtime on the CPU, alpha as a graph input", obstacles.onnxruntime
    ),
}


@dataclass(frozen=True)
class Choice:
    """An engine's name, and why it is the one: "asked for", or what stood in the way of those that auto prefers."""

    name: str
    why: str


def choose(name: str = "auto", bundle: Bundle | None = None) -> Choice:
    """The engine that `auto` stands for here, or `name` itself. Raises UsageError (unknown), EnvironmentProblem (cannot run)."""
    if name == "auto":
        passed: list[str] = []
        for candidate, entry in ENGINES.items():
            if not entry.auto:
                continue
            obstacle = entry.obstacle(bundle)
            if obstacle is None:
                return Choice(candidate, "; ".join(passed) or "the first choice")
            passed.append(f"not {candidate}: {obstacle}")
        raise EnvironmentProblem(f"No engine can run here; {'; '.join(passed)}. `dni-deploy doctor` tells more.")
    if name not in ENGINES:
        raise UsageError(f"There is no engine {shown(name)!r}; there are auto, {', '.join(ENGINES)}.")
    obstacle = ENGINES[name].obstacle(bundle)
    if obstacle is not None:
        raise EnvironmentProblem(f"The engine {name} cannot run here: {obstacle}.")
    return Choice(name, "asked for")


def load_engine(bundle: Bundle, name: str = "auto", options: EngineOptions | None = None) -> Engine:
    """Open the bundle in an engine; every slot still needs its first refit. The caller closes it.

    Raises UsageError (name), EnvironmentProblem (cannot run here), EngineError (the network cannot be opened).
    """
    engine: Engine = _function(ENGINES[choose(name, bundle).name].opener)(bundle, options or EngineOptions())
    return engine


def build_engine(bundle: Bundle, name: str, options: BuildOptions, progress: MaybeProgress = None) -> Built:
    """Build ahead of time what the engine opens later. `name` is an engine's own, not auto.

    Raises UsageError (nothing to build, or it exists and `force` is off), EnvironmentProblem, EngineError, LimitError.
    """
    entry = ENGINES[name]
    if entry.builder is None:
        raise UsageError(f"The engine {name} has nothing to build ahead.")
    built: Built = _function(entry.builder)(bundle, options, progress)
    return built


def _function(name: str):  # type: ignore[no-untyped-def]  # any of the openers and builders above
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)
