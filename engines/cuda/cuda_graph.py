"""CUDA graphs, through libcuda itself, because the backend does not wrap them.

What is queued on a stream between `begin_capture` and `end_capture` is recorded instead of run, and can then be launched again
and again for the cost of one launch. The caller holds the device.
"""

from __future__ import annotations

import ctypes
import threading

from dni_deploy.errors import EngineError
from engines.cuda import driver

CAPTURE_MODE_THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate and wait meanwhile; this one may not."""

_capture_state = threading.local()


def begin_capture(stream_handle: int) -> None:
    """Records what this thread queues on the stream from now on.

    Args:
        stream_handle: The CUstream.

    Raises:
        EngineError: This thread captures already, or the driver refuses.
    """
    if getattr(_capture_state, "handle", None) is not None:
        raise EngineError("A CUDA graph is already being captured on this thread.")
    driver.call_driver("cuStreamBeginCapture_v2", ctypes.c_void_p(stream_handle), ctypes.c_int(CAPTURE_MODE_THREAD_LOCAL))
    _capture_state.handle = stream_handle


class _UpdateResultInfo(ctypes.Structure):
    """CUgraphExecUpdateResultInfo."""

    _fields_ = (("result", ctypes.c_int), ("error_node", ctypes.c_void_p), ("error_from_node", ctypes.c_void_p))


def end_capture(stream_handle: int | None = None, previous: CudaGraph | None = None) -> CudaGraph:
    """Ends the capture of this thread; nothing is captured any more, even where that fails.

    Args:
        stream_handle: The CUstream that was captured; None for any.
        previous: A graph that is not needed any more. Where it has the same nodes in the same order, it is updated and returned,
            which is faster than a new one; else it is closed. Either way its launches that are queued run as they were.

    Returns:
        The graph, which the caller closes.

    Raises:
        EngineError: Nothing is being captured on that stream, or something was queued that cannot be captured.
    """
    handle = getattr(_capture_state, "handle", None)
    if handle is None or stream_handle not in (None, handle):
        raise EngineError("No CUDA graph of this stream is being captured on this thread.")
    _capture_state.handle = None
    graph = ctypes.c_void_p()
    driver.call_driver("cuStreamEndCapture", ctypes.c_void_p(handle), ctypes.byref(graph))
    if not graph.value:
        raise EngineError("The CUDA graph's capture was broken off by something that cannot be captured.")
    executable = ctypes.c_void_p()
    try:
        if previous is not None and previous.update(graph):
            return previous
        driver.call_driver("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
    finally:
        driver.call_driver("cuGraphDestroy", graph)
    if previous is not None:
        previous.close()
    return CudaGraph(executable)


def is_capturing() -> bool:
    """Returns whether this thread is capturing."""
    return getattr(_capture_state, "handle", None) is not None


def abort_capture() -> None:
    """Ends a capture whose work failed, so that the stream can be used again. Does nothing where none was begun."""
    handle, _capture_state.handle = getattr(_capture_state, "handle", None), None
    if handle is None:
        return
    graph = ctypes.c_void_p()
    driver.require_driver_library().cuStreamEndCapture(
        ctypes.c_void_p(handle), ctypes.byref(graph)
    )  # an error here is that of the work
    if graph.value:
        driver.call_driver("cuGraphDestroy", graph)


class CudaGraph:
    """A captured graph, ready to be launched. What it was captured with (memory, engines) must outlive it.

    Thread safety: calls come from one thread at a time.
    """

    def __init__(self, executable: ctypes.c_void_p) -> None:
        self._executable = executable

    def launch(self, stream_handle: int) -> None:
        """Queues the graph on a stream, by its CUstream.

        Raises:
            EngineError: The graph was closed, or the driver refuses.
        """
        if not self._executable.value:
            raise EngineError("The CUDA graph was closed.")
        driver.call_driver("cuGraphLaunch", self._executable, ctypes.c_void_p(stream_handle))

    def update(self, graph: ctypes.c_void_p) -> bool:
        """Takes over what a CUgraph of the same nodes does, for later launches; False where the driver cannot, and all stays."""
        update = getattr(driver.require_driver_library(), "cuGraphExecUpdate_v2", None)  # from CUDA 12 on
        if update is None or not self._executable.value:
            return False
        return int(update(self._executable, graph, ctypes.byref(_UpdateResultInfo()))) == 0

    def close(self) -> None:
        """Destroys the graph; calling it again does nothing. Launches that are queued still run."""
        executable, self._executable = self._executable, ctypes.c_void_p()
        if executable.value:
            driver.call_driver("cuGraphExecDestroy", executable)
