"""Base: what the four ways to run a family in TensorRT have in common.

Each slot has one stream. Blend, refit, upload, run and download of a slot are queued on it in the order of the calls, so that none
of them needs to wait for another one, and nothing of one slot ever touches another slot's stream: two slots are two engines.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycuda.driver as cuda
import tensorrt as trt
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from engines.cuda.blender import DeviceBlender, Live
from engines.cuda.device import Device
from engines.cuda.layout import DeviceLayout
from engines.cuda.members import Members
from engines.cuda.memory import Buffer
from engines.options import EngineOptions
from engines.trt.features import Features
from engines.trt.messages import begin, failed, messages, sentence
from engines.trt.network import Network
from engines.trt.plan import Plan
from engines.trt.refitter import Refitter
from engines.trt.runner import Runner
from engines.trt.unwind import drop_variables
from engines.trt.weights import Source
from engines.verification_inputs import mixed_shares

NEVER = "it has no weights yet"
FAILED = "its last refit failed and may have changed some of the weights"


@dataclass
class Slot:
    """One set of weights. unusable: why no frame may run on it, or None."""

    stream: Any
    engine: Any = None
    runner: Runner | None = None
    live: Live | None = None
    source: Source | None = None
    refitter: Refitter | None = None
    alpha: Buffer | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    unusable: str | None = NEVER

    @property
    def run(self) -> Runner:
        if self.runner is None:
            raise EngineError("The engine is closed.")
        return self.runner


class TensorRTEngine:
    """A DeviceEngine (see engines/interface.py). It owns the device's context and all that it makes in it.

    blends  whether alpha has an effect.
    """

    name: str
    road: str
    blends = True

    def __init__(self, network: Network, plan: Plan, options: EngineOptions, features: Features) -> None:
        """Raises EngineError, EnvironmentProblem; nothing is left behind then."""
        self.network, self.header, self.features = network, plan.header, features
        self.slots = options.slots or 1
        self._replay = options.cuda_graph
        self.all: list[Slot] = []
        self._members: Members | None = None
        self._blender: DeviceBlender | None = None
        self._runtime: Any = None
        self.shared: Any = None
        self._device: Device | None = Device.open(options.device)
        try:
            with self._device:
                begin()
                self._runtime = trt.Runtime(messages())
                self.fill(plan, self._device)
        except BaseException as error:
            with self._device:
                drop_variables(error)
            self.close()
            if isinstance(error, cuda.Error):
                raise _gpu_error(error) from error
            raise

    # What a kind adds.

    def fill(self, plan: Plan, device: Device) -> None:
        """Fill `all`. The device is held; what is made must be reachable from `self` at once, so that `close` finds it."""
        raise NotImplementedError

    def change(self, at: Slot, shares: NDArray[np.float64]) -> None:
        """Queue what makes the slot compute with these shares, which `taken` returned. The device is held."""
        raise NotImplementedError

    def taken(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """The shares as `change` takes them. Raises UsageError, CoefficientsError or EngineError where it does not, and then the slot is
        as it was: all that can be said against shares is said here."""
        shares = np.asarray(coefficients, np.float64)
        return shares if self._blender is None else self._blender.taken(shares)

    # Engine

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        with self.holding(slot) as at:
            shares = self.taken(coefficients)
            at.unusable = FAILED
            self.change(at, shares)
            at.unusable = None

    def finish(self, slot: int) -> None:
        with self.holding(slot) as at:
            at.stream.synchronize()

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        with self.holding(slot) as at:
            at.run.place(x)
            self._enqueue(slot, at)
            return at.run.fetch()

    # DeviceEngine

    def stream_handle(self, slot: int) -> int:
        with self.holding(slot) as at:
            return int(at.stream.handle)

    def place(self, slot: int, x: NDArray[np.float32]) -> None:
        with self.holding(slot) as at:
            at.run.place(x)

    def enqueue(self, slot: int) -> None:
        with self.holding(slot) as at:
            self._enqueue(slot, at)

    def fetch(self, slot: int) -> NDArray[np.float32]:
        with self.holding(slot) as at:
            return at.run.fetch()

    # What opening needs.

    @property
    def checked(self) -> NDArray[np.float64]:
        """The shares at which an opened plan is compared with ONNX Runtime."""
        count = len(self.network.members)
        return mixed_shares(count) if self.blends else np.eye(count)[0]

    def accept(self) -> None:
        """After the verification: its weights and its picture are nobody's, so every slot waits for its first refit and frame."""
        for at in self.all:
            at.unusable = NEVER
            at.run.forget()

    def probe_replay(self, x: NDArray[np.float32]) -> None:
        """Find out whether frames can be replayed as a CUDA graph here, and whether a replay sees weights that came after it.

        NVIDIA does not say whether weights stay where they are over a refit. Uses slot 0. Without a clear answer, graphs are captured
        again after each refit; where a replay is no good at all, there are none, and `road` says so.
        """
        first, last = np.eye(len(self.network.members))[[0, -1]]
        run = self.all[0].run
        keeps = False
        try:
            self.refit(0, first)
            plain, again = self.infer(0, x), self.infer(0, x)
            if not (run.captured and np.array_equal(plain, again)):
                raise EngineError("a replayed frame differs from a queued one")
            if self.features.contexts_survive:
                run.keeps = True
                self.refit(0, last)
                replayed = self.infer(0, x)
                run.keeps = False
                with self.held():
                    run.refitted()
                fresh = self.infer(0, x)
                # Where the last member's picture is the first one's, nothing was seen.
                keeps = np.array_equal(replayed, fresh) and not np.array_equal(fresh, plain)
        except EngineError as error:
            keeps, self._replay = False, False
            self.road += f"; without CUDA graphs, because {str(error).rstrip('.')}"
        if self._replay:
            kept = "kept over refits" if keeps else "captured again after each refit"
            self.road += f"; frames are replayed as CUDA graphs{f', {kept}' if self.blends else ''}"
        for at in self.all:
            at.run.replay, at.run.keeps = self._replay, keeps
            with self.held():
                at.run.refitted()

    def close(self) -> None:
        """Contexts, refitters, engines, runtime, buffers, streams, device: TensorRT crashes in another order."""
        device, self._device = self._device, None
        if device is None:
            return
        with device:
            for at in self.all:
                _quietly(at.stream.synchronize)
            for at in self.all:
                if at.runner is not None:
                    _quietly(at.runner.release)
            for at in self.all:
                if at.refitter is not None:
                    _quietly(at.refitter.close)
                at.refitter = None
            for at in self.all:
                at.engine = None
            self.shared = None
            self._runtime = None
            for at in self.all:
                for part in (at.runner, at.source, at.alpha, at.live):
                    if part is not None:
                        _quietly(part.free)
                at.runner, at.source, at.alpha, at.live = None, None, None, None
            if self._members is not None:
                _quietly(self._members.free)
            self._members, self._blender = None, None
            for at in self.all:
                at.stream = None
            self.all.clear()
        device.close()

    def _enqueue(self, slot: int, at: Slot) -> None:
        if at.unusable is not None:
            raise EngineError(f"Slot {slot} cannot run: {at.unusable}; refit it first.")
        at.run.enqueue()

    # What the kinds share.

    @property
    def what(self) -> str:
        """How every road begins."""
        return f"TensorRT {self.features.version}, {self.header.precision}"

    @contextmanager
    def holding(self, slot: int) -> Iterator[Slot]:
        """The slot's lock and the device. An error of the GPU becomes an EngineError, and the slot unusable."""
        if self._device is None:
            raise EngineError("The engine is closed.")
        at = self.all[slot]
        with at.lock, self.held():
            try:
                yield at
            except cuda.Error as error:
                at.unusable = f"the GPU failed ({sentence(str(error))})"
                raise _gpu_error(error) from error

    @contextmanager
    def held(self) -> Iterator[Device]:
        if self._device is None:
            raise EngineError("The engine is closed.")
        with self._device as device:
            yield device

    def deserialized(self, plan: Plan) -> Any:
        engine = self._runtime.deserialize_cuda_engine(plan.engine)
        if engine is None:
            raise failed("load the plan", "Build it again.")
        return engine

    def runner(self, device: Device, engine: Any, stream: Any, fixed: Mapping[str, int] | None = None) -> Runner:
        return Runner(device, engine, stream, self.header.profile, fixed, replay=self._replay)

    def upload_members(self, device: Device) -> DeviceLayout:
        """Upload the members, once for all slots."""
        network, known = self.network, self.network.recalibration
        layout = DeviceLayout.of(network.lowered, () if known is None else known.statistics)
        self._members = Members(device, layout, network.lowered.recipes, list(network.members), known)
        self._blender = DeviceBlender(device, self._members)
        return layout

    def blend(self, at: Slot, shares: NDArray[np.float64]) -> None:
        assert self._blender is not None
        assert at.live is not None
        self._blender.queue(shares, at.live, at.stream)


def _gpu_error(error: Exception) -> EngineError:
    hint = " Close what else uses the GPU, or build for smaller frames." if isinstance(error, cuda.MemoryError) else ""
    return EngineError(f"The GPU failed: {sentence(str(error))}.{hint}")


def _quietly(step: Callable[[], object]) -> None:
    """On the way out: a GPU that has failed fails again at each step, and the others are still to be done."""
    with suppress(cuda.Error, EngineError):
        step()
