"""The engines that a user may choose, and why one is unavailable here."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dni_deploy.errors import DniError, EngineError, UnavailableError, UsageError, escape_name
from dni_deploy.utils.progress import OptionalProgress
from engines.cuda import driver
from engines.interface import BuildOptions, BuildResult, EngineOptions

if TYPE_CHECKING:
    from dni_deploy.bundle.bundle import Bundle
    from engines.interface import Engine

REASON_REQUESTED = "asked for"


class AvailabilityCheck(Protocol):
    """Asked with the bundle and the number of the GPU that it shall run on, or with None for the machine alone."""

    def __call__(self, bundle: Bundle | None, device: int = 0) -> str | None: ...


CUDA_PROVIDER_LIBRARIES = ("libonnxruntime_providers_cuda.so", "onnxruntime_providers_cuda.dll")
"""What onnxruntime-gpu brings and onnxruntime does not, in the package's folder `capi`."""


def why_onnxruntime_unavailable(bundle: Bundle | None, device: int = 0) -> str | None:
    return _explain_missing_packages(("onnxruntime",), "cpu")


def why_onnxruntime_gpu_unavailable(bundle: Bundle | None, device: int = 0) -> str | None:
    obstacle = driver.why_gpu_unavailable() or _explain_missing_packages(("onnxruntime", "pycuda"), "gpu")
    if obstacle:
        return obstacle
    spec = find_spec("onnxruntime")
    folders = [Path(folder) / "capi" for folder in (spec.submodule_search_locations if spec else None) or ()]
    if not any((folder / name).exists() for folder in folders for name in CUDA_PROVIDER_LIBRARIES):
        return (
            "this onnxruntime has no CUDA provider: pip uninstall -y onnxruntime, then pip install --force-reinstall "
            "onnxruntime-gpu"
        )
    return None


def make_tensorrt_check(kind: str) -> AvailabilityCheck:
    """kind: of the plan that the engine opens, as in engines/trt/plan.py."""

    def why_tensorrt_unavailable(bundle: Bundle | None, device: int = 0) -> str | None:
        found = driver.why_gpu_unavailable() or _explain_missing_packages(("tensorrt", "pycuda", "polygraphy"), "tensorrt")
        if found or bundle is None:
            return found
        from engines.trt.plan import search_plans

        plan, rejected = search_plans(bundle, kind, device=device)
        if plan is None:
            engine = "tensorrt" if kind == "refit" else f"tensorrt-{kind}"
            told = f" ({rejected})" if rejected else ""
            return f"no plan is built for this GPU and this TensorRT{told}: dni-deploy build --engine {engine}"
        return None

    return why_tensorrt_unavailable


