"""The device memory that execution contexts keep activations in, shared by the slots of an engine.

Left to itself, a context allocates for the largest shape of its profile, and each slot once more: gigabytes for a super-resolution
network. Here all slots share one buffer of the size that the largest frame so far needed. Two slots then never run at the same
time, which a GPU that one network fills does not gain from either.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engines.cuda import backend as cuda
from engines.cuda.device import Device
from engines.cuda.memory import GrowingBuffer


class ContextMemory:
    """Memory for the run of one execution context at a time.

    Thread safety: any thread may call `lend`; the caller holds the device around every call.
    """

    def __init__(self, device: Device) -> None:
        self._lock = threading.Lock()
        self._buffer = GrowingBuffer(device)
        self._last_run: Any = None  # event
        self._last_stream: Any = None

    @contextmanager
    def lend(self, nbytes: int, stream: Any) -> Iterator[int]:
        """Lends the memory to the one run that is queued within the block.

        Args:
            nbytes: What the context asks for.
            stream: The stream that the run is queued on. It waits for the run of another stream.

        Yields:
            The address of at least `nbytes` bytes, which may be another one than last time.

        Raises:
            LimitError: There is no room.
        """
        with self._lock:
            if self._last_run is None:
                self._last_run = cuda.Event(cuda.event_flags.DISABLE_TIMING)
            elif self._buffer.nbytes < nbytes:
                self._last_run.synchronize()  # before the memory that the last run uses is freed
            elif self._last_stream is not stream:
                stream.wait_for_event(self._last_run)
            address = self._buffer.get_buffer(nbytes).pointer
            try:
                yield address
            finally:
                self._last_run.record(stream)
                self._last_stream = stream

    def free(self) -> None:
        """Frees the memory. Nothing queued may still use it. Calling it again does nothing."""
        self._last_run = self._last_stream = None
        self._buffer.free()
