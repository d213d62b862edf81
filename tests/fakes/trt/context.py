"""Execution contexts that run an engine on the fake's streams.

Work reads inputs and weights when it runs, not when it is queued. What TensorRT leaves undefined is reported: work next to a
refit that is not ordered with it, one context on two streams, a context of 8.6 that was made before a refit, a stripped engine
before its weights are set, an address that is not aligned.
"""

from __future__ import annotations

import weakref
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes import gpu as machine
from tests.fakes.streams import Queue, Scheduler, Work
from tests.fakes.trt.engine import Held
from tests.fakes.trt.record import since
from tests.fakes.trt.values import dims, error, nptype, trt

ALIGNMENT = 256  # required by set_tensor_address


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
        self._strategy: Any = None  # None: the context has memory of its own
        self._config: Any = None
        self._memory = self._memory_size = self._needed = 0
        self._replayed: tuple[dict[str, tuple[int, ...]], int] | None = None
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
        self._needed = 0
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

    @since(10)
    def update_device_memory_size_for_shapes(self) -> int:
        if self._strategy != trt().ExecutionContextAllocationStrategy.USER_MANAGED or not self.all_binding_shapes_specified:
            machine.current().trt.gpu.report(
                "update_device_memory_size_for_shapes: not for this context, or shapes are not set"
            )
        self._needed = 16 * sum(prod(shape) for shape in self._shapes.values())
        return self._needed

    @since(10)
    def set_device_memory(self, memory: int, size: int) -> None:
        self._memory, self._memory_size = int(memory), int(size)

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
        self._compile()
        if queue.captured is not None:
            if self._config is not None:
                gpu.report("a context of TensorRT for RTX is captured, which captures by itself")
            if self._ran != self._shapes:
                gpu.report("execute_async_v3 is captured, and has not run at these shapes before: the capture would fail")
                return False
        else:
            self._ran = dict(self._shapes)
            self._look(queue)
        use_frozen = (queue.captured is not None or self._replays()) and not state.graphs_see_refits
        refits = self._held.refits if self._replayed is None else self._replayed[1]
        shapes, addresses = {**self._shapes, **self._out()}, dict(self._addresses)
        held, context, memory = self._held, weakref.ref(self), (self._memory, self._memory_size)

        def run() -> None:
            if context() is None:
                gpu.report("an execution context was destroyed while its work was pending")
            seen = held.kept.get(refits, held.kept[min(held.kept)]) if use_frozen else held.weights
            if memory[0]:  # what it worked in before is gone
                gpu.memory.view(memory[0], memory[1], "execute_async_v3, the context's memory")
            _run(held, shapes, addresses, seen)

        gpu.scheduler.add(queue, Work("execute_async_v3", run, held, "execute", context=context, memory=memory[0]))
        return True

    def _replays(self) -> bool:
        """Tells whether TensorRT for RTX replays this run as a CUDA graph, and notes the refit at which it captured."""
        if self._config is None or self._config._graphs != trt().CudaGraphStrategy.WHOLE_GRAPH_CAPTURE:
            return False
        if self._replayed is None or self._replayed[0] != self._shapes:
            self._replayed = (dict(self._shapes), self._held.refits)
        return True

    def _compile(self) -> None:
        if self._config is None or self._config._cache is None:
            return
        name = f"{self._engine.name} {sorted(self._shapes.items())}"
        if name not in self._config._cache._compiled:
            self._config._cache._compiled.add(name)
            machine.current().trt.compiled.add(name)

    def _obstacle(self) -> str | None:
        state = machine.current().trt
        if state.version == "8.6" and self._refits != self._held.refits:
            state.gpu.report("a context that was made before a refit is used: 8.6 wants a new one")
        if self._held.missing:
            state.gpu.report(f"a stripped engine runs and {len(self._held.missing)} of its weights were never supplied")
        if not self.all_binding_shapes_specified:
            return f"shapes are not set: {', '.join(self.infer_shapes())}"
        if self._strategy == trt_strategy("USER_MANAGED"):
            if not self._memory or self._memory_size < self._needed:
                return "the context has no memory, or too little for these shapes"
            if self._memory % ALIGNMENT:
                state.gpu.report(f"the address of the context's memory is not a multiple of {ALIGNMENT}")
        for name in self._held.io:
            address = self._addresses.get(name, 0)
            if not address:
                return f"the address of {name} is not set"
            if address % ALIGNMENT:
                state.gpu.report(f"the address of {name} is not a multiple of {ALIGNMENT}")
        return None

    def _look(self, queue: Queue) -> None:
        """Checks for work pending on other streams."""
        gpu = machine.current()
        with gpu.scheduler.lock:  # work that another thread runs meanwhile would look like work that nothing orders
            problem = self._find_unordered(queue, gpu.scheduler)
        if problem:
            gpu.report(f"execute_async_v3 while {problem}")

    def _find_unordered(self, queue: Queue, scheduler: Scheduler) -> str | None:
        for other, work in scheduler.pending_in(self._memory) if self._memory else ():
            if not scheduler.ordered(queue, other, work):
                return "the context's memory is in use on another stream"
        for other, work in scheduler.pending(self._held):
            if scheduler.ordered(queue, other, work):
                continue
            if work.kind == "refit":
                return "a refit of its engine is pending on another stream"
            if work.context is not None and work.context() is self:
                return "the same context has work pending on another stream"
        return None


def trt_strategy(name: str) -> Any:
    """A member of the enum, which 8.6 lacks."""
    kind = getattr(trt(), "ExecutionContextAllocationStrategy", None)
    return object() if kind is None else kind[name]


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
