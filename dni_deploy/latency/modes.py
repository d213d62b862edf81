"""The ways to run a family at a changing alpha that the benchmark compares: the product's engines and the baselines."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.utils.hardware import has_bfloat16
from dni_deploy.utils.install_line import format_install_line
from dni_deploy.utils.progress import OptionalProgress
from engines.interface import Engine, EngineOptions
from engines.registry import (
    ENGINES,
    import_backend_function,
    load_engine,
    why_onnxruntime_unavailable,
    why_tensorrt_missing,
)

ORT_BASELINES = "dni_deploy.latency.baselines.onnxruntime_cpu"
TENSORRT_BASELINES = "dni_deploy.latency.baselines.tensorrt"
TORCH_BASELINES = "dni_deploy.latency.baselines.torch_cpu"
OPENVINO_BASELINES = "dni_deploy.latency.baselines.openvino"


@dataclass(frozen=True)
class BackendMode:
    """One way to run a family.

    Attributes:
        name: A word for tables and JSON.
        title: What it does, in a few words.
        open_engine: Opens a bundle with these options.
        unavailable_reason: Why it cannot run the bundle here, or, with None, on this machine: one sentence without a full stop,
            or None.
        changes_alpha: False for constant weights, with which the others are compared.
        on_gpu: Whether it computes on a GPU: its weights are not in resident memory then.
        build_plan: Builds the plan that it opens unless the bundle has one; None where it needs none, or `dni-deploy build`
            builds it.
        module: Module whose import loads the packages that it needs on the CPU beside ONNX Runtime; None where it needs none.
    """

    name: str
    title: str
    open_engine: Callable[[Bundle, EngineOptions], Engine]
    unavailable_reason: Callable[[Bundle | None], str | None]
    changes_alpha: bool = True
    on_gpu: bool = False
    build_plan: Callable[[Bundle, OptionalProgress], None] | None = None
    module: str | None = None


def _make_engine_mode(name: str, title: str, engine: str, *, on_gpu: bool = False) -> BackendMode:
    """Makes the mode of an engine that users choose."""

    def open_engine(bundle: Bundle, options: EngineOptions) -> Engine:
        return load_engine(bundle, engine, options)

    return BackendMode(name, title, open_engine, lambda bundle: ENGINES[engine].unavailable_reason(bundle), on_gpu=on_gpu)


def _make_ort_baseline(name: str, title: str, opener: str, *, changes_alpha: bool = True) -> BackendMode:
    """Makes the mode of a baseline in ONNX Runtime; `opener` is its name in the module of these baselines."""

    def open_engine(bundle: Bundle, options: EngineOptions) -> Engine:
        engine: Engine = import_backend_function("onnxruntime", f"{ORT_BASELINES}:{opener}")(bundle, options)
        return engine

    def unavailable_reason(bundle: Bundle | None) -> str | None:
        return why_onnxruntime_unavailable(bundle) or (_why_calibration_unsupported(bundle) if changes_alpha else None)

    return BackendMode(name, title, open_engine, unavailable_reason, changes_alpha)


def _make_tensorrt_baseline(name: str, title: str, engine: str, *, changes_alpha: bool = True) -> BackendMode:
    """Makes the mode of a baseline in TensorRT; `engine` is its name in the module of these baselines."""

    def open_engine(bundle: Bundle, options: EngineOptions) -> Engine:
        opened: Engine = import_backend_function(engine, f"{TENSORRT_BASELINES}:open_baseline")(engine, bundle, options)
        return opened

    def unavailable_reason(bundle: Bundle | None) -> str | None:
        return why_tensorrt_missing() or (_why_calibration_unsupported(bundle) if changes_alpha else None)

    def build_plan(bundle: Bundle, progress: OptionalProgress) -> None:
        import_backend_function(engine, f"{TENSORRT_BASELINES}:build_missing_baseline")(engine, bundle, progress)

    return BackendMode(name, title, open_engine, unavailable_reason, changes_alpha, True, build_plan)


def _why_calibration_unsupported(bundle: Bundle | None) -> str | None:
    if bundle is None or bundle.manifest.calibration is None:
        return None
    return "the bundle is calibrated, and the baselines blend without a calibration"


def _make_torch_baseline(name: str, title: str, engine_class: str) -> BackendMode:
    """Makes the mode of a baseline in PyTorch; `engine_class` is its name in the module of these baselines."""

    def open_engine(bundle: Bundle, options: EngineOptions) -> Engine:
        engine: Engine = import_backend_function("torch", f"{TORCH_BASELINES}:{engine_class}")(bundle, options)
        return engine

    def unavailable_reason(bundle: Bundle | None) -> str | None:
        if importlib.util.find_spec("torch") is None:
            return f"torch not installed: {format_install_line('export')}"
        return _why_calibration_unsupported(bundle)

    return BackendMode(name, title, open_engine, unavailable_reason, module=TORCH_BASELINES)


def _make_openvino_baseline(name: str, title: str, engine_class: str, *, needs_bfloat16: bool = False) -> BackendMode:
    """Makes the mode of a baseline in OpenVINO; `engine_class` is its name in the module of these baselines."""

    def open_engine(bundle: Bundle, options: EngineOptions) -> Engine:
        engine: Engine = import_backend_function("openvino", f"{OPENVINO_BASELINES}:{engine_class}")(bundle, options)
        return engine

    def unavailable_reason(bundle: Bundle | None) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "openvino not installed: pip install openvino"
        return "this processor does not compute in bfloat16" if needs_bfloat16 and not has_bfloat16() else None

    return BackendMode(name, title, open_engine, unavailable_reason, changes_alpha=False, module=OPENVINO_BASELINES)


BACKEND_MODES = (
    _make_engine_mode("in place", "ours: weights blended in place under the running session", "onnxruntime"),
    _make_engine_mode("tensorrt", "ours: TensorRT, weights blended on the GPU and refitted", "tensorrt", on_gpu=True),
    _make_engine_mode(
        "tensorrt-rtx", "ours: TensorRT for RTX, weights blended on the GPU and refitted", "tensorrt-rtx", on_gpu=True
    ),
    _make_engine_mode(
        "ort gpu", "ours: ONNX Runtime on the GPU, weights blended where it reads them", "onnxruntime-gpu", on_gpu=True
    ),
    _make_ort_baseline(
        "constant", "stock ONNX Runtime session with constant weights", "OrtConstantBaseline", changes_alpha=False
    ),
    _make_ort_baseline("rebuild", "a new ONNX Runtime session for every alpha", "open_rebuild"),
    _make_ort_baseline("inputs", "ONNX Runtime, weights as graph inputs", "OrtInputsBaseline"),
    _make_ort_baseline("in graph", "ONNX Runtime, alpha as a graph input, blend in the graph", "OrtGraphBaseline"),
    _make_openvino_baseline("openvino", "OpenVINO with constant weights and shape, float32", "OpenVinoBaseline"),
    _make_openvino_baseline(
        "openvino bf16", "OpenVINO with constant weights and shape, bfloat16", "OpenVinoBf16Baseline", needs_bfloat16=True
    ),
    _make_tensorrt_baseline("trt constant", "TensorRT with constant weights", "tensorrt-constant", changes_alpha=False),
    _make_tensorrt_baseline("trt inputs", "TensorRT, weights as inputs of the network", "tensorrt-inputs"),
    _make_tensorrt_baseline("trt in graph", "TensorRT, alpha as an input, blend in the network", "tensorrt-graph"),
    _make_torch_baseline("torch", "PyTorch eager, blended state dict and load_state_dict", "TorchEager"),
    _make_torch_baseline(
        "torch channels last",
        "PyTorch eager in channels-last order, blended state dict and load_state_dict",
        "TorchChannelsLast",
    ),
    _make_torch_baseline(
        "torch compile",
        "torch.compile in channels-last order, constant shape, blended state dict and load_state_dict",
        "TorchCompiled",
    ),
)


def make_copy_baseline(engine: Engine) -> Callable[[], None] | None:
    """Makes a plain copy of as many bytes as an in-place blend writes, into the same memory; None for other engines."""
    from engines.onnxruntime_cpu.engine import InPlaceEngine

    if not isinstance(engine, InPlaceEngine):
        return None
    source: NDArray[np.float32] = engine.blender.member_rows[0]
    target = engine.weight_buffers[0].flat

    def copy_weights() -> None:
        np.copyto(target, source)

    return copy_weights
