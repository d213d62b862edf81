"""The modes that the GPU benchmark compares, the most important first, since opening stops when the time is up."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dni_deploy.bundle.bundle import Bundle
from engines.interface import BuildOptions, DeviceEngine, EngineOptions
from engines.profile import Profile
from engines.registry import ENGINES, load_engine
from engines.trt.library import LIBRARY_TITLES

if TYPE_CHECKING:
    from engines.trt.engine import TensorRTEngine

MIN_PLAN_SIZE, TUNED_PLAN_SIZE = (64, 64), (720, 1280)
"""Smaller than the default full HD: eight contexts at x4, float32 and full HD would exceed the memory of any GPU."""


def list_mode_names(*suffixes: str) -> tuple[str, ...]:
    """Lists the modes with these suffixes ("" for the refitted engine itself) of both TensorRT libraries."""
    return tuple(f"{library}{suffix}" for library in LIBRARY_TITLES for suffix in suffixes)


OUR_MODES = (*list_mode_names("-ahead", "", "-replay", "-inputs", "-inputs-replay"), "onnxruntime-gpu")
"""This project's modes that change alpha without a rebuild; the in-graph blend is an alternative to compare with."""


@dataclass(frozen=True)
class GpuBackendMode:
    """A mode, one row of the tables.

    Attributes:
        name: For tables and options.
        title: For tables.
        open_engine: (bundle, precision) -> DeviceEngine; its plan exists.
        unavailable_reason: Why it cannot run here, or None.
        changes_alpha: False for the mode whose alpha is constant.
        async_refit: Two slots, the idle one changed while a frame runs.
        engine: Name of the engine or baseline that it opens; None for PyTorch's.
        slow: Opening it may take minutes, and cannot be interrupted.
    """

    name: str
    title: str
    open_engine: Callable[[Bundle, str], DeviceEngine]
    unavailable_reason: Callable[[], str | None]
    changes_alpha: bool = True
    async_refit: bool = False
    engine: str | None = None
    slow: bool = False


def engine_library(engine: str) -> str | None:
    """Returns the TensorRT library of an engine or baseline, a key of LIBRARY_TITLES; None for one that needs no plan."""
    return next((library for library in sorted(LIBRARY_TITLES, key=len, reverse=True) if engine.startswith(library)), None)


def has_plan(bundle: Bundle, engine: str, precision: str) -> bool:
    """Returns whether the engine can be opened now: its plan exists, or it needs none."""
    if engine_library(engine) is None:
        return True
    from engines.trt.plan import find_plan

    engine_class = _tensorrt_class(engine)
    return find_plan(bundle, engine_class.network_class, precision, library_name=engine_class.library_name) is not None


def _tensorrt_class(engine: str) -> type[TensorRTEngine[Any]]:
    from dni_deploy.latency.baselines.tensorrt import TENSORRT_BASELINES
    from engines.trt.engine import REFIT_ENGINES

    return {**TENSORRT_BASELINES, **REFIT_ENGINES}[engine]


def max_plan_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Returns the height and width that a plan is built up to, and tuned for, so that it takes this shape."""
    return TUNED_PLAN_SIZE if shape[0] <= TUNED_PLAN_SIZE[0] and shape[1] <= TUNED_PLAN_SIZE[1] else shape


def build_plan(bundle: Bundle, engine: str, precision: str, max_size: tuple[int, int]) -> None:
    """Builds the engine's plan for MIN_PLAN_SIZE to `upto`, tuned for that, unless the bundle has one: one size per bundle."""
    if has_plan(bundle, engine, precision):
        return
    channels, batch = bundle.signature.input_channels, bundle.signature.frame_batch
    profile = Profile.from_shapes(
        bundle.signature, (1, channels, *MIN_PLAN_SIZE), (1, channels, *max_size), (batch, channels, *max_size)
    )
    from engines.trt import build

    build.build_plan(bundle, BuildOptions(precision=precision, profile=profile), None, _tensorrt_class(engine))


def _make_engine_mode(
    name: str, title: str, engine: str, *, slots: int = 1, replay: bool = False, changes: bool = True
) -> GpuBackendMode:
    def open_mode(bundle: Bundle, precision: str) -> DeviceEngine:
        options = EngineOptions(slots=slots, precision=precision, cuda_graph=replay)
        if engine_library(engine) is None:
            opened: DeviceEngine = load_engine(bundle, engine, options)  # type: ignore[assignment]  # this one is on a GPU
            return opened
        from engines.trt.load import open_engine

        return open_engine(bundle, options, _tensorrt_class(engine))

    check = ENGINES[engine_library(engine) or engine].unavailable_reason
    return GpuBackendMode(name, title, open_mode, lambda: check(None), changes, slots > 1, engine)


def _make_tensorrt_modes(library: str) -> tuple[GpuBackendMode, ...]:
    """Makes the modes of one TensorRT library, "tensorrt" or "tensorrt-rtx"."""
    title = LIBRARY_TITLES[library]
    inputs = f"{library}-inputs"
    ahead = f"ours: {title}, two engines, the idle one refitted while a frame runs"
    constant = f"{title}, a plan per alpha (the ceiling)"
    return (
        _make_engine_mode(library, f"ours: {title}, refitted", library),
        _make_engine_mode(f"{library}-constant", constant, f"{library}-constant", changes=False),
        _make_engine_mode(f"{library}-ahead", ahead, library, slots=2),
        _make_engine_mode(inputs, f"ours: {title}, weights as inputs", inputs),
        _make_engine_mode(f"{library}-replay", f"ours: {title}, refitted, frames as a CUDA graph", library, replay=True),
        _make_engine_mode(f"{inputs}-replay", f"ours: {title}, weights as inputs, a CUDA graph", inputs, replay=True),
        _make_engine_mode(f"{library}-graph", f"{title}, alpha as an input, blend in the graph", f"{library}-graph"),
    )


def _make_torch_mode(name: str, title: str, mode: str) -> GpuBackendMode:
    def open_mode(bundle: Bundle, precision: str) -> DeviceEngine:
        from benchmarks.gpu.torch_peers import TorchPeer

        return TorchPeer(bundle, precision, mode)

    return GpuBackendMode(name, title, open_mode, why_torch_unavailable, slow=mode not in ("eager", "graph"))


def why_torch_unavailable() -> str | None:
    """Why PyTorch cannot compute on a GPU here, or None."""
    if importlib.util.find_spec("torch") is None:
        return "torch not installed"
    import torch

    return None if torch.cuda.is_available() else "this torch sees no GPU"


GPU_BACKEND_MODES: tuple[GpuBackendMode, ...] = (
    *(mode for library in LIBRARY_TITLES for mode in _make_tensorrt_modes(library)),
    _make_engine_mode("onnxruntime-gpu", "ours: ONNX Runtime on the GPU, weights as inputs", "onnxruntime-gpu"),
    _make_torch_mode("torch-eager", "PyTorch eager, weights blended in place", "eager"),
    _make_torch_mode("torch-graph", "PyTorch eager in a CUDA graph, weights blended in place", "graph"),
    _make_torch_mode("torch-compile", "torch.compile with CUDA graphs, weights blended in place", "reduce-overhead"),
    _make_torch_mode("torch-autotune", "torch.compile max-autotune with CUDA graphs, weights blended in place", "max-autotune"),
)


def select_modes(names: tuple[str, ...] | None) -> tuple[GpuBackendMode, ...]:
    return tuple(mode for mode in GPU_BACKEND_MODES if names is None or mode.name in names)
