"""Features: what this TensorRT can do, asked of the module itself.

Numbers of enum members move between 8, 10 and 11 and whole classes come and go, so everything is asked by name. Asked when an
engine is opened, never at import: tests run several TensorRTs in one process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dni_deploy.errors import UnavailableError
from engines.cuda import driver

NUMPY_MAJOR_VERSION = int(np.__version__.partition(".")[0])


@dataclass(frozen=True)
class Features:
    """version is TensorRT's own, such as "10.16.1".

    device_weights      weights are refitted from device memory and in a stream (9.1). Without it they pass through the host.
    prototype           the engine tells type and count of each weight that it expects (10.0).
    individual          weights are made refittable one by one, so that all else can still be folded (10.5).
    strip               a plan can be written without its weights (9.3).
    explicit_batch      a network is to be told that its batch is a dimension (before 10).
    strongly_typed      the graph's own types are used; before, half precision is a flag of the builder.
    native_instancenorm the parser wants to be told to keep InstanceNormalization refittable; later ones do by themselves.
    narrow_tactics      tactics from cuBLAS and cuDNN are to be left out: they are neither needed nor always there.
    progress            the builder tells how far it is (9/10).
    contexts_survive    execution contexts stay valid over a refit (9.1).
    largest_opset       of ONNX that the parser reads, or None where ours are all within it.
    """

    version: str
    device_weights: bool
    weights_prototype: bool
    individual_refit: bool
    strip: bool
    explicit_batch: bool
    strongly_typed: bool
    native_instancenorm: bool
    narrow_tactics: bool
    progress: bool
    contexts_survive: bool
    max_opset: int | None

    @classmethod
    def from_module(cls, trt: Any) -> Features:
        """trt: the tensorrt module."""
        refitter = trt.Refitter
        strongly_typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        # No attribute tells of three: 10 still has the flag for explicit batches. Contexts: NvInferRuntime.h of 8.6, IRefitter.
        # Opset: onnx-tensorrt 8.6, operators.md.
        major = int(trt.__version__.partition(".")[0])
        return cls(
            version=str(trt.__version__),
            device_weights=hasattr(refitter, "refit_cuda_engine_async"),
            weights_prototype=hasattr(refitter, "get_weights_prototype"),
            individual_refit=hasattr(trt.BuilderFlag, "REFIT_INDIVIDUAL")
            and hasattr(trt.INetworkDefinition, "mark_weights_refittable"),
            strip=hasattr(trt.BuilderFlag, "STRIP_PLAN"),
            explicit_batch=major < 10,
            strongly_typed=strongly_typed,
            native_instancenorm=not strongly_typed
            and hasattr(trt, "OnnxParserFlag")
            and hasattr(trt.OnnxParserFlag, "NATIVE_INSTANCENORM"),
            narrow_tactics=not strongly_typed and hasattr(trt.TacticSource, "JIT_CONVOLUTIONS"),
            progress=hasattr(trt, "IProgressMonitor"),
            contexts_survive=major >= 9,
            max_opset=17 if major < 9 else None,
        )

    def graph_precision(self, precision: str) -> str:
        """Of the graph that the parser gets: half precision by a flag of the builder keeps a float32 graph and float32 weights."""
        return precision if self.strongly_typed else "fp32"


def detect_features() -> Features:
    """Of the TensorRT that is installed. Raises UnavailableError where no GPU is behind it: its classes crash then."""
    obstacle = driver.why_gpu_unavailable()
    if obstacle:
        raise UnavailableError(f"TensorRT cannot run here: {obstacle}.")
    import tensorrt as trt

    found = Features.from_module(trt)
    if not found.device_weights and NUMPY_MAJOR_VERSION >= 2:
        raise UnavailableError(
            f"TensorRT {found.version} reads the arrays of NumPy 2 wrong, without an error, so that weights would be lost; "
            "pip install 'numpy<2' or a newer TensorRT."
        )
    return found
