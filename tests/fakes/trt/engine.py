"""Engine: runtime, engine and execution context: a plan in memory, run on the fake's streams.

Work reads inputs and weights when it runs, not when it is queued. What TensorRT leaves undefined is reported: work next to a
refit that is not ordered with it, one context on two streams, a context of 8.6 that was made before a refit, a stripped engine
before its weights are there, an address that is not aligned.
"""

from __future__ import annotations

import weakref
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes import gpu as machine
from tests.fakes.streams import Queue, Work
from tests.fakes.trt import plan
from tests.fakes.trt.evaluate import Evaluator
from tests.fakes.trt.record import since, until
from tests.fakes.trt.values import ONNX, dims, error, logger_of, nptype, trt

ALIGNMENT = 256  # set_tensor_address asks for it


class Held:
    """What an engine holds, shared with its contexts and refitters: weights by name, and what queued work belongs to."""

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
        """What the weights are after so many refits, for graphs that were captured then and see no later ones."""
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
        """None where the plan cannot be used, with a sentence in the log."""
        state = machine.current().trt
        if not state.needs_context("deserialize_cuda_engine"):
            return None
        content = plan.read(bytes(memoryview(serialized_engine)))
        if isinstance(content, str):
            error(self._logger, f"deserializeCudaEngine: {content}")
            return None
        return trt().ICudaEngine(Held(content), self)


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

    def create_execution_context(self, *args: Any, **options: Any) -> Any:
        state = machine.current().trt
        if not state.needs_context("create_execution_context"):
            return None
        if (args or options) and state.version == "8.6":
            raise TypeError("create_execution_context(): incompatible function arguments")
        if any(work.kind == "refit" for _, work in machine.current().scheduler.pending(self._held)):
            state.gpu.report("create_execution_context while a refit of its engine is pending: nothing promises what it sees")
        return trt().IExecutionContext(self)

    @since(10)
    def get_engine_stat(self, stat: Any = None) -> int:
        return sum(value.nbytes for value in self._held.weights.values())

    def serialize(self) -> Any:
        """As it is now; a stripped engine that was refitted comes out whole and no longer refittable, unless asked otherwise."""
        model, held = self._held.plan.model, self._held
        refittable = [] if held.plan.stripped else list(held.plan.refittable)
        for one in model.proto.graph.initializer:
            if one.name in held.weights:
                from onnx import numpy_helper

                one.CopyFrom(numpy_helper.from_array(held.weights[one.name], one.name))
        profiles: list[Any] = list(held.plan.profiles)
        return trt().IHostMemory(plan.write(model, refittable, profiles, False))


