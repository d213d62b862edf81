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
from tests.fakes.streams import Queue, Work
from tests.fakes.trt.engine import Held
from tests.fakes.trt.values import dims, error, nptype

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
        """Checks for work pending on other streams."""
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
