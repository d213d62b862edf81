"""TensorRT: a plan built once, and its weights refitted from device memory while it runs.

Nothing of TensorRT is imported here: `engines.trt.plan` is asked for plans where it need not be loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import UnavailableError, escape_name
from dni_deploy.utils.progress import OptionalProgress
from engines.interface import BuildOptions, EngineOptions

if TYPE_CHECKING:
    from dni_deploy.bundle.bundle import Bundle
    from engines.interface import BuildResult, DeviceEngine


def open_refit(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """Weights blended on the GPU and refitted into the running engine."""
    return _open_mode(bundle, "refit", options)


def open_inputs(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """Weights as inputs of the network."""
    return _open_mode(bundle, "inputs", options)


def open_graph(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """Alpha as an input of the network, which blends by itself."""
    return _open_mode(bundle, "graph", options)


def open_constant(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """The first member alone, not refittable; alpha cannot change."""
    return _open_mode(bundle, "constant", options)


def build_refit(bundle: Bundle, options: BuildOptions, progress: OptionalProgress = None) -> BuildResult:
    """Build, verify and write the plan that `open_refit` opens. Raises UsageError if it exists and force is off, EngineError."""
    return _build_mode(bundle, "refit", options, progress)


def build_inputs(bundle: Bundle, options: BuildOptions, progress: OptionalProgress = None) -> BuildResult:
    """The same for `open_inputs`."""
    return _build_mode(bundle, "inputs", options, progress)


def build_graph(bundle: Bundle, options: BuildOptions, progress: OptionalProgress = None) -> BuildResult:
    """The same for `open_graph`."""
    return _build_mode(bundle, "graph", options, progress)


def build_constant(bundle: Bundle, options: BuildOptions, progress: OptionalProgress = None) -> BuildResult:
    """The same for `open_constant`."""
    return _build_mode(bundle, "constant", options, progress)


def serialize_refitted(bundle: Bundle, coefficients: NDArray[np.float64], precision: str | None = None) -> bytes:
    """A plain TensorRT engine with the weights of one alpha: shares float64 (N,) or (W, N), as Engine.refit; the newest plan's precision.

    It is what TensorRT serializes, without a header of ours. Raises UnavailableError where no plan is built, EngineError.
    """
    data: bytes = _import_submodule("opening").serialized(bundle, coefficients, precision)
    return data


def _open_mode(bundle: Bundle, kind: str, options: EngineOptions) -> DeviceEngine:
    engine: DeviceEngine = _import_submodule("opening").open_engine(bundle, kind, options)
    return engine


def _build_mode(bundle: Bundle, kind: str, options: BuildOptions, progress: OptionalProgress) -> BuildResult:
    built: BuildResult = _import_submodule("building").build_plan(bundle, kind, options, progress)
    return built


def _import_submodule(name: str) -> Any:
    """A module of this package. Raises UnavailableError where a package that it needs, or a library of one, is not there."""
    try:
        return import_module(f"engines.trt.{name}")
    except (ImportError, OSError) as error:
        raise UnavailableError(
            f"TensorRT cannot run here: {type(error).__name__}, {escape_name(error).rstrip('.')}."
        ) from error
