"""The refitter takes new weights one by one; a refit applies them one by one, and may stop halfway.

A refit that is queued reads device weights when it runs; what it promises of host weights (that they may change as soon as the
call returns) holds. Kernel and bias of one layer are combined: one of them alone leaves the other missing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes import gpu as machine
from tests.fakes.streams import Work
from tests.fakes.trt.record import since
from tests.fakes.trt.values import _at, dtype_of, error, logger_of, nptype, prototype, trt

PIECES = 4
"""Maximum number of work items of a queued refit, between which other streams may run."""


class Refitter:
    def __init__(self, engine: Any, logger: Any) -> None:
        self._logger = logger_of(logger, "Refitter")
        state = machine.current().trt
        if not isinstance(engine, trt().ICudaEngine):
            raise TypeError("__init__(): incompatible constructor arguments")
        if not engine.refittable or not state.needs_context("Refitter"):
            error(self._logger, "createInferRefitter: the engine cannot be refitted")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._engine, self._held = engine, engine._held
        self._given: dict[str, tuple[Any, bool]] = {}
        self._threads = 1
        self._validation = True
        state.alive("Refitter", self)

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
    @since(9)
    def weights_validation(self) -> bool:
        return self._validation

    @weights_validation.setter
    def weights_validation(self, value: bool) -> None:
        self._validation = bool(value)

    def get_all_weights(self) -> list[str]:
        return list(self._held.plan.refittable)

    def get_missing_weights(self) -> list[str]:
        """Returns what must also be supplied: partners of weights that were set, and all weights of a stripped engine."""
        groups = self._held.plan.model.groups
        wanted = set(self._held.missing)
        for name in self._given:
            wanted |= groups[name] & set(self._held.plan.refittable)
        return [name for name in self.get_all_weights() if name in wanted and name not in self._given]

    def get_all(self) -> tuple[list[str], list[Any]]:
        names = self.get_all_weights()
        return names, [trt().WeightsRole.ANY] * len(names)

    def get_missing(self) -> tuple[list[str], list[Any]]:
        names = self.get_missing_weights()
        return names, [trt().WeightsRole.ANY] * len(names)

    @since(10)
    def get_weights_prototype(self, weights_name: str) -> Any:
        value = self._held.weights.get(weights_name)
        if value is None:
            error(self._logger, f"getWeightsPrototype: there are no refittable weights {weights_name}")
            return prototype(trt().DataType.FLOAT, -1)
        return prototype(dtype_of(value.dtype), value.size)

    @since(9)
    def get_named_weights(self, weights_name: str) -> Any:
        weights_given = self._given.get(weights_name)
        return prototype(trt().DataType.FLOAT, 0) if weights_given is None else weights_given[0]

    @since(9)
    def get_weights_location(self, weights_name: str) -> Any:
        weights_given = self._given.get(weights_name)
        return trt().TensorLocation.DEVICE if weights_given is not None and weights_given[1] else trt().TensorLocation.HOST

    @since(9)
    def unset_named_weights(self, weights_name: str) -> bool:
        return self._given.pop(weights_name, None) is not None

    def set_named_weights(self, name: str, weights: Any, *location: Any, **named: Any) -> bool:
        state = machine.current().trt
        where = named.pop("location", location[0] if location else None)
        if named or len(location) > 1 or not isinstance(weights, trt().Weights) or not isinstance(name, str):
            raise TypeError("set_named_weights(): incompatible function arguments")
        if where is not None and (state.version == "8.6" or not isinstance(where, trt().TensorLocation)):
            raise TypeError("set_named_weights(): incompatible function arguments")
        held = self._held.weights.get(name)
        wrong = None
        if held is None:
            wrong = f"there are no refittable weights {name}"
        elif weights.dtype != dtype_of(held.dtype):
            wrong = f"{name} is {dtype_of(held.dtype)}, not {weights.dtype}"
        elif weights.size != held.size or not weights._address:
            wrong = f"{name} has {held.size} values, not {weights.size}"
        elif state.take("set"):
            wrong = "it fails because the test wants it to"
        if wrong is not None:
            error(self._logger, f"setNamedWeights: {wrong}")
            return False
        self._given[name] = (weights, where is not None and where.name == "DEVICE")
        return True

    def refit_cuda_engine(self) -> bool:
        gpu = machine.current()
        if not gpu.trt.needs_context("refit_cuda_engine"):
            return False
        if gpu.capture_forbids():
            gpu.report("refit_cuda_engine while a CUDA graph is being captured")
            return False
        if gpu.scheduler.pending(self._held):
            gpu.report("refit_cuda_engine while work of its engine is pending: undefined")
        if self._refused("refitCudaEngine"):
            return False
        names, whole = self._reach()
        with gpu.scheduler.lock:
            self._held.refits += 1
            for name in names:
                self._apply(name, None)
            self._held.keep(self._held.refits)
        return whole

    @since(9)
    def refit_cuda_engine_async(self, stream_handle: int) -> bool:
        gpu = machine.current()
        if not gpu.trt.needs_context("refit_cuda_engine_async"):
            return False
        queue = gpu.queue_of(int(stream_handle), "refit_cuda_engine_async")
        if queue is None:
            return False
        if queue.captured is not None or gpu.capture_forbids():
            gpu.report("refit_cuda_engine_async while a CUDA graph is being captured")
            return False
        if any(other is not queue for other, _ in gpu.scheduler.pending(self._held)):
            gpu.report("refit_cuda_engine_async while work of its engine is pending on another stream: undefined")
        if self._refused("refitCudaEngineAsync"):
            return False
        names, whole = self._reach()
        self._held.refits += 1
        number = self._held.refits
        copies = {name: self._read(name) for name in names if not self._given[name][1]}
        size = -(-len(names) // PIECES) or 1
        for begin in range(0, len(names), size):
            piece = names[begin : begin + size]

            def run(piece: list[str] = piece) -> None:
                for name in piece:
                    self._apply(name, copies.get(name))
                if piece[-1] == names[-1]:
                    self._held.keep(number)

            gpu.scheduler.add(queue, Work("refit_cuda_engine_async", run, self._held, "refit"))
        return whole

    def _refused(self, call: str) -> bool:
        missing = self.get_missing_weights()
        if missing or not self._given:
            error(self._logger, f"{call}: missing weights: {', '.join(missing) or 'none were set'}")
        return bool(missing) or not self._given

    def _reach(self) -> tuple[list[str], bool]:
        """Returns the weights that this refit reaches, and whether these are all."""
        names = [name for name in self.get_all_weights() if name in self._given]
        stop = machine.current().trt.take_refit()
        if stop is None:
            return names, True
        error(self._logger, f"refit: it stops after {stop} weights because the test wants it to")
        return names[:stop], False

    def _read(self, name: str) -> NDArray[Any] | None:
        weights, on_device = self._given[name]
        if on_device:
            view = machine.current().memory.view(weights._address, weights.nbytes, f"refit, weights {name}")
        else:
            view = _at(weights._address, weights.nbytes)
        return None if view is None else np.array(view.view(nptype(weights.dtype)))

    def _apply(self, name: str, value: NDArray[Any] | None) -> None:
        new = self._read(name) if value is None else value
        if new is not None:
            self._held.weights[name][...] = new.reshape(self._held.weights[name].shape)
            self._held.missing.discard(name)

    @since(11)
    def release_refit_resources(self) -> bool:
        return True
