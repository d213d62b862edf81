"""Engines: how a bundle runs. To add one, write `engines/<name>/` with an `open` function, add a line to ENGINES and a test.

`open_engine` is the only door; an engine's packages are imported when it is asked for and not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dni_deploy.errors import DniError, EngineError, EnvironmentProblem, UsageError, shown
from dni_deploy.utils.progress import MaybeProgress
from engines import obstacles
from engines.options import BuildOptions, EngineOptions

if TYPE_CHECKING:
    from dni_deploy.bundle.bundle import Bundle
    from engines.interface import Engine

DISTRIBUTION = "dni-deploy"
ASKED = "asked for"


@dataclass(frozen=True)
class EngineEntry:
    """One line of the list.

    opener    "module:function" that takes (bundle, options: EngineOptions) and returns an Engine.
    title     what it is, in a few words.
    obstacle  why it cannot run here, one sentence without a full stop, or None; see obstacles.py.
    builder   "module:function" that takes (bundle, options: BuildOptions, progress) and returns a Built; None where
              there is nothing to build ahead.
    auto      whether `--engine auto` may choose it: the others exist to be compared with.
    takes     what the builder makes use of, of "threads", "precision", "profile", "strip" and "device"; anything else is refused.
    """

    opener: str
    title: str
    obstacle: obstacles.Obstacle
    builder: str | None = None
    auto: bool = False
    takes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Built:
    """What a builder made.

    plan      the file, or None where the engine will do without one (`road` says why).
    weights   how many weights of the network change with alpha, and were verified to.
    error     the verification's largest relative error against the reference, or None.
    kept      the plan was there before, and was verified only.
    """

    plan: Path | None
    road: str
    weights: int
    error: float | None
    kept: bool = False


# The order is that of `auto`.
ENGINES: Mapping[str, EngineEntry] = {
    "tensorrt": EngineEntry(
        "engines.trt:open_refit",
        "TensorRT, weights blended on the GPU and refitted",
        obstacles.tensorrt("refit"),
        "engines.trt:build_refit",
        True,
        ("precision", "profile", "strip", "device"),
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
        ("threads",),
    ),
    "tensorrt-inputs": EngineEntry(
        "engines.trt:open_inputs",
        "TensorRT, weights as inputs of the network",
        obstacles.tensorrt("inputs"),
        "engines.trt:build_inputs",
        takes=("precision", "profile", "device"),
    ),
    "tensorrt-graph": EngineEntry(
        "engines.trt:open_graph",
        "TensorRT, alpha as an input, blend in the network",
        obstacles.tensorrt("graph"),
        "engines.trt:build_graph",
        takes=("precision", "profile", "device"),
    ),
    "tensorrt-constant": EngineEntry(
        "engines.trt:open_constant",
        "TensorRT, first member only, for timing",
        obstacles.tensorrt("constant"),
        "engines.trt:build_constant",
        takes=("precision", "profile", "device"),
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
    """An engine's name, and why it is the one: ASKED, or what stood in the way of those that auto prefers."""

    name: str
    why: str


class Opened(NamedTuple):
    """An engine, and how it came to be the one."""

    engine: Engine
    choice: Choice


def choose(name: str = "auto", bundle: Bundle | None = None, device: int = 0) -> Choice:
    """The engine that `auto` stands for here, or `name` itself. Raises UsageError (unknown), EnvironmentProblem (cannot run)."""
    if name != "auto":
        return _asked_for(name, bundle, device)
    passed: dict[str, str] = {}
    for candidate in _candidates(bundle, device, passed):
        return Choice(candidate, _why(passed))
    raise _none(passed)


def choose_builder(name: str = "auto") -> Choice:
    """The engine that `build` builds for: `name`, or the first of auto's that can run here and has something to build.

    That no plan is built yet is no obstacle to building one. Raises as `choose` does, and UsageError for an engine that has
    nothing to build.
    """
    if name != "auto":
        choice = _asked_for(name, None, 0)
        if ENGINES[name].builder is None:
            others = ", ".join(other for other, entry in ENGINES.items() if entry.builder)
            raise UsageError(f"The engine {name} has nothing to build ahead; these have: {others}.")
        return choice
    passed: dict[str, str] = {}
    for candidate in _candidates(None, 0, passed):
        if ENGINES[candidate].builder is not None:
            return Choice(candidate, _why(passed))
        passed[candidate] = "it has nothing to build ahead"
    raise _none(passed)


