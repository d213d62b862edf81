"""Simulated time: engines and a clock of a machine that only counts, so that a benchmark's figures are predictable."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.signature import Signature
from engines import ort_session
from engines.frame_conversion import HostFrameEngine

FRAME, CHANGE, UPLOAD, DOWNLOAD = 8e-3, 2e-3, 1e-3, 3e-3


def is_main_thread() -> bool:
    """Tells whether simulated time passes here: that of changes that another thread makes again and again does not."""
    return threading.current_thread() is threading.main_thread()


class Machine:
    """now: the host's time, that of the main thread. Each stream has a time at which it will be empty."""

    def __init__(self) -> None:
        self.now = 0.0
        self.free: dict[int, float] = {}

    def queue(self, stream: int, seconds: float) -> None:
        self.free[stream] = max(self.free.get(stream, 0.0), self.now) + seconds

    def wait(self, stream: int) -> None:
        self.now = max(self.now, self.free.get(stream, 0.0))


class KnownClock:
    """A benchmarks.gpu.clock.Clock of a Machine."""

    name = "known"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def mark(self, stream: int) -> float:
        return max(self.machine.free.get(stream, 0.0), self.machine.now)

    def wait(self, stream: int) -> None:
        self.machine.wait(stream)

    def between(self, first: float, second: float) -> float:
        return second - first

    def reset(self) -> None:
        return

    def now(self) -> float:
        return self.machine.now


class KnownEngine(HostFrameEngine):
    """A DeviceEngine that computes with ONNX Runtime on the CPU, times `scale`; its steps last FRAME, CHANGE, UPLOAD and DOWNLOAD."""

    name = update_path = "known"

    def __init__(self, machine: Machine, bundle: Bundle, *, slots: int = 1, scale: float = 1.0, frame: float = FRAME) -> None:
        super().__init__()
        self.machine, self.slots, self.scale, self.frame = machine, slots, scale, frame
        self.closed = 0
        self._bundle = bundle
        self._members = [bundle.read_weights(member) for member in bundle.members]
        self._graphs: dict[int, Any] = {}
        self._x: dict[int, NDArray[np.float32]] = {}
        self._sessions: dict[bytes, Any] = {}

    def stream_handle(self, slot: int) -> int:
        return id(self) + slot

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        self._graphs[slot] = coefficients.tobytes()
        if is_main_thread():
            self.machine.queue(self.stream_handle(slot), CHANGE)

    def synchronize(self, slot: int) -> None:
        if is_main_thread():
            self.machine.wait(self.stream_handle(slot))

    def upload(self, slot: int, x: NDArray[np.float32]) -> None:
        self._x[slot] = x
        self.machine.queue(self.stream_handle(slot), UPLOAD)

    def enqueue(self, slot: int) -> None:
        self.machine.queue(self.stream_handle(slot), self.frame)

    def download(self, slot: int) -> NDArray[np.float32]:
        self.machine.queue(self.stream_handle(slot), DOWNLOAD)
        self.machine.wait(self.stream_handle(slot))
        return self._x[slot]

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        coefficients = self._graphs[slot]
        if coefficients not in self._sessions:
            graph = self._bundle.read_graph_with_weights(blend_float64(self._members, np.frombuffer(coefficients)))
            self._sessions[coefficients] = ort_session.open_cpu_session(graph, 1)
        return ort_session.run_session(self._sessions[coefficients], x) * np.float32(self.scale)

    def render(self, slot: int, frame: Any, signature: Signature) -> Any:
        """Three frames at once: the uploads and downloads of the others are hidden behind the network of one."""
        self.machine.queue(self.stream_handle(slot), self.frame)
        self.machine.wait(self.stream_handle(slot))
        return frame

    def close(self) -> None:
        self.closed += 1
