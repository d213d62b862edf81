"""Fake libcuda: the driver functions that are called through ctypes because pycuda does not wrap them (queries, graph capture).

Each returns a CUresult and writes its answers through byref() arguments. A graph keeps the work that was queued while the
stream was captured; a launch queues it again as one piece. A captured TensorRT execution uses the weights of the engine at the
launch, or those at the capture: TensorRT does not specify which, so `FakeGpu.trt.graphs_see_refits` chooses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.fakes import gpu as machine
from tests.fakes.pycuda.context import ATTRIBUTES
from tests.fakes.streams import LEGACY, Work

INVALID_VALUE, NOT_INITIALIZED, INVALID_CONTEXT, INVALID_HANDLE, NOT_READY, CAPTURE_UNSUPPORTED = 1, 3, 201, 400, 600, 900
INVALID_DEVICE, UPDATE_FAILED = 101, 910
OUT_OF_MEMORY, ALREADY_REGISTERED, NOT_REGISTERED = 2, 712, 713
PRIMARY = 0xC0DE
LEGACY_STREAM = 1
"""CU_STREAM_LEGACY, another handle of the default stream."""
NAMES = {
    0: b"CUDA_SUCCESS",
    1: b"CUDA_ERROR_INVALID_VALUE",
    2: b"CUDA_ERROR_OUT_OF_MEMORY",
    201: b"CUDA_ERROR_INVALID_CONTEXT",
    400: b"CUDA_ERROR_INVALID_HANDLE",
}


class Function:
    """A function of a CDLL: argtypes and restype can be set on it."""

    def __init__(self, call: Callable[..., int]) -> None:
        self.call = call
        self.argtypes: Any = None
        self.restype: Any = None

    def __call__(self, *args: Any) -> int:
        if self.argtypes is not None and len(args) < len(self.argtypes):
            raise TypeError(f"this function takes at least {len(self.argtypes)} arguments ({len(args)} given)")
        return self.call(*args)


class Graph(list[Work]):
    """The work that was captured."""


class ExecutableGraph(list[Work]):
    """The same, ready to be launched."""


def _number(value: Any) -> int:
    return int(getattr(value, "value", value) or 0)


def _give(reference: Any, value: Any) -> None:
    getattr(reference, "_obj", reference).value = value


class Library:
    """Attributes are looked up as on a CDLL: a name that libcuda lacks is an AttributeError."""

    def __init__(self, gpu: machine.FakeGpu) -> None:
        self._gpu = gpu
        self._next = 0x6A0000
        for name in dir(type(self)):
            if name.startswith("_cu"):
                setattr(self, name[1:], Function(getattr(self, name)))
        # CUDA 13's headers use the newer name of the same function
        self.cuEventElapsedTime_v2 = Function(self._cuEventElapsedTime)

    def _cuInit(self, flags: Any) -> int:
        self._gpu.initialized = True
        return 0

    def _cuDeviceGetCount(self, count: Any) -> int:
        _give(count, 1)
        return 0

    def _cuDeviceGet(self, device: Any, ordinal: Any) -> int:
        _give(device, 0)
        return 0 if _number(ordinal) == 0 else INVALID_DEVICE

    def _cuDeviceTotalMem_v2(self, nbytes: Any, device: Any) -> int:
        _give(nbytes, self._gpu.memory.total)
        return 0

    def _cuDriverGetVersion(self, version: Any) -> int:
        _give(version, self._gpu.driver_version)
        return 0

    def _cuDeviceGetName(self, name: Any, size: Any, device: Any) -> int:
        name.value = machine.NAME.encode()[: _number(size) - 1]
        return 0

    def _cuDeviceGetAttribute(self, value: Any, attribute: Any, device: Any) -> int:
        known = {**ATTRIBUTES, 75: self._gpu.capability[0], 76: self._gpu.capability[1]}
        if _number(attribute) not in known:
            return INVALID_VALUE
        _give(value, known[_number(attribute)])
        return 0

    def _cuGetErrorName(self, code: Any, name: Any) -> int:
        _give(name, NAMES.get(_number(code), b"CUDA_ERROR_UNKNOWN"))
        return 0

    def _cuGetErrorString(self, code: Any, text: Any) -> int:
        return self._cuGetErrorName(code, text)

    def _cuStreamBeginCapture_v2(self, stream: Any, mode: Any) -> int:
        queue = self._queue(stream)
        if isinstance(queue, int):
            return queue
        if queue.handle == LEGACY or queue.captured is not None or _number(mode) not in (0, 1, 2):
            return CAPTURE_UNSUPPORTED if queue.handle == LEGACY else INVALID_VALUE
        queue.captured = []
        self._gpu.capturing[queue.handle] = (threading.get_ident(), _number(mode))
        return 0

    def _cuStreamIsCapturing(self, stream: Any, status: Any) -> int:
        queue = self._queue(stream)
        if isinstance(queue, int):
            return queue
        _give(status, int(queue.captured is not None))
        return 0

    def _cuStreamEndCapture(self, stream: Any, graph: Any) -> int:
        queue = self._queue(stream)
        if isinstance(queue, int):
            return queue
        if queue.captured is None:
            return INVALID_VALUE
        _give(graph, self._keep(Graph(queue.captured)))
        queue.captured = None
        self._gpu.capturing.pop(queue.handle, None)
        return 0

    def _cuGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> int:
        held = self._gpu.graphs.get(_number(graph))
        if not isinstance(held, Graph):
            return INVALID_HANDLE
        _give(executable, self._keep(ExecutableGraph(held)))
        return 0

    def _cuGraphExecUpdate_v2(self, executable: Any, graph: Any, info: Any) -> int:
        held, new = self._gpu.graphs.get(_number(executable)), self._gpu.graphs.get(_number(graph))
        if not isinstance(held, ExecutableGraph) or not isinstance(new, Graph):
            return INVALID_HANDLE
        if [work.kind for work in held] != [work.kind for work in new]:
            return UPDATE_FAILED
        held[:] = new
        self._gpu.graph_updates += 1
        return 0

    def _cuGraphLaunch(self, executable: Any, stream: Any) -> int:
        held, queue = self._gpu.graphs.get(_number(executable)), self._queue(stream)
        if isinstance(queue, int):
            return queue
        if not isinstance(held, ExecutableGraph):
            self._gpu.report("cuGraphLaunch: the graph was destroyed or never made")
            return INVALID_HANDLE
        for work in held:
            if work.kind == "execute" and self._gpu.trt is not None:
                self._gpu.trt.launched(queue, work)
            self._gpu.scheduler.add(queue, replace(work, label=f"{work.label} in a graph"))
        return 0

    def _cuGraphExecDestroy(self, executable: Any) -> int:
        return 0 if isinstance(self._gpu.graphs.pop(_number(executable), None), ExecutableGraph) else INVALID_HANDLE

    def _cuGraphDestroy(self, graph: Any) -> int:
        return 0 if isinstance(self._gpu.graphs.pop(_number(graph), None), Graph) else INVALID_HANDLE

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:
        if not self._gpu.initialized:
            return NOT_INITIALIZED
        self._gpu.retained += 1
        _give(context, PRIMARY)
        return 0

    def _cuDevicePrimaryCtxRelease_v2(self, device: Any) -> int:
        self._gpu.released += 1
        return 0

    def _cuCtxPushCurrent_v2(self, context: Any) -> int:
        if _number(context) != PRIMARY:
            return INVALID_CONTEXT
        self._gpu.push(PRIMARY)
        return 0

    def _cuCtxPopCurrent_v2(self, context: Any) -> int:
        if not self._gpu.has_context():
            return INVALID_CONTEXT
        self._gpu.pop()
        _give(context, PRIMARY)
        return 0

    def _cuStreamSynchronize(self, stream: Any) -> int:
        queue = self._queue(stream)
        if isinstance(queue, int):
            return queue
        if queue.captured is not None:
            return CAPTURE_UNSUPPORTED
        self._gpu.scheduler.drain(queue)
        return 0

    def _cuEventCreate(self, event: Any, flags: Any) -> int:
        if not self._gpu.has_context():
            return INVALID_CONTEXT
        self._next += 0x10
        self._gpu.events[self._next] = None
        _give(event, self._next)
        return 0

    def _cuEventRecord(self, event: Any, stream: Any) -> int:
        queue = self._queue(stream)
        if isinstance(queue, int) or _number(event) not in self._gpu.events:
            return INVALID_HANDLE
        self._gpu.events[_number(event)] = self._gpu.scheduler.record(queue)
        return 0

    def _cuStreamWaitEvent(self, stream: Any, event: Any, flags: Any) -> int:
        queue = self._queue(stream)
        if isinstance(queue, int) or _number(event) not in self._gpu.events:
            return INVALID_HANDLE
        self._gpu.scheduler.wait(queue, self._gpu.events[_number(event)])
        return 0

    def _cuEventSynchronize(self, event: Any) -> int:
        record = self._gpu.events.get(_number(event))
        if record is not None:
            self._gpu.scheduler.drain_record(record)
        return 0

    def _cuEventElapsedTime(self, milliseconds: Any, start: Any, end: Any) -> int:
        first, last = self._gpu.events.get(_number(start)), self._gpu.events.get(_number(end))
        if first is None or last is None:
            return INVALID_HANDLE
        if not (first.done and last.done):
            return NOT_READY
        _give(milliseconds, (last.at - first.at) * 1e3)
        return 0

    def _cuEventDestroy_v2(self, event: Any) -> int:
        if _number(event) not in self._gpu.events:
            return INVALID_HANDLE
        del self._gpu.events[_number(event)]
        return 0

    def _cuPointerGetAttribute(self, value: Any, attribute: Any, address: Any) -> int:
        held = self._gpu.memory.find(_number(address))
        if _number(attribute) != 9 or held is None or held.freed or held.kind != "device":
            return INVALID_VALUE
        _give(value, 1 if held.address in self._gpu.other_gpu else 0)
        return 0

    def _cuCtxGetDevice(self, device: Any) -> int:
        if not self._gpu.has_context():
            return INVALID_CONTEXT
        _give(device, 0)
        return 0

    def _cuMemHostRegister_v2(self, address: Any, size: Any, flags: Any) -> int:
        if not self._gpu.has_context():
            return INVALID_CONTEXT
        if _number(address) % 4096 or _number(size) % 4096 or not _number(size):
            self._gpu.report("cuMemHostRegister: address and size are not those of whole pages")
            return INVALID_VALUE
        if self._gpu.refuse_registration:
            return OUT_OF_MEMORY
        return 0 if self._gpu.memory.register(_number(address), _number(size)) else ALREADY_REGISTERED

    def _cuMemHostUnregister(self, address: Any) -> int:
        if not self._gpu.has_context():
            return INVALID_CONTEXT
        return 0 if self._gpu.memory.unregister(_number(address)) else NOT_REGISTERED

    def _queue(self, stream: Any) -> Any:
        if not self._gpu.initialized:
            return NOT_INITIALIZED
        if not self._gpu.has_context():
            return INVALID_CONTEXT
        handle = LEGACY if _number(stream) == LEGACY_STREAM else _number(stream)
        return self._gpu.scheduler.find(handle, "libcuda") or INVALID_HANDLE

    def _keep(self, graph: Graph | ExecutableGraph) -> int:
        self._next += 0x10
        self._gpu.graphs[self._next] = graph
        return self._next
