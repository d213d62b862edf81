"""The engines that a user may choose, and why one cannot run here."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dni_deploy.errors import DniError, EngineError, UnavailableError, UsageError, escape_name
from dni_deploy.utils.install_line import format_install_line
from dni_deploy.utils.near_names import suggest_name
from dni_deploy.utils.progress import OptionalProgress
from engines.cuda import driver, wheels
from engines.interface import REASON_REQUESTED, BuildOptions, BuildResult, EngineOptions

if TYPE_CHECKING:
    from dni_deploy.bundle.bundle import Bundle
    from engines.interface import Engine

log = logging.getLogger(__name__)


AvailabilityCheck = Callable[["Bundle | None"], "str | None"]
"""Tells why an engine cannot run a bundle, or with None what this machine lacks, without importing a package that could break.

It gives one sentence without a full stop, or None where nothing is in the way.
"""

CUDA_PROVIDER_LIBRARIES = ("libonnxruntime_providers_cuda.so", "onnxruntime_providers_cuda.dll")
"""What onnxruntime-gpu has and onnxruntime does not, in the package's folder `capi`."""


def why_onnxruntime_unavailable(bundle: Bundle | None) -> str | None:
    """Tells why ONNX Runtime on the CPU cannot run, as an `AvailabilityCheck`."""
    return _explain_missing_packages(("onnxruntime",), "cpu")


def why_onnxruntime_gpu_unavailable(bundle: Bundle | None) -> str | None:
    """Tells why ONNX Runtime on the GPU cannot run, as an `AvailabilityCheck`."""
    reason = driver.why_gpu_unavailable() or _explain_missing_packages(("onnxruntime",), "gpu") or driver.why_no_cuda_package()
    if reason:
        return reason
    spec = find_spec("onnxruntime")
    folders = [Path(folder) / "capi" for folder in (spec.submodule_search_locations if spec else None) or ()]
    if not any((folder / name).exists() for folder in folders for name in CUDA_PROVIDER_LIBRARIES):
        return (
            "this onnxruntime has no CUDA provider: pip uninstall -y onnxruntime, then pip install --force-reinstall "
            "onnxruntime-gpu"
        )
    return wheels.why_driver_too_old("onnxruntime-gpu")


def why_tensorrt_missing(library: str = "tensorrt") -> str | None:
    """Tells what a TensorRT library, "tensorrt" or "tensorrt-rtx", lacks on this machine: one sentence without a full stop, or None."""
    missing = _explain_missing_packages((library.replace("-", "_"), "polygraphy"), library)
    return driver.why_gpu_unavailable() or missing or driver.why_no_cuda_package() or wheels.why_driver_too_old(library)


def why_tensorrt_unavailable(bundle: Bundle | None, library: str = "tensorrt") -> str | None:
    """Tells why TensorRT cannot run, as an `AvailabilityCheck`. Opening a plan tells whether it fits."""
    reason = why_tensorrt_missing(library)
    if reason or bundle is None:
        return reason
    from engines.trt.library import LIBRARY_TITLES
    from engines.trt.plan import list_plan_files

    if not list_plan_files(bundle, library):
        return f"no plan is built for this GPU and this {LIBRARY_TITLES[library]}: dni-deploy build --engine {library}"
    return None


def why_tensorrt_rtx_unavailable(bundle: Bundle | None) -> str | None:
    """Tells why TensorRT for RTX cannot run, as an `AvailabilityCheck`."""
    return why_tensorrt_unavailable(bundle, "tensorrt-rtx")


