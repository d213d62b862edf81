"""Times points of a stream with CUDA events, through libcuda because an engine exposes its stream as a handle.

The backend records events only on streams of its own, and PyTorch may be missing where TensorRT is installed.
"""

from __future__ import annotations

import ctypes
import time
from types import TracebackType
from typing import Any, Protocol

from dni_deploy.errors import UnavailableError
from engines.cuda import driver

_POINTER_TYPE = ctypes.c_void_p
_CUDA_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_POINTER_TYPE), ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxPushCurrent_v2": (_POINTER_TYPE,),
    "cuCtxPopCurrent_v2": (ctypes.POINTER(_POINTER_TYPE),),
    "cuEventCreate": (ctypes.POINTER(_POINTER_TYPE), ctypes.c_uint),
    "cuEventRecord": (_POINTER_TYPE, _POINTER_TYPE),
    "cuEventSynchronize": (_POINTER_TYPE,),
    "cuEventElapsedTime": (ctypes.POINTER(ctypes.c_float), _POINTER_TYPE, _POINTER_TYPE),
    "cuEventDestroy_v2": (_POINTER_TYPE,),
    "cuStreamSynchronize": (_POINTER_TYPE,),
}


class Clock(Protocol):
    """Marks points of a stream; `name` is the clock's name in results. A mark is valid until `reset`."""

    name: str

    def mark(self, stream: int) -> Any:
        """Queues a mark that is reached when everything queued before it has finished. Does not wait."""

    def wait(self, stream: int) -> None:
        """Waits until the stream is empty."""

    def between(self, first: Any, second: Any) -> float:
        """Waits for both marks and returns the seconds between them."""

    def reset(self) -> None:
        """Releases all marks for reuse."""

    def now(self) -> float:
        """Returns the seconds of the host's clock."""


class EventClock:
    """A Clock of CUDA events, resolution about half a microsecond. Keeps the device's primary context current until closed."""

    name = "CUDA events"

    def __init__(self, device: int = 0) -> None:
        obstacle, library = driver.why_gpu_unavailable(), driver.load_driver_library()  # the first also starts the driver
        if obstacle or library is None:
            raise UnavailableError(f"Nothing can be timed on a GPU: {obstacle}.")
        self._calls = {name: getattr(library, name) for name in _CUDA_SIGNATURES}
        for name, types in _CUDA_SIGNATURES.items():
            self._calls[name].argtypes, self._calls[name].restype = types, ctypes.c_int
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context := _POINTER_TYPE()), device)
        self._call("cuCtxPushCurrent_v2", context)
        self._device = device
        self._events: list[ctypes.c_void_p] = []
        self._used = 0

    def _call(self, name: str, *arguments: Any) -> None:
        code = self._calls[name](*arguments)
        if code:
            raise UnavailableError(f"{name} failed with CUDA error {code}.")

    def mark(self, stream: int) -> Any:
        if self._used == len(self._events):
            event = _POINTER_TYPE()
            self._call("cuEventCreate", ctypes.byref(event), 0)
            self._events.append(event)
        event = self._events[self._used]
        self._used += 1
        self._call("cuEventRecord", event, stream)
        return event

    def wait(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def between(self, first: Any, second: Any) -> float:
        milliseconds = ctypes.c_float()
        for event in (first, second):
            self._call("cuEventSynchronize", event)
        self._call("cuEventElapsedTime", ctypes.byref(milliseconds), first, second)
        return milliseconds.value / 1e3

    def reset(self) -> None:
        self._used = 0

    def now(self) -> float:
        return time.perf_counter()

    def close(self) -> None:
        while self._events:
            self._call("cuEventDestroy_v2", self._events.pop())
        self._call("cuCtxPopCurrent_v2", ctypes.byref(_POINTER_TYPE()))
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def __enter__(self) -> EventClock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
