"""Runtime and engine: a plan in memory with its current weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes import gpu as machine
from tests.fakes.trt import plan
from tests.fakes.trt.evaluate import Evaluator
from tests.fakes.trt.record import RTX, since, until
from tests.fakes.trt.values import ONNX, dims, error, logger_of, trt


class Held:
    """The state of an engine, shared with its contexts and refitters: weights by name; also the owner of queued work."""

    def __init__(self, content: plan.Plan) -> None:
        self.plan = content
        self.weights: dict[str, NDArray[Any]] = {}
        values = content.model.values()
        for name in content.refittable:
            self.weights[name] = np.array(values[name])
        self.missing = set(content.refittable) if content.stripped else set()
        self.refits = 0
        self.kept: dict[int, dict[str, NDArray[Any]]] = {}
        self.keep(0)
        self.evaluator = Evaluator(content.model, content.refittable)
        self.io: dict[str, Any] = {}
        for tensor in (*content.model.inputs(), *content.model.proto.graph.output):
            kind = tensor.type.tensor_type
            shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
            self.io[tensor.name] = (trt().DataType[ONNX[kind.elem_type]], shape)
        self.inputs = {one.name for one in content.model.inputs()}

    def keep(self, refit: int) -> None:
        """Returns the weights after a number of refits, for graphs captured at that time that see no later weights."""
        if not machine.current().trt.graphs_see_refits:
            self.kept[refit] = {name: np.array(value) for name, value in self.weights.items()}
            self.kept.pop(refit - 8, None)


class Runtime:
    def __init__(self, logger: Any) -> None:
        self._logger = logger_of(logger, "Runtime")
        state = machine.current().trt
        if not machine.current().initialized:
            state.gpu.report("Runtime() before the driver was asked: the real one crashes the interpreter where there is none")
        state.needs_context("Runtime")
        self._threads = 1
        self._host_code = False
        state.alive("Runtime", self)

    @property
    def logger(self) -> Any:
        return self._logger

    @property
    def max_threads(self) -> int:
        return self._threads

    @max_threads.setter
    def max_threads(self, value: int) -> None:
        self._threads = value

    @property
    def engine_host_code_allowed(self) -> bool:
        return self._host_code

    @engine_host_code_allowed.setter
    def engine_host_code_allowed(self, value: bool) -> None:
        self._host_code = value

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        """Returns None if the plan cannot be used, with a sentence in the log."""
        state = machine.current().trt
        if not state.needs_context("deserialize_cuda_engine"):
            return None
        content = plan.read(bytes(memoryview(serialized_engine)))
        if isinstance(content, str):
            error(self._logger, f"deserializeCudaEngine: {content}")
            return None
        return trt().ICudaEngine(Held(content), self)


CACHE = b"fake runtime cache for "


class IRuntimeCache:
    """Names of what was compiled."""

    def __init__(self) -> None:
        self._compiled: set[str] = set()

    def serialize(self) -> Any:
        return trt().IHostMemory(_cache_tag() + b"\n".join(sorted(name.encode() for name in self._compiled)))

    def deserialize(self, blob: Any) -> bool:
        machine.current().trt.needs_context("IRuntimeCache.deserialize")
        data = bytes(memoryview(blob))
        if not data.startswith(_cache_tag()):
            return False
        self._compiled = {name.decode() for name in data.removeprefix(_cache_tag()).splitlines()}
        return True

    def reset(self) -> bool:
        self._compiled.clear()
        return True


def _cache_tag() -> bytes:
    gpu = machine.current()
    return CACHE + f"{gpu.tensorrt} {gpu.capability}\n".encode()


class IRuntimeConfig:
    def __init__(self) -> None:
        self._cache: Any = None
        self._strategy = trt().ExecutionContextAllocationStrategy.STATIC
        self._graphs = trt().CudaGraphStrategy.DISABLED
        self._specialization = trt().DynamicShapesKernelSpecializationStrategy.LAZY

    def create_runtime_cache(self) -> Any:
        return trt().IRuntimeCache()

    def set_runtime_cache(self, cache: Any = None) -> bool:
        self._cache = cache
        return True

    def get_runtime_cache(self) -> Any:
        return self._cache

    def set_execution_context_allocation_strategy(self, strategy: Any = None) -> None:
        self._strategy = strategy

    def get_execution_context_allocation_strategy(self) -> Any:
        return self._strategy

    @property
    def cuda_graph_strategy(self) -> Any:
        return self._graphs

    @cuda_graph_strategy.setter
    def cuda_graph_strategy(self, value: Any) -> None:
        self._graphs = value

    @property
    def dynamic_shapes_kernel_specialization_strategy(self) -> Any:
        return self._specialization

    @dynamic_shapes_kernel_specialization_strategy.setter
    def dynamic_shapes_kernel_specialization_strategy(self, value: Any) -> None:
        self._specialization = value


class ICudaEngine:
    def __init__(self, held: Held, runtime: Any) -> None:
        self._held, self._runtime = held, runtime
        self._logger = runtime._logger
        machine.current().trt.alive("ICudaEngine", self)

    @property
    def name(self) -> str:
        return self._held.plan.model.proto.graph.name

    @property
    def num_io_tensors(self) -> int:
        return len(self._held.io)

    @property
    def num_layers(self) -> int:
        return len(self._held.plan.model.proto.graph.node)

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._held.plan.profiles))

    @property
    def refittable(self) -> bool:
        return bool(self._held.plan.refittable)

    @property
    @until(10)
    def device_memory_size(self) -> int:
        return 1 << 20

    @property
    @since(10)
    def device_memory_size_v2(self) -> int:
        return 1 << 20

    def get_tensor_name(self, index: int) -> str:
        return list(self._held.io)[index]

    def __getitem__(self, index: int) -> str:
        return self.get_tensor_name(index)

    def get_tensor_mode(self, name: str) -> Any:
        if name not in self._held.io:
            return trt().TensorIOMode.NONE
        return trt().TensorIOMode.INPUT if name in self._held.inputs else trt().TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._held.io[name][0]

    def get_tensor_shape(self, name: str) -> Any:
        return dims(self._held.io[name][1])

    def get_tensor_location(self, name: str) -> Any:
        return trt().TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        profiles = self._held.plan.profiles
        if name not in self._held.inputs or profile_index >= max(1, len(profiles)):
            error(self._logger, f"getProfileShape: {name} is no input of profile {profile_index}")
            return [dims(()), dims(()), dims(())]
        shape = self._held.io[name][1]
        shapes = profiles[profile_index].get(name) if profiles else None
        return [dims(each) for each in shapes or (shape, shape, shape)]

    @since(RTX)
    def create_runtime_config(self) -> Any:
        return trt().IRuntimeConfig()

    def create_execution_context(self, *args: Any, **options: Any) -> Any:
        state = machine.current().trt
        if not state.needs_context("create_execution_context"):
            return None
        if (args or options) and state.version == "8.6":
            raise TypeError("create_execution_context(): incompatible function arguments")
        if any(work.kind == "refit" for _, work in machine.current().scheduler.pending(self._held)):
            state.gpu.report("create_execution_context while a refit of its engine is pending: nothing promises what it sees")
        given = next(iter((*args, *options.values())), None)
        context = trt().IExecutionContext(self)
        if given is not None:
            is_strategy = isinstance(given, trt().ExecutionContextAllocationStrategy)
            context._strategy = given if is_strategy else given._strategy
            context._config = None if is_strategy else given
        return context

    @since(10)
    def get_engine_stat(self, stat: Any = None) -> int:
        return sum(value.nbytes for value in self._held.weights.values())

    def serialize(self) -> Any:
        """Serializes the current weights.

        A refitted stripped engine becomes complete and no longer refittable, unless requested otherwise.
        """
        model, held = self._held.plan.model, self._held
        refittable = [] if held.plan.stripped else list(held.plan.refittable)
        for one in model.proto.graph.initializer:
            if one.name in held.weights:
                from onnx import numpy_helper

                one.CopyFrom(numpy_helper.from_array(held.weights[one.name], one.name))
        profiles: list[Any] = list(held.plan.profiles)
        return trt().IHostMemory(plan.write(model, refittable, profiles, False, list(held.plan.capabilities)))