def _explain_missing_packages(names: tuple[str, ...], extra: str) -> str | None:
    missing = [name for name in names if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: {format_install_line(extra)}" if missing else None


@dataclass(frozen=True)
class EngineEntry:
    """One line of the list of engines.

    Attributes:
        opener: "module:function" that takes (bundle, options: EngineOptions) and returns an Engine.
        title: What the engine is, in a few words.
        unavailable_reason: Tells why the engine cannot run here.
        builder: "module:function" that takes (bundle, options: BuildOptions, progress) and returns a BuildResult; None where
            there is nothing to build ahead.
        build_option_names: What the builder makes use of, of "threads", "precision", "profile", "strip", "compute_capabilities"
            and "device"; anything else is refused.
        open_option_names: What the opener makes use of, of "threads", "precision", "device" and "cuda_graph"; see
            `list_unused_options`.
    """

    opener: str
    title: str
    unavailable_reason: AvailabilityCheck
    builder: str | None = None
    build_option_names: tuple[str, ...] = ()
    open_option_names: tuple[str, ...] = ("precision", "device", "cuda_graph")


ENGINES: Mapping[str, EngineEntry] = {
    "tensorrt": EngineEntry(
        "engines.trt.load:open_engine",
        "TensorRT, weights blended on the GPU and refitted",
        why_tensorrt_unavailable,
        "engines.trt.build:build_plan",
        ("precision", "profile", "strip", "device"),
    ),
    "tensorrt-rtx": EngineEntry(
        "engines.trt.load:open_rtx_engine",
        "TensorRT for RTX, weights blended on the GPU and refitted",
        why_tensorrt_rtx_unavailable,
        "engines.trt.build:build_rtx_plan",
        ("precision", "profile", "strip", "compute_capabilities", "device"),
    ),
    "onnxruntime-gpu": EngineEntry(
        "engines.onnxruntime_gpu.load:open_bound",
        "ONNX Runtime on the GPU, weights blended in the memory that it reads",
        why_onnxruntime_gpu_unavailable,
    ),
    "onnxruntime": EngineEntry(
        "engines.onnxruntime_cpu.load:open_in_place",
        "ONNX Runtime on the CPU, weights blended in place",
        why_onnxruntime_unavailable,
        "engines.onnxruntime_cpu.build:build_plan",
        ("threads",),
        open_option_names=("threads",),
    ),
}
"""Every engine by name, in the order in which `auto` prefers them."""

ENGINE_BY_OTHER_NAME: Mapping[str, str] = {
    **dict.fromkeys(("cuda", "gpu", "nvidia", "vulkan", "ncnn"), "auto"),
    **dict.fromkeys(("trt", "tensor-rt"), "tensorrt"),
    **dict.fromkeys(("rtx", "trt-rtx", "trt_rtx"), "tensorrt-rtx"),
    **dict.fromkeys(("ort-gpu", "ort-cuda", "ort_cuda"), "onnxruntime-gpu"),
    **dict.fromkeys(("cpu", "ort", "ort-cpu", "ort_cpu", "onnx", "torch", "openvino"), "onnxruntime"),
}
"""The engine that does what the name of another program's backend or device asks for."""


@dataclass(frozen=True)
class EngineChoice:
    """An engine that was chosen.

    Attributes:
        name: Name of the engine, as in `ENGINES`.
        reason: REASON_REQUESTED, or why the engines that `auto` prefers cannot run.
    """

    name: str
    reason: str


class OpenedEngine(NamedTuple):
    """An open engine, and how it was chosen.

    Attributes:
        engine: The engine; the caller closes it.
        choice: How it was chosen.
    """

    engine: Engine
    choice: EngineChoice


def choose_engine(name: str = "auto", bundle: Bundle | None = None) -> EngineChoice:
    """Chooses the engine that `auto` stands for here, or checks the named one.

    Args:
        name: "auto" or a name from `ENGINES`.
        bundle: The bundle to run; None to ask about the machine alone.

    Returns:
        The choice.

    Raises:
        UsageError: There is no engine of this name.
        UnavailableError: The engine, or with `auto` every one, cannot run here.
    """
    skipped: dict[str, str] = {}
    for choice in _candidates(name, bundle, skipped):
        return choice
    raise _no_engine_error(skipped)


def choose_builder(name: str = "auto") -> EngineChoice:
    """Chooses the engine that `build` builds for. That no plan is built yet does not rule an engine out.

    Args:
        name: A name from `ENGINES`, or "auto" for the first of auto's that can run here and has something to build.

    Returns:
        The choice.

    Raises:
        UsageError: There is no engine of this name, or it has nothing to build.
        UnavailableError: As in `choose_engine`.
    """
    skipped: dict[str, str] = {}
    for choice in _candidates(name, None, skipped):
        if ENGINES[choice.name].builder is not None:
            return choice
        if name != "auto":
            others = ", ".join(other for other, entry in ENGINES.items() if entry.builder)
            raise UsageError(f"The engine {name} has nothing to build ahead; these have: {others}.")
        _skip_engine(skipped, choice.name, "it has nothing to build ahead")
    raise _no_engine_error(skipped)


def open_engine(bundle: Bundle, name: str = "auto", options: EngineOptions | None = None) -> OpenedEngine:
    """Opens a bundle in an engine; every slot still needs its first refit.

    `auto` skips what this machine lacks, and the choice's reason says so: an unavailable reason, a package that does not
    import, an UnavailableError from the opener. It does not skip an EngineError: that engine is available and failed, or
    computed something else than the reference. The owner of a GPU must learn that, and not wonder why frames are slow;
    `--engine` names another one. Neither does it skip a damaged plan (BundleError, RefusedError): that one is to be built
    again.

    Args:
        bundle: The bundle.
        name: "auto" or a name from `ENGINES`.
        options: How to open it; None for the defaults.

    Returns:
        The engine, which the caller closes, and how it was chosen.

    Raises:
        UsageError: There is no engine of this name.
        UnavailableError: The engine, or with `auto` every one, cannot run here.
        EngineError: The network cannot be opened, or the engine computes something else than the reference.
        BundleError: A plan is damaged.
        RefusedError: A plan is not to be trusted.
    """
    options = options or EngineOptions()
    skipped: dict[str, str] = {}
    for candidate in _candidates(name, bundle, skipped):
        choice = _note_unused_options(candidate, options)
        try:
            return _open_chosen(bundle, choice, options)
        except (UnavailableError, EngineError) as error:
            if name != "auto":
                raise
            if isinstance(error, EngineError):
                raise _chosen_by_auto(error) from error
            _skip_engine(skipped, choice.name, str(error).removeprefix(_unavailable_prefix(choice.name)).rstrip("."))
    raise _no_engine_error(skipped)


def load_engine(bundle: Bundle, name: str = "auto", options: EngineOptions | None = None) -> Engine:
    """Opens a bundle as `open_engine` does and returns the engine alone."""
    return open_engine(bundle, name, options).engine


def build_engine(bundle: Bundle, name: str, options: BuildOptions, progress: OptionalProgress = None) -> BuildResult:
    """Builds ahead of time what an engine opens later.

    Args:
        bundle: The bundle; the plan is written into it.
        name: A name from `ENGINES`, not "auto".
        options: How to build.
        progress: Called as the build proceeds.

    Returns:
        What was built.

    Raises:
        UsageError: There is nothing to build, or the plan exists and neither `force` nor `keep` is set.
        UnavailableError: A package of the engine does not import.
        EngineError: The plan cannot be built, or computes something else than the reference.
        LimitError: There is no room for it.
    """
    entry = ENGINES[name]
    if entry.builder is None:
        raise UsageError(f"The engine {name} has nothing to build ahead.")
    result: BuildResult = import_backend_function(name, entry.builder)(bundle, options, progress)
    return result


def refuse_unused_options(choice: EngineChoice, option_names: Iterable[str]) -> None:
    """Refuses options that the engine's builder has no use for.

    Args:
        choice: The engine.
        option_names: Names of the options that were given, as in `EngineEntry.build_option_names`.

    Raises:
        UsageError: One of them has no effect.
    """
    unused = [option for option in option_names if option not in ENGINES[choice.name].build_option_names]
    if unused:
        users = [other for other, entry in ENGINES.items() if set(unused) <= set(entry.build_option_names)]
        message = f"Building for the engine {choice.name} has no use for {' and '.join(unused)}"
        message += f"; that is for {', '.join(users)}." if users else "."
        raise UsageError(message if choice.reason == REASON_REQUESTED else f"{message} It was chosen because: {choice.reason}.")


def list_unused_options(name: str, options: EngineOptions) -> list[str]:
    """Lists the options of a user that change nothing in an engine, such as a GPU's precision on the CPU.

    Args:
        name: A name from `ENGINES`.
        options: How to open the engine.

    Returns:
        Such as ["precision fp16", "device 3"].
    """
    given = {
        "threads": options.threads and f"threads {options.threads}",
        "precision": options.precision not in (None, "fp32") and f"precision {options.precision}",
        "device": options.device and f"device {options.device}",
        "cuda_graph": options.cuda_graph and "cuda_graph",
    }
    return [str(text) for option, text in given.items() if text and option not in ENGINES[name].open_option_names]


def _note_unused_options(choice: EngineChoice, options: EngineOptions) -> EngineChoice:
    """Adds to the reason what an engine has no use for; raises UsageError where the user named the engine."""
    unused = " and ".join(list_unused_options(choice.name, options))
    if not unused:
        return choice
    if choice.reason == REASON_REQUESTED:
        users = [name for name in ENGINES if not list_unused_options(name, options)]
        hint = f"; that is for {', '.join(users)}." if users else "."
        raise UsageError(f"The engine {choice.name} has no use for {unused}{hint}")
    return EngineChoice(choice.name, f"{choice.reason}; {unused} changes nothing here")


def check_engine_name(name: str) -> None:
    """Raises UsageError where no engine has this name."""
    if name not in ENGINES:
        known = ("auto", *ENGINES)
        other = ENGINE_BY_OTHER_NAME.get(name.lower())
        hint = f"; did you mean {other!r}?" if other else suggest_name(name, known, likeness=0.8)
        raise UsageError(f"There is no engine {escape_name(name)!r}; there are {', '.join(known)}{hint}")


def _candidates(name: str, bundle: Bundle | None, skipped: dict[str, str]) -> Iterator[EngineChoice]:
    """Yields the named engine, or auto's that can run, best first; adds the reasons of the others to `skipped` by name."""
    if name != "auto":
        check_engine_name(name)
        reason = _find_unavailable_reason(name, bundle)
        if reason is not None:
            raise UnavailableError(f"{_unavailable_prefix(name)}{reason}.")
        yield EngineChoice(name, REASON_REQUESTED)
        return
    for candidate in ENGINES:
        try:
            reason = _find_unavailable_reason(candidate, bundle)
        except EngineError as error:
            raise _chosen_by_auto(error) from error
        except DniError as error:  # a plan that cannot be read, say: a reason like any other, and the next one may run
            reason = str(error).rstrip(".")
        if reason is None:
            yield EngineChoice(candidate, _format_reasons(skipped))
        else:
            _skip_engine(skipped, candidate, reason)


def _chosen_by_auto(error: EngineError) -> EngineError:
    return type(error)(f"{error} This is what auto chose; name another one with --engine to do without it.")


def _skip_engine(skipped: dict[str, str], name: str, reason: str) -> None:
    skipped[name] = reason
    log.info("engine %s skipped: %s", name, reason)


def _find_unavailable_reason(name: str, bundle: Bundle | None) -> str | None:
    """Asks the entry. A package that breaks while it is looked at is a reason: it must not take those down that work."""
    try:
        return ENGINES[name].unavailable_reason(bundle)
    except DniError:
        raise
    except Exception as error:
        return f"looking at it failed with {type(error).__name__}, {escape_name(error).rstrip('.')}"


def _format_reasons(skipped: Mapping[str, str]) -> str:
    """Formats a clause for each reason, with all engines that it ruled out: "not a, b and c: reason; not d: reason"."""
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names_by_reason.setdefault(reason, []).append(name)
    listed = {
        reason: ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1] for reason, names in names_by_reason.items()
    }
    clauses = (f"not {names}: {reason}" for reason, names in listed.items())
    return "; ".join(clauses) or "the first choice"


