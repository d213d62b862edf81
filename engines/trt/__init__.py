"""TensorRT: a plan built once, and its weights refitted from device memory while it runs.

Imports are inside the functions: `engines.trt.plan` is asked for plans where TensorRT need not be loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dni_deploy.progress import MaybeProgress
from engines.options import BuildOptions, EngineOptions

if TYPE_CHECKING:
    from dni_deploy.bundle import Bundle
    from engines import Built
    from engines.engine import DeviceEngine


def open_refit(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """Weights blended on the GPU and refitted into the running engine."""
    from engines.trt.opening import open_engine

    return open_engine(bundle, "refit", options)


def open_inputs(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """Weights as inputs of the network."""
    from engines.trt.opening import open_engine

    return open_engine(bundle, "inputs", options)


def open_graph(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """Alpha as an input of the network, which blends by itself."""
    from engines.trt.opening import open_engine

    return open_engine(bundle, "graph", options)


def open_constant(bundle: Bundle, options: EngineOptions) -> DeviceEngine:
    """The first member alone, not refittable; alpha cannot change."""
    from engines.trt.opening import open_engine

    return open_engine(bundle, "constant", options)


def build_refit(bundle: Bundle, options: BuildOptions, progress: MaybeProgress = None) -> Built:
    """Build, verify and write the plan that `open_refit` opens. Raises UsageError if it exists and force is off, EngineError."""
    from engines.trt.building import build_plan

    return build_plan(bundle, "refit", options, progress)


def build_inputs(bundle: Bundle, options: BuildOptions, progress: MaybeProgress = None) -> Built:
    """The same for `open_inputs`."""
    from engines.trt.building import build_plan

    return build_plan(bundle, "inputs", options, progress)


def build_graph(bundle: Bundle, options: BuildOptions, progress: MaybeProgress = None) -> Built:
    """The same for `open_graph`."""
    from engines.trt.building import build_plan

    return build_plan(bundle, "graph", options, progress)


def build_constant(bundle: Bundle, options: BuildOptions, progress: MaybeProgress = None) -> Built:
    """The same for `open_constant`."""
    from engines.trt.building import build_plan

    return build_plan(bundle, "constant", options, progress)


def serialize_refitted(bundle: Bundle, shares: NDArray[np.float64], precision: str | None = None) -> bytes:
    """A plain TensorRT engine with the weights of one alpha: shares float64 (N,), in family order; the newest plan's precision.

    It is what TensorRT serializes, without a header of ours. Raises EnvironmentProblem where no plan is built, EngineError.
    """
    from engines.trt.opening import serialized

    return serialized(bundle, shares, precision)
