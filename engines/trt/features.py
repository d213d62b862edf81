"""What the installed TensorRT can do, asked of the module itself.

Numbers of enum members change between 8, 10 and 11 and whole classes come and go, so everything is asked by name. It is asked
when an engine is opened, never at import: tests run several TensorRTs in one process.
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
    """What one TensorRT can do; in parentheses, the version that has it first.

    Attributes:
        version: TensorRT's own, such as "10.16.1".
        device_weights: Weights are refitted from device memory and in a stream (9.1). Without it they pass through the host.
        weights_prototype: The engine tells type and count of each weight that it expects (10.0).
        individual_refit: Weights are made refittable one by one, so that all else can still be folded (10.5).
        strip: A plan can be written without its weights (9.3).
        explicit_batch: A network needs the flag that its batch is a dimension (before 10).
        strongly_typed: The graph's own types are used; before, half precision is a flag of the builder.
        native_instancenorm: The parser needs a flag to keep InstanceNormalization refittable; later ones keep it by themselves.
        narrow_tactics: Tactics from cuBLAS and cuDNN are left out: they are not needed and not always installed.
        progress: The builder reports its progress (9/10).
        contexts_survive: Execution contexts stay valid over a refit (9.1).
        max_opset: Newest ONNX opset that the parser reads, or None where every exported one is within it.
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
        """Asks a TensorRT module, `trt`."""
        refitter = trt.Refitter
        strongly_typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        # Three follow from the version, for want of an attribute: 10 still has the flag for explicit batches; contexts:
        # NvInferRuntime.h of 8.6, IRefitter; opset: onnx-tensorrt 8.6, operators.md.
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
        """Returns the precision of the graph that the parser reads for a plan of this precision, "fp32" or "fp16".

        Half precision by a flag of the builder keeps a float32 graph and float32 weights.
        """
        return precision if self.strongly_typed else "fp32"


def detect_features() -> Features:
    """Asks the TensorRT that is installed, which imports it.

    Raises:
        UnavailableError: There is no GPU, without which its classes crash; or it is 8.6 beside NumPy 2.
    """
    reason = driver.why_gpu_unavailable()
    if reason:
        raise UnavailableError(f"TensorRT cannot run here: {reason}.")
    import tensorrt as trt

    features = Features.from_module(trt)
    if not features.device_weights and NUMPY_MAJOR_VERSION >= 2:
        raise UnavailableError(
            f"TensorRT {features.version} reads the arrays of NumPy 2 wrong, without an error, so that weights would be lost; "
            "pip install 'numpy<2' or a newer TensorRT."
        )
    return features