def _explain_missing_packages(names: tuple[str, ...], extra: str) -> str | None:
    missing = [name for name in names if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: pip install 'dni-deploy[{extra}]'" if missing else None


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
    unavailable_reason: AvailabilityCheck
    builder: str | None = None
    auto: bool = False
    build_option_names: tuple[str, ...] = ()


# The order is that of `auto`.
ENGINES: Mapping[str, EngineEntry] = {
    "tensorrt": EngineEntry(
        "engines.trt:open_refit",
        "TensorRT, weights blended on the GPU and refitted",
        make_tensorrt_check("refit"),
        "engines.trt:build_refit",
        True,
        ("precision", "profile", "strip", "device"),
    ),
    "onnxruntime-gpu": EngineEntry(
        "engines.onnxruntime_gpu:open_bound",
        "ONNX Runtime on the GPU, weights blended in the memory that it reads",
        why_onnxruntime_gpu_unavailable,
        None,
        True,
    ),
    "onnxruntime": EngineEntry(
        "engines.onnxruntime_cpu:open_in_place",
        "ONNX Runtime on the CPU, weights blended in place",
        why_onnxruntime_unavailable,
        "engines.onnxruntime_cpu:build_plan",
        True,
        ("threads",),
    ),
    "tensorrt-inputs": EngineEntry(
        "engines.trt:open_inputs",
        "TensorRT, weights as inputs of the network",
        make_tensorrt_check("inputs"),
        "engines.trt:build_inputs",
        build_option_names=("precision", "profile", "device"),
    ),
    "tensorrt-graph": EngineEntry(
        "engines.trt:open_graph",
        "TensorRT, alpha as an input, blend in the network",
        make_tensorrt_check("graph"),
        "engines.trt:build_graph",
        build_option_names=("precision", "profile", "device"),
    ),
    "tensorrt-constant": EngineEntry(
        "engines.trt:open_constant",
        "TensorRT, first member only, for timing",
        make_tensorrt_check("constant"),
        "engines.trt:build_constant",
        build_option_names=("precision", "profile", "device"),
    ),
    "onnxruntime-rebuild": EngineEntry(
        "engines.onnxruntime_cpu:open_rebuild",
        "ONNX Runtime on the CPU, a new session per alpha",
        why_onnxruntime_unavailable,
    ),
    "onnxruntime-constant": EngineEntry(
        "engines.onnxruntime_cpu:open_constant",
        "ONNX Runtime on the CPU, first member only, for timing",
        why_onnxruntime_unavailable,
    ),
    "onnxruntime-inputs": EngineEntry(
        "engines.onnxruntime_cpu:open_inputs",
        "ONNX Runtime on the CPU, weights as graph inputs",
        why_onnxruntime_unavailable,
    ),
    "onnxruntime-graph": EngineEntry(
        "engines.onnxruntime_cpu:open_in_graph",
        "ONNX Runtime on the CPU, alpha as a graph input",
        why_onnxruntime_unavailable,
    ),
}


@dataclass(frozen=True)
class EngineChoice:
    """An engine's name, and why it is the one: REASON_REQUESTED, or what stood in the way of those that auto prefers."""

    name: str
    reason: str


class OpenedEngine(NamedTuple):
    """An engine, and how it came to be the one."""

    engine: Engine
    choice: EngineChoice


def choose_engine(name: str = "auto", bundle: Bundle | None = None, device: int = 0) -> EngineChoice:
    """The engine that `auto` stands for here, or `name` itself. Raises UsageError (unknown), UnavailableError (cannot run)."""
    if name != "auto":
        return _require_engine(name, bundle, device)
    passed: dict[str, str] = {}
    for candidate in _available_engines(bundle, device, passed):
        return EngineChoice(candidate, _format_reasons(passed))
    raise _no_engine_error(passed)


def choose_builder(name: str = "auto") -> EngineChoice:
    """The engine that `build` builds for: `name`, or the first of auto's that can run here and has something to build.

    That no plan is built yet is no obstacle to building one. Raises as `choose_engine` does, and UsageError for an engine that has
    nothing to build.
    """
    if name != "auto":
        choice = _require_engine(name, None, 0)
        if ENGINES[name].builder is None:
            others = ", ".join(other for other, entry in ENGINES.items() if entry.builder)
            raise UsageError(f"The engine {name} has nothing to build ahead; these have: {others}.")
        return choice
    passed: dict[str, str] = {}
    for candidate in _available_engines(None, 0, passed):
        if ENGINES[candidate].builder is not None:
            return EngineChoice(candidate, _format_reasons(passed))
        passed[candidate] = "it has nothing to build ahead"
    raise _no_engine_error(passed)


def open_engine(bundle: Bundle, name: str = "auto", options: EngineOptions | None = None) -> OpenedEngine:
    """Open the bundle in an engine; every slot still needs its first refit. The caller closes it.

    auto skips what this machine lacks, and `reason` says so: an unavailable reason, a package that does not import, an
    UnavailableError from the opener. It does not skip an EngineError: that engine is available and failed, or computed something
    else than the reference. The owner of a GPU must learn that, and not wonder why frames are slow; `--engine` names another one.
    Neither does it skip a damaged plan (BundleError, RefusedError): that one is to be built again.
    Raises UsageError (name), UnavailableError (cannot run here), EngineError (the network cannot be opened).
    """
    options = options or EngineOptions()
    if name != "auto":
        choice = _require_engine(name, bundle, options.device)
        return OpenedEngine(_call_opener(name, bundle, options), choice)
    passed: dict[str, str] = {}
    for candidate in _available_engines(bundle, options.device, passed):
        try:
            return OpenedEngine(_call_opener(candidate, bundle, options), EngineChoice(candidate, _format_reasons(passed)))
        except UnavailableError as error:
            passed[candidate] = str(error).removeprefix(_unavailable_prefix(candidate)).rstrip(".")
        except EngineError as error:
            raise _chosen_by_auto(error) from error
    raise _no_engine_error(passed)


def load_engine(bundle: Bundle, name: str = "auto", options: EngineOptions | None = None) -> Engine:
    """The engine of `open_engine` alone."""
    return open_engine(bundle, name, options).engine


def build_engine(bundle: Bundle, name: str, options: BuildOptions, progress: OptionalProgress = None) -> BuildResult:
    """Build ahead of time what the engine opens later. `name` is an engine's own, not auto.

    Raises UsageError (nothing to build, or it exists and `force` is off), UnavailableError, EngineError, LimitError.
    """
    entry = ENGINES[name]
    if entry.builder is None:
        raise UsageError(f"The engine {name} has nothing to build ahead.")
    built: BuildResult = _import_function(name, entry.builder)(bundle, options, progress)
    return built


def refuse_unused_options(choice: EngineChoice, option_names: Iterable[str]) -> None:
    """Raise UsageError where the engine's builder has no use for an option that was given; names as in EngineEntry.build_option_names."""
    unused = [option for option in option_names if option not in ENGINES[choice.name].build_option_names]
    if unused:
        users = [other for other, entry in ENGINES.items() if set(unused) <= set(entry.build_option_names)]
        told = f"Building for the engine {choice.name} has no use for {' and '.join(unused)}"
        told += f"; that is for {', '.join(users)}." if users else "."
        raise UsageError(told if choice.reason == REASON_REQUESTED else f"{told} It was taken because: {choice.reason}.")


def _require_engine(name: str, bundle: Bundle | None, device: int) -> EngineChoice:
    if name not in ENGINES:
        raise UsageError(f"There is no engine {escape_name(name)!r}; there are auto, {', '.join(ENGINES)}.")
    obstacle = _find_unavailable_reason(name, bundle, device)
    if obstacle is not None:
        raise UnavailableError(f"{_unavailable_prefix(name)}{obstacle}.")
    return EngineChoice(name, REASON_REQUESTED)


def _available_engines(bundle: Bundle | None, device: int, skipped: dict[str, str]) -> Iterator[str]:
    """auto's engines without an obstacle, best first; `skipped` gets the reasons of the others, by name, as they are met."""
    for name, entry in ENGINES.items():
        if not entry.auto:
            continue
        try:
            obstacle = _find_unavailable_reason(name, bundle, device)
        except EngineError as error:
            raise _chosen_by_auto(error) from error
        except DniError as error:  # a plan that cannot be read, say: a reason like any other, and the next one may run
            obstacle = str(error).rstrip(".")
        if obstacle is None:
            yield name
        else:
            skipped[name] = obstacle


def _chosen_by_auto(error: EngineError) -> EngineError:
    return type(error)(f"{error} This is what auto chose; name another one with --engine to do without it.")


def _find_unavailable_reason(name: str, bundle: Bundle | None, device: int) -> str | None:
    """As EngineEntry.unavailable_reason. A package that breaks while it is looked at is one: it must not take those down that work."""
    try:
        return ENGINES[name].unavailable_reason(bundle, device)
    except DniError:
        raise
    except Exception as error:
        return f"looking at it failed with {type(error).__name__}, {escape_name(error).rstrip('.')}"


def _format_reasons(skipped: Mapping[str, str]) -> str:
    """One clause for each reason, with all engines that it kept away: "not a and b: reason; not c: reason"."""
    reasons: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        reasons.setdefault(reason, []).append(name)
    return "; ".join(f"not {' and '.join(names)}: {reason}" for reason, names in reasons.items()) or "the first choice"


def _unavailable_prefix(name: str) -> str:
    return f"The engine {name} cannot run here: "


def _no_engine_error(skipped: Mapping[str, str]) -> UnavailableError:
    return UnavailableError(f"No engine can run here; {_format_reasons(skipped)}. `dni-deploy doctor` tells more.")


def _call_opener(name: str, bundle: Bundle, options: EngineOptions) -> Engine:
    engine: Engine = _import_function(name, ENGINES[name].opener)(bundle, options)
    return engine


def _import_function(engine: str, name: str):  # type: ignore[no-untyped-def]  # any of the openers and builders above
    """Raises UnavailableError where a package of the engine does not import: a library that it links is missing, say."""
    module, _, function = name.partition(":")
    try:
        home = importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise UnavailableError(
            f"{_unavailable_prefix(engine)}{type(error).__name__}, {escape_name(error).rstrip('.')}."
        ) from error
    return getattr(home, function)