class IExecutionContext:
    def __init__(self, engine: Any) -> None:
        self._engine, self._held = engine, engine._held
        self._logger = engine._logger
        self._refits = self._held.refits
        self._shapes: dict[str, tuple[int, ...]] = {}
        for name in self._held.inputs:
            shape = self._held.io[name][1]
            if -1 not in shape:
                self._shapes[name] = shape
        self._addresses: dict[str, int] = {}
        self._known: dict[str, tuple[int, ...]] | None = None
        self._ran: dict[str, tuple[int, ...]] | None = None
        self._name = ""
        state = machine.current().trt
        state.contexts += 1
        state.alive("IExecutionContext", self)

    @property
    def engine(self) -> Any:
        return self._engine

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    @property
    def all_binding_shapes_specified(self) -> bool:
        return set(self._shapes) == self._held.inputs

    def set_input_shape(self, name: str, shape: Any) -> bool:
        wanted = tuple(dims(shape))
        if name not in self._held.inputs:
            error(self._logger, f"setInputShape: {name} is no input")
            return False
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        if len(wanted) != len(low) or not all(a <= b <= c for a, b, c in zip(low, wanted, high, strict=True)):
            error(self._logger, f"setInputShape: {wanted} of {name} is outside the profile {tuple(low)} to {tuple(high)}")
            return False
        self._shapes[name] = wanted
        self._known = None
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._held.io:
            error(self._logger, f"setTensorAddress: there is no tensor {name}")
            return False
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def get_tensor_shape(self, name: str) -> Any:
        if name in self._held.inputs:
            return dims(self._shapes.get(name, self._held.io[name][1]))
        if not self.all_binding_shapes_specified:
            return dims(self._held.io[name][1])
        return dims(self._out()[name])

    def infer_shapes(self) -> list[str]:
        return sorted(self._held.inputs - set(self._shapes))

    def _out(self) -> dict[str, tuple[int, ...]]:
        if self._known is None:
            evaluator = machine.current().trt.evaluator_of(self._held)
            self._known = evaluator.shapes(self._shapes)
        return self._known

    def execute_async_v3(self, stream_handle: int) -> bool:
        gpu = machine.current()
        state = gpu.trt
        if not state.needs_context("execute_async_v3"):
            return False
        queue = gpu.queue_of(int(stream_handle), "execute_async_v3")
        wrong = "the stream is not known" if queue is None else self._obstacle()
        if wrong is not None or queue is None:
            error(self._logger, f"enqueueV3: {wrong}")
            return False
        if state.take("execute"):
            error(self._logger, "enqueueV3: it fails because the test wants it to")
            return False
        state.executions += 1
        if queue.captured is not None:
            if self._ran != self._shapes:
                gpu.report("execute_async_v3 is captured, and has not run at these shapes before: the capture would fail")
                return False
        else:
            self._ran = dict(self._shapes)
            self._look(queue)
        use_frozen = queue.captured is not None and not state.graphs_see_refits
        refits = self._held.refits
        shapes, addresses = {**self._shapes, **self._out()}, dict(self._addresses)
        held, context = self._held, weakref.ref(self)

        def run() -> None:
            if context() is None:
                gpu.report("an execution context was destroyed while its work was pending")
            seen = held.kept.get(refits, held.kept[min(held.kept)]) if use_frozen else held.weights
            _run(held, shapes, addresses, seen)

        gpu.scheduler.add(queue, Work("execute_async_v3", run, held, "execute", context=context))
        return True

    def _obstacle(self) -> str | None:
        state = machine.current().trt
        if state.version == "8.6" and self._refits != self._held.refits:
            state.gpu.report("a context that was made before a refit is used: 8.6 wants a new one")
        if self._held.missing:
            state.gpu.report(f"a stripped engine runs and {len(self._held.missing)} of its weights were never supplied")
        if not self.all_binding_shapes_specified:
            return f"shapes are not set: {', '.join(self.infer_shapes())}"
        for name in self._held.io:
            address = self._addresses.get(name, 0)
            if not address:
                return f"the address of {name} is not set"
            if address % ALIGNMENT:
                state.gpu.report(f"the address of {name} is not a multiple of {ALIGNMENT}")
        return None

    def _look(self, queue: Queue) -> None:
        """What is pending elsewhere."""
        gpu = machine.current()
        for other, work in gpu.scheduler.pending(self._held):
            if gpu.scheduler.ordered(queue, other, work):
                continue
            if work.kind == "refit":
                gpu.report("execute_async_v3 while a refit of its engine is pending on another stream")
                return
            if work.context is not None and work.context() is self:
                gpu.report("execute_async_v3 while the same context has work pending on another stream")
                return


def _run(held: Held, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int], weights: dict[str, NDArray[Any]]) -> None:
    views = {name: _view(held, name, shapes, addresses) for name in held.io}
    inputs = {name: views[name] for name in held.inputs}
    if any(value is None for value in inputs.values()):
        return
    outputs = machine.current().trt.evaluator_of(held).run(inputs, weights)
    for name, value in outputs.items():
        view = views[name]
        if view is not None:
            view[...] = value


def _view(held: Held, name: str, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> NDArray[Any] | None:
    kind = np.dtype(nptype(held.io[name][0]))
    count = prod(shapes[name])
    view = machine.current().memory.view(addresses[name], count * kind.itemsize, f"execute_async_v3, tensor {name}")
    return None if view is None else view.view(kind).reshape(shapes[name])
