"""Devices and their primary context, with the two stacks that pycuda and CUDA keep per thread."""

from __future__ import annotations

import threading

from tests.fakes import gpu as machine
from tests.fakes.pycuda.checks import LogicError, driver, integer, no_capture

ATTRIBUTES = {1: 1024, 10: 32, 13: 1980000, 16: 132, 36: 2619000, 37: 5120, 38: 50 << 20, 39: 2048, 75: 9, 76: 0}
"""Of the device, by number: CUdevice_attribute."""


class Device:
    def __init__(self, ordinal: int) -> None:
        driver("cuDeviceGet", context=False)
        if integer(ordinal, "Device") >= Device.count():
            raise LogicError("cuDeviceGet failed: invalid device ordinal")
        self._ordinal = ordinal

    @staticmethod
    def count() -> int:
        driver("cuDeviceGetCount", context=False)
        return 1

    def name(self) -> str:
        return machine.NAME

    def pci_bus_id(self) -> str:
        return "0000:01:00.0"

    def compute_capability(self) -> tuple[int, int]:
        return machine.current().capability

    def total_memory(self) -> int:
        return machine.current().memory.total

    def get_attribute(self, attribute: int) -> int:
        return ATTRIBUTES[attribute]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other._ordinal == self._ordinal

    def __hash__(self) -> int:
        return self._ordinal

    def retain_primary_context(self) -> Context:
        gpu = driver("cuDevicePrimaryCtxRetain", context=False)
        gpu.retained += 1
        return Context(gpu)

    def make_context(self, flags: int = 0) -> Context:
        machine.current().report("a second context was made: TensorRT and ONNX Runtime use the primary one")
        new_context = self.retain_primary_context()
        new_context.push()
        return new_context


class Context:
    """A primary context, retained once.

    pycuda keeps a stack of its own, of which only the top is on CUDA's. Releasing takes a context off pycuda's and leaves it on
    CUDA's; where it is not current, only the thread that retained it releases it.
    """

    def __init__(self, gpu: machine.FakeGpu) -> None:
        self._gpu, self._valid, self._thread = gpu, True, threading.get_ident()

    def push(self) -> None:
        if not self._valid:
            raise LogicError("cuCtxPushCurrent failed: invalid device context")
        if _stack(self._gpu):
            self._gpu.pop()
        self._gpu.push(self)
        _stack(self._gpu).append(self)
        self._gpu.pycuda_pushed[threading.get_ident()] += 1

    @staticmethod
    def pop() -> None:
        gpu = machine.current()
        if not _stack(gpu):
            raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
        gpu.pop()
        _drop(gpu)
        current = Context.get_current()
        if current is not None:
            gpu.push(current)

    def detach(self) -> None:
        if not self._valid:
            raise LogicError("context::detach failed: invalid device context - cannot detach from invalid context")
        active = Context.get_current() is self
        self._valid = False
        if not active:
            if self._thread != threading.get_ident():
                self._gpu.report("Context.detach on another thread than retained it does nothing: the context leaks")
                return
            self._gpu.push(self)
        self._gpu.released += 1
        current = Context.get_current()
        if active and current is not None:
            self._gpu.push(current)

    @staticmethod
    def get_current() -> Context | None:
        """Returns the top of pycuda's stack; released contexts are removed from it."""
        gpu = machine.current()
        while _stack(gpu) and not _stack(gpu)[-1]._valid:
            _drop(gpu)
        return _stack(gpu)[-1] if _stack(gpu) else None

    @staticmethod
    def get_device() -> Device:
        driver("cuCtxGetDevice")
        return Device(0)

    @staticmethod
    def synchronize() -> None:
        gpu = driver("cuCtxSynchronize")
        no_capture(gpu, "cuCtxSynchronize")
        gpu.scheduler.drain_all()


def _stack(gpu: machine.FakeGpu) -> list[Context]:
    if not hasattr(gpu.stacks, "pycuda"):
        gpu.stacks.pycuda = []
    contexts: list[Context] = gpu.stacks.pycuda
    return contexts


def _drop(gpu: machine.FakeGpu) -> None:
    _stack(gpu).pop()
    gpu.pycuda_pushed[threading.get_ident()] -= 1