def _unavailable_prefix(name: str) -> str:
    return f"The engine {name} cannot run here: "


def _no_engine_error(skipped: Mapping[str, str]) -> UnavailableError:
    return UnavailableError(f"No engine can run here; {_format_reasons(skipped)}. `dni-deploy doctor` tells more.")


def _open_chosen(bundle: Bundle, choice: EngineChoice, options: EngineOptions) -> OpenedEngine:
    started = time.perf_counter()
    engine: Engine = import_backend_function(choice.name, ENGINES[choice.name].opener)(bundle, options)
    log.info(
        "engine %s opened in %.2f s (%s): %s", choice.name, time.perf_counter() - started, choice.reason, engine.update_path
    )
    return OpenedEngine(engine, choice)


def import_backend_function(engine: str, name: str) -> Callable[..., Any]:
    """Imports a function of a backend.

    Args:
        engine: The engine's name, for the message.
        name: "module:function".

    Raises:
        UnavailableError: A package of the engine does not import: a library that it links is missing, say.
    """
    module_name, _, function = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, OSError) as error:
        raise UnavailableError(
            f"{_unavailable_prefix(engine)}{type(error).__name__}, {escape_name(error).rstrip('.')}."
        ) from error
    imported: Callable[..., Any] = getattr(module, function)
    return imported
