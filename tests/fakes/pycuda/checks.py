"""pycuda's errors, and the checks at the start of every call."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes import gpu as machine


class Error(Exception):
    pass


class MemoryError(Error):
    pass


class LogicError(Error):
    pass


class LaunchError(Error):
    pass


class RuntimeError(Error):
    pass


def driver(call: str, context: bool = True) -> machine.FakeGpu:
    """Returns the machine for a call that needs the driver and usually a context on this thread."""
    gpu = machine.current()
    if not gpu.initialized:
        raise LogicError(f"{call} failed: initialization error")
    if context and not gpu.has_context():
        raise LogicError(f"{call} failed: invalid device context")
    if context and gpu.retained == gpu.released:
        gpu.report(f"{call}: the primary context was released and is still used")
    gpu.scheduler.tick()
    return gpu


def no_capture(gpu: machine.FakeGpu, call: str) -> None:
    """Refuses a call that waits for the device or allocates while a graph is being captured."""
    if gpu.capture_forbids():
        gpu.report(f"{call} while a CUDA graph is being captured")
        raise LogicError(f"{call} failed: operation not permitted when stream is capturing")


def integer(value: Any, call: str) -> int:
    if not isinstance(value, int):
        raise TypeError(f"Python argument types in {call} did not match C++ signature: {type(value).__name__} for an int")
    if not 0 <= value < 1 << 64:
        raise OverflowError(f"{call}: {value} does not fit an unsigned 64-bit integer")
    return value


def host_bytes(value: Any, writable: bool) -> NDArray[np.uint8]:
    """Returns the bytes of any object with a contiguous buffer."""
    held = memoryview(value)
    if not held.contiguous:
        raise ValueError("ndarray is not contiguous")
    if writable and held.readonly:
        raise ValueError("buffer source array is read-only")
    if held.nbytes == 0:
        return np.empty(0, np.uint8)
    if isinstance(value, np.ndarray):
        return value.reshape(-1, order="A").view(np.uint8)
    return np.frombuffer(held.cast("B"), np.uint8)
