"""What a TensorRT library can do, asked of its module.

Numbers of enum members change between 8, 10 and 11, whole classes come and go, and TensorRT for RTX counts its versions anew:
so everything is asked by name, and nothing of a version number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Features:
    """What one TensorRT library can do; in parentheses, the version that has it first.

    Attributes:
        version: The library's own, such as "10.16.1".
        device_weights: Weights are refitted from device memory and in a stream, and execution contexts stay valid over that
            (9.1). Without it weights pass through the host, and contexts are made anew.
        weights_prototype: The engine tells type and count of each weight that it expects (10.0).
        individual_refit: Weights are made refittable one by one, so that all else can still be folded (10.5).
        strip: A plan can be written without its weights (9.3).
        explicit_batch: The flag that a network's batch is a dimension exists (until 10); before 10 it is needed.
        strongly_typed: The graph's own types are used (9.1); before, half precision is a flag of the builder.
        native_instancenorm: The parser needs a flag to keep InstanceNormalization refittable; later ones keep it by themselves.
        narrow_tactics: Tactics from cuBLAS and cuDNN are left out: they are not needed and not always installed.
        progress: The builder reports its progress (9/10).
        user_memory: A context works in memory of the caller's, as much as the frame's shape needs (10.1).
        resizes_memory: The builder has RUNTIME_ACTIVATION_RESIZE_10_10, which lets that memory shrink with the shape (10.10).
        portable_plans: A plan is for compute capabilities, not for one GPU model (TensorRT for RTX).
        runtime_cache: Kernels that were compiled when a plan ran can be kept for the next time (TensorRT for RTX).
        own_cuda_graphs: Contexts replay frames as CUDA graphs by themselves (TensorRT for RTX).
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
    user_memory: bool
    resizes_memory: bool
    portable_plans: bool
    runtime_cache: bool
    own_cuda_graphs: bool
    max_opset: int | None

    @classmethod
    def from_module(cls, trt: Any) -> Features:
        """Asks a library's module, `trt`."""
        refitter = trt.Refitter
        strongly_typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        return cls(
            version=str(trt.__version__),
            device_weights=hasattr(refitter, "refit_cuda_engine_async"),
            weights_prototype=hasattr(refitter, "get_weights_prototype"),
            individual_refit=hasattr(trt.BuilderFlag, "REFIT_INDIVIDUAL")
            and hasattr(trt.INetworkDefinition, "mark_weights_refittable"),
            strip=hasattr(trt.BuilderFlag, "STRIP_PLAN"),
            explicit_batch=hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"),
            strongly_typed=strongly_typed,
            native_instancenorm=not strongly_typed
            and hasattr(trt, "OnnxParserFlag")
            and hasattr(trt.OnnxParserFlag, "NATIVE_INSTANCENORM"),
            narrow_tactics=not strongly_typed and hasattr(trt.TacticSource, "JIT_CONVOLUTIONS"),
            progress=hasattr(trt, "IProgressMonitor"),
            user_memory=hasattr(trt.IExecutionContext, "update_device_memory_size_for_shapes"),
            resizes_memory=hasattr(trt, "PreviewFeature") and hasattr(trt.PreviewFeature, "RUNTIME_ACTIVATION_RESIZE_10_10"),
            portable_plans=hasattr(trt, "ComputeCapability"),
            runtime_cache=hasattr(trt, "IRuntimeCache"),
            own_cuda_graphs=hasattr(trt, "CudaGraphStrategy"),
            max_opset=None if strongly_typed else 17,  # onnx-tensorrt 8.6, operators.md
        )

    def graph_precision(self, precision: str) -> str:
        """Returns the precision of the graph that the parser reads for a plan of this precision, "fp32" or "fp16".

        Half precision by a flag of the builder keeps a float32 graph and float32 weights.
        """
        return "fp16" if precision == "fp16" and self.strongly_typed else "fp32"
