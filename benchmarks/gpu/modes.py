"""Ways: what the GPU benchmark compares, the most telling first; opening stops where the time is up."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from dni_deploy.bundle.bundle import Bundle
from engines import ENGINES, build_engine, load_engine
from engines.interface import DeviceEngine
from engines.options import BuildOptions, EngineOptions
from engines.profile import Profile

SMALLEST, TUNED = (64, 64), (720, 1280)
"""Not the product's own full HD: the memory of eight contexts at x4, float32 and full HD is more than any GPU has."""
OURS = ("tensorrt-ahead", "tensorrt", "tensorrt-replay", "tensorrt-inputs", "tensorrt-inputs-replay", "onnxruntime-gpu")
"""The modes of ours that follow alpha without a rebuild; the in-graph blend is an alternative that they are held against."""


@dataclass(frozen=True)
class Way:
    """One row.

    name, title   for tables.          changes  False for the ceiling, whose alpha cannot change.
    ahead         two slots, the idle one changed while a frame runs.
    open          (bundle, precision) -> DeviceEngine; its plan is there.
    obstacle      why it cannot run here, or None.
    engine        the one of engines.ENGINES that it opens; None for PyTorch's.
    slow          opening it may take minutes, and cannot be interrupted.
    """

    name: str
    title: str
    open: Callable[[Bundle, str], DeviceEngine]
    obstacle: Callable[[], str | None]
    changes: bool = True
    ahead: bool = False
    engine: str | None = None
    slow: bool = False


def has_plan(bundle: Bundle, engine: str, precision: str) -> bool:
    """Whether the engine can be opened as it is: its plan is there, or it needs none."""
    if ENGINES[engine].builder is None:
        return True
    from engines.trt.plan import find_plan

    kind = "refit" if engine == "tensorrt" else engine.removeprefix("tensorrt-")
    return find_plan(bundle, kind, precision) is not None


def largest(shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width that a plan is built up to, and tuned for, so that it takes this shape."""
    return TUNED if shape[0] <= TUNED[0] and shape[1] <= TUNED[1] else shape


def build_plan(bundle: Bundle, engine: str, precision: str, upto: tuple[int, int]) -> None:
    """Build the engine's plan for SMALLEST to `upto`, tuned for that, unless the bundle has one. One size of plan per bundle."""
    if has_plan(bundle, engine, precision):
        return
    channels = bundle.signature.input_channels
    profile = Profile.of(bundle.signature, (1, channels, *SMALLEST), (1, channels, *upto), (1, channels, *upto))
    build_engine(bundle, engine, BuildOptions(precision=precision, profile=profile))


def _ours(name: str, title: str, engine: str, *, slots: int = 1, replay: bool = False, changes: bool = True) -> Way:
    def open_way(bundle: Bundle, precision: str) -> DeviceEngine:
        options = EngineOptions(slots=slots, precision=precision, cuda_graph=replay)
        opened: DeviceEngine = load_engine(bundle, engine, options)  # type: ignore[assignment]  # these engines are on a GPU
        return opened

    return Way(name, title, open_way, lambda: ENGINES[engine].obstacle(None), changes, slots > 1, engine)


def _torch(name: str, title: str, mode: str) -> Way:
    def open_way(bundle: Bundle, precision: str) -> DeviceEngine:
        from benchmarks.gpu.torch_peers import TorchPeer

        return TorchPeer(bundle, precision, mode)

    return Way(name, title, open_way, torch_obstacle, slow=mode not in ("eager", "graph"))


def torch_obstacle() -> str | None:
    """Why PyTorch cannot compute on a GPU here, or None."""
    if importlib.util.find_spec("torch") is None:
        return "torch not installed"
    import torch

    return None if torch.cuda.is_available() else "this torch sees no GPU"


WAYS: tuple[Way, ...] = (
    _ours("tensorrt", "ours: TensorRT, refitted", "tensorrt"),
    _ours("tensorrt-constant", "TensorRT, a plan per alpha (the ceiling)", "tensorrt-constant", changes=False),
    _ours("tensorrt-ahead", "ours: TensorRT, two engines, the idle one refitted while a frame runs", "tensorrt", slots=2),
    _ours("tensorrt-inputs", "ours: TensorRT, weights as inputs", "tensorrt-inputs"),
    _ours("tensorrt-replay", "ours: TensorRT, refitted, frames as a CUDA graph", "tensorrt", replay=True),
    _ours("tensorrt-inputs-replay", "ours: TensorRT, weights as inputs, a CUDA graph", "tensorrt-inputs", replay=True),
    _ours("tensorrt-graph", "TensorRT, alpha as an input, blend in the graph", "tensorrt-graph"),
    _ours("onnxruntime-gpu", "ours: ONNX Runtime on the GPU, weights as inputs", "onnxruntime-gpu"),
    _torch("torch-eager", "PyTorch eager, weights blended in place", "eager"),
    _torch("torch-graph", "PyTorch eager in a CUDA graph, weights blended in place", "graph"),
    _torch("torch-compile", "torch.compile with CUDA graphs, weights blended in place", "reduce-overhead"),
    _torch("torch-autotune", "torch.compile max-autotune with CUDA graphs, weights blended in place", "max-autotune"),
)


def chosen(names: tuple[str, ...] | None) -> tuple[Way, ...]:
    return tuple(way for way in WAYS if names is None or way.name in names)
