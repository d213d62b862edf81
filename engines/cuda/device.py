"""One GPU and its primary context, the one that TensorRT, ONNX Runtime and PyTorch use as well.

A second context in the process breaks those, so none is ever made. The primary one is retained once per process and never
released, as CuPy and Numba do: a release by the last user would reset it, while libraries still cache handles of it.

pycuda keeps a stack of contexts per thread, and a thread that ends with one on its stack ends the process: hence `with device:`
around everything, on every thread.
"""

from __future__ import annotations

import ctypes
import threading
from types import TracebackType
from typing import Any

from dni_deploy.errors import EngineError, UnavailableError
from engines.cuda import backend as cuda
from engines.cuda import driver

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: does not wait for the default stream, nor it for us."""


class Device:
    """A GPU with its primary context retained. `with device:` makes it current on this thread; it may be nested.

    All that is made on it is used, and freed, within such blocks, and before `close`. The context stays.

    Attributes:
        name: The driver's name for the GPU.
        capability: Its compute capability, (major, minor).
        setup_stream: A stream for set-up work, which then waits for nobody's frames.
        modules: Loaded machine code by key, so that it is loaded once (kernels.py).

    Thread safety: any thread may enter it; `close` is called once nothing else uses it.
    """

    @classmethod
    def open(cls, index: int = 0) -> Device:
        """Opens a GPU.

        Args:
            index: The GPU's number as the driver counts, from 0.

        Raises:
            UnavailableError: There is no driver or no such GPU.
        """
        reason = driver.why_gpu_unavailable()
        if reason is not None:
            raise UnavailableError(f"No GPU can be used: {reason}.")
        try:
            cuda.init()
            count = cuda.Device.count()
            if not 0 <= index < count:
                raise UnavailableError(f"There is no GPU number {index}: the driver counts {count}, from 0.")
            return cls(cuda.Device(index), _retain_primary_context(index))
        except cuda.Error as error:
            raise UnavailableError(f"GPU number {index} cannot be used: {error}.") from error

    def __init__(self, device: cuda.Device, context: cuda.Context) -> None:
        self.name: str = device.name()
        self.capability: tuple[int, int] = device.compute_capability()
        self.modules: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._context = context
        with self:
            self.setup_stream: cuda.Stream | None = self.create_stream()

    @property
    def architecture(self) -> str:
        """The name that nvcc has for the architecture, such as "sm_90"."""
        return "sm_{}{}".format(*self.capability)

    def create_stream(self) -> cuda.Stream:
        """Creates a stream, which the caller owns. Drop the last reference to it within `with device:`."""
        return cuda.Stream(NON_BLOCKING)

    def query_free_bytes(self) -> int:
        """Returns how many bytes of device memory are free."""
        return int(cuda.mem_get_info()[0])

    def __enter__(self) -> Device:
        if self._closed:
            raise EngineError(f"The GPU {self.name} was closed.")
        self._context.push()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        cuda.Context.pop()

    def close(self) -> None:
        """Frees the stream and the modules; everything else on it is freed by then. Calling it again does nothing."""
        with self._lock:
            if self._closed:
                return
            try:
                with self:
                    self.setup_stream = None
                    self.modules.clear()
            finally:
                self._closed = True


_contexts_lock = threading.Lock()
_primary_contexts: dict[int, cuda.Context] = {}
"""The retained primary context of each GPU, by the GPU's number."""


def _retain_primary_context(index: int) -> cuda.Context:
    """Returns a GPU's primary context, which is retained by the first call."""
    with _contexts_lock:
        if index not in _primary_contexts:
            _primary_contexts[index] = context = cuda.Device(index).retain_primary_context()
            # pycuda releases it in the destructor, which must not run when the interpreter ends: others may still use it then.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))
        return _primary_contexts[index]
