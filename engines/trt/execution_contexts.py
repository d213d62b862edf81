"""Makes the execution contexts of an engine's slots, and holds what they share."""

from __future__ import annotations

from typing import Any

from engines.cuda.device import Device
from engines.trt.context_memory import ContextMemory
from engines.trt.library import Library
from engines.trt.runtime_cache import RuntimeCache


class ExecutionContexts:
    """Makes execution contexts.

    Attributes:
        library: The library.
        memory: What the contexts work in; None where each one allocates its own.

    Thread safety: one thread at a time; the caller holds the device.
    """

    def __init__(self, device: Device, library: Library, plan_key: str) -> None:
        """Makes what the contexts share; nothing is allocated yet.

        Args:
            device: The device.
            library: The library.
            plan_key: The plan's key, under which compiled kernels are kept.
        """
        self.library = library
        self.memory = ContextMemory(device) if library.features.user_memory else None
        self._runtime_cache = RuntimeCache(plan_key) if library.features.runtime_cache else None

    def create_context(self, engine: Any, *, replay: bool) -> Any:
        """Makes an execution context. Nothing of the engine may be queued.

        Args:
            engine: The engine.
            replay: Have the context replay frames as CUDA graphs, where the library does that by itself.

        Raises:
            EngineError: TensorRT refuses; there may be too little memory.
        """
        trt = self.library.trt
        self.library.clear_errors()
        if self._runtime_cache is not None:
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            # The default compiles kernels for a new shape while others run, so that equal frames may differ in the last bits.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            if replay:
                config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._runtime_cache.attach(config)
            context = engine.create_execution_context(config)
        elif self.memory is not None:
            context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        else:
            context = engine.create_execution_context()
        if context is None:
            raise self.library.make_error("make an execution context", "There may be too little GPU memory for this profile.")
        return context

    def close(self) -> None:
        """Keeps the compiled kernels, and frees the memory; after every context. Calling it again does nothing."""
        if self._runtime_cache is not None:
            self._runtime_cache.close()
        if self.memory is not None:
            self.memory.free()
