"""TensorRT: a plan built once, and its weights refitted from device memory while it runs.

Nothing of TensorRT is imported here: `engines.trt.plan` is asked for plans where it need not be loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EnvironmentProblem, shown
from dni_deploy.utils.progress import MaybeProgress
from engines.options import BuildOptions, EngineOptions

if TYPE_CHECKING:
    from dni_deploy.bundle.bundle import Bundle
    from engines import Built
    from engines.interface import DeviceEngine


def open_refit(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """Weights blended on the GPU and refitted into the running engine."""
    return _open(bundle, "refit", options)


def open_inputs(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """Weights as inputs of the network."""
    return _open(bundle, "inputs", options)


def open_graph(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """Alpha as an input of the network, which blends by itself."""
    return _open(bundle, "graph", options)


def open_constant(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """The first member alone, not refittable; alpha cannot change."""
    return _open(bundle, "constant", options)


def build_refit(bundle: Bundle, options: BuildOptions, progress: MaybeProgress = None) -> Built:
    """Build, verify and write the plan that `open_refit` opens. Raises UsageError if it exists and force is off, EngineError."""
    return _build(bundle, "refit", options, progress)


def build_inputs(bundle: Bundle, options: BuildOptions, progress: MaybeProgress = None) -> Built:
    """The same for `open_inputs`."""
    return _build(bundle, "inputs", options, progress)


def build_graph(bundle: Bundle, options: BuildOptions, progress: MaybeProgress = None) -> Built:
    """The same for `open_graph`."""
    return _build(bundle, "graph", options, progress)


def build_constant(bundle: Bundle, options: BuildOptions, progress: MaybeProgress = None) -> Built:
    """The same for `open_constant`."""
    return _build(bundle, "constant", options, progress)


def serialize_refitted(bundle: Bundle, shares: NDArray[np.float64], precision: str | None = None) -> bytes:
    """A plain TensorRT engine with the weights of one alpha: shares float64 (N,) or (W, N), as Engine.refit; the newest plan's precision.

    It is what TensorRT serializes, without a header of ours. Raises EnvironmentProblem where no plan is built, EngineError.
    """
    data: bytes = _part("opening").serialized(bundle, shares, precision)
    return data


def _open(bundle: Bundle, kind: str, options: EngineOptions) -> DeviceEngine:
    engine: DeviceEngine = _part("opening").open_engine(bundle, kind, options)
    return engine


def _build(bundle: Bundle, kind: str, options: BuildOptions, progress: MaybeProgress) -> Built:
    built: Built = _part("building").build_plan(bundle, kind, options, progress)
    return built


def _part(name: str) -> Any:
    """A module of this package. Raises EnvironmentProblem where a package that it needs, or a library of one, is not there."""
    try:
        return import_module(f"engines.trt.{name}")
    except (ImportError, OSError) as error:
        raise EnvironmentProblem(f"TensorRT cannot run here: {type(error).__name__}, {shown(error).rstrip('.')}.") from error