def open_engine(bundle: Bundle, name: str = "auto", options: EngineOptions | None = None) -> Opened:
    """Open the bundle in an engine; every slot still needs its first refit. The caller closes it.

    auto passes over what this machine lacks, and `why` says so: an obstacle, a package that does not import, an EnvironmentProblem
    from the opener. It does not pass over an EngineError: that engine opened here and then failed or computed something else than
    the reference. Whoever has a GPU shall hear of that, and not wonder why frames are slow; `--engine` names another one.
    Neither does it pass over a damaged plan (BundleError, RefusedError): that one is to be built again.
    Raises UsageError (name), EnvironmentProblem (cannot run here), EngineError (the network cannot be opened).
    """
    options = options or EngineOptions()
    if name != "auto":
        choice = _asked_for(name, bundle, options.device)
        return Opened(_open(name, bundle, options), choice)
    passed: dict[str, str] = {}
    for candidate in _candidates(bundle, options.device, passed):
        try:
            return Opened(_open(candidate, bundle, options), Choice(candidate, _why(passed)))
        except EngineError as error:
            raise type(error)(f"{error} This is what auto chose; name another one with --engine to do without it.") from error
        except EnvironmentProblem as error:
            passed[candidate] = str(error).removeprefix(_cannot(candidate)).rstrip(".")
    raise _none(passed)


def load_engine(bundle: Bundle, name: str = "auto", options: EngineOptions | None = None) -> Engine:
    """The engine of `open_engine` alone."""
    return open_engine(bundle, name, options).engine


def build_engine(bundle: Bundle, name: str, options: BuildOptions, progress: MaybeProgress = None) -> Built:
    """Build ahead of time what the engine opens later. `name` is an engine's own, not auto.

    Raises UsageError (nothing to build, or it exists and `force` is off), EnvironmentProblem, EngineError, LimitError.
    """
    entry = ENGINES[name]
    if entry.builder is None:
        raise UsageError(f"The engine {name} has nothing to build ahead.")
    built: Built = _function(name, entry.builder)(bundle, options, progress)
    return built


def refuse_unused(choice: Choice, given: Iterable[str]) -> None:
    """Raise UsageError where the engine's builder has no use for an option that was given; names as in EngineEntry.takes."""
    unused = [option for option in given if option not in ENGINES[choice.name].takes]
    if unused:
        users = [other for other, entry in ENGINES.items() if set(unused) <= set(entry.takes)]
        told = f"Building for the engine {choice.name} has no use for {' and '.join(unused)}"
        told += f"; that is for {', '.join(users)}." if users else "."
        raise UsageError(told if choice.why == ASKED else f"{told} It was taken because: {choice.why}.")


def _asked_for(name: str, bundle: Bundle | None, device: int) -> Choice:
    if name not in ENGINES:
        raise UsageError(f"There is no engine {shown(name)!r}; there are auto, {', '.join(ENGINES)}.")
    obstacle = _obstacle(name, bundle, device)
    if obstacle is not None:
        raise EnvironmentProblem(f"{_cannot(name)}{obstacle}.")
    return Choice(name, ASKED)


def _candidates(bundle: Bundle | None, device: int, passed: dict[str, str]) -> Iterator[str]:
    """auto's engines without an obstacle, best first; `passed` gets the reasons of the others, by name, as they are met."""
    for name, entry in ENGINES.items():
        if not entry.auto:
            continue
        try:
            obstacle = _obstacle(name, bundle, device)
        except DniError as error:  # a plan that cannot be read, say: a reason like any other, and the next one may run
            obstacle = str(error).rstrip(".")
        if obstacle is None:
            yield name
        else:
            passed[name] = obstacle


def _obstacle(name: str, bundle: Bundle | None, device: int) -> str | None:
    """As EngineEntry.obstacle. A package that breaks while it is looked at is one: it must not take those down that work."""
    try:
        return ENGINES[name].obstacle(bundle, device)
    except DniError:
        raise
    except Exception as error:
        return f"looking at it failed with {type(error).__name__}, {shown(error).rstrip('.')}"


def _why(passed: Mapping[str, str]) -> str:
    """One clause for each reason, with all engines that it kept away: "not a and b: reason; not c: reason"."""
    reasons: dict[str, list[str]] = {}
    for name, reason in passed.items():
        reasons.setdefault(reason, []).append(name)
    return "; ".join(f"not {' and '.join(names)}: {reason}" for reason, names in reasons.items()) or "the first choice"


def _cannot(name: str) -> str:
    return f"The engine {name} cannot run here: "


def _none(passed: Mapping[str, str]) -> EnvironmentProblem:
    return EnvironmentProblem(f"No engine can run here; {_why(passed)}. `dni-deploy doctor` tells more.")


def _open(name: str, bundle: Bundle, options: EngineOptions) -> Engine:
    engine: Engine = _function(name, ENGINES[name].opener)(bundle, options)
    return engine


def _function(engine: str, name: str):  # type: ignore[no-untyped-def]  # any of the openers and builders above
    """Raises EnvironmentProblem where a package of the engine does not import: a library that it links is missing, say."""
    module, _, function = name.partition(":")
    try:
        home = importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise EnvironmentProblem(f"{_cannot(engine)}{type(error).__name__}, {shown(error).rstrip('.')}.") from error
    return getattr(home, function)
