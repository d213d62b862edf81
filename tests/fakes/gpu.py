"""A fake machine with an NVIDIA GPU, pycuda, cuda-bindings and TensorRT.

`install` puts the fakes where Python looks for the real packages. Incorrect uses are collected in
`FakeGpu.violations`; `FakeGpu.check` fails on them and on leaks.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections import Counter
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

from tests.fakes.machine_code import MachineCode
from tests.fakes.memory import Allocation, Memory
from tests.fakes.streams import Queue, Scheduler

NAME = "Fake H200"


class FakeGpu:
    """One machine, from `install` until the test ends.

    memory, scheduler   see there.
    violations          one sentence each; `check` fails on them.
    trt                 the fake TensorRT's own state and switches (tests/fakes/tensorrt.py, class State); None without it.
    nvcc                False: there is no compiler.
    compiled            the architectures that it compiled for.
    loaded              the machine code that the driver loaded.
    other_gpu           addresses of device memory that is to be another GPU's.
    refuse_registration True: the driver page-locks no memory of the host.
    transferred         bytes that copies moved, by ("to the device" or "to the host", "page-locked" or "pageable").
    graph_updates       how often an executable graph took over another one's nodes.
    launches            how often each kernel was launched; `kernel`, if set, runs instead of the host-compiled one.
    """

    def __init__(self, tensorrt: str, seed: int | None, eager: bool) -> None:
        self.tensorrt = tensorrt
        self.capability = (9, 0)
        self.driver_version = 13000
        self.violations: list[str] = []
        self.memory = Memory(self.report)
        self.scheduler = Scheduler(self.report, seed, eager)
        self.initialized = False
        self.nvcc = True
        self.compiled: list[str] = []
        self.loaded: list[MachineCode] = []
        self.refuse_registration = False
        self.other_gpu: set[int] = set()
        self.kernel: Any = None
        self.launches: Counter[str] = Counter()
        self.transferred: Counter[tuple[str, str]] = Counter()
        self.retained = 0
        self.released = 0
        self.pushed: Counter[int] = Counter()
        self.pycuda_pushed: Counter[int] = Counter()
        self.stacks = threading.local()
        self.capturing: dict[int, tuple[int, int]] = {}
        self.graphs: dict[int, Any] = {}
        self.graph_updates = 0
        self.events: dict[int, Any] = {}
        self.trt: Any = None

    def report(self, sentence: str) -> None:
        self.violations.append(sentence)

    def stack(self) -> list[Any]:
        """CUDA's own stack of contexts on this thread, the current one last. pycuda keeps another one beside it."""
        if not hasattr(self.stacks, "contexts"):
            self.stacks.contexts = []
        contexts: list[Any] = self.stacks.contexts
        return contexts

    def push(self, context: Any) -> None:
        self.stack().append(context)
        self.pushed[threading.get_ident()] += 1

    def pop(self) -> None:
        self.stack().pop()
        self.pushed[threading.get_ident()] -= 1

    def capture_forbids(self) -> bool:
        """Tells whether waiting and allocating are forbidden now.

        In mode "global" they are on every thread, in "thread local" on the capturing one.
        """
        here = threading.get_ident()
        return any(mode == 0 or (mode == 1 and thread == here) for thread, mode in self.capturing.values())

    def has_context(self) -> bool:
        return bool(self.stack())

    def allocate(self, nbytes: int, kind: str) -> Allocation:
        with self.scheduler.lock:
            return self.memory.allocate(nbytes, kind)

    def queue_of(self, handle: int, what: str) -> Queue | None:
        return self.scheduler.find(handle, what)

    def leaks(self) -> list[str]:
        """Lists leaks: memory, contexts pushed or retained more than once, graphs, TensorRT's objects."""
        left = [f"{one} was never freed" for one in self.memory.living()]
        for thread, count in self.pushed.items():
            if count:
                left.append(f"thread {thread} has {count} contexts on CUDA's stack that were never popped")
        for thread, count in self.pycuda_pushed.items():
            if count:
                left.append(f"thread {thread} has {count} contexts on pycuda's stack: that ends the process")
        if self.retained - self.released > 1:  # once per process is right: other libraries use the context as well
            left.append(f"the primary context was retained {self.retained} times and released {self.released} times")
        left += [f"event {handle:#x} was never destroyed" for handle in self.events]
        left += [f"CUDA {type(graph).__name__} {handle:#x} was never destroyed" for handle, graph in self.graphs.items()]
        if self.trt is not None:
            left += self.trt.leaks()
        return left

    def check(self) -> None:
        """Fails if anything was used incorrectly, work is still queued, or something leaked."""
        self.memory.look_at_guards()
        pending = [
            f"{len(queue.work)} pieces of work are still queued" for queue in self.scheduler.queues.values() if queue.work
        ]
        problems = self.violations + pending + self.leaks()
        assert not problems, "the fake GPU was used wrongly:\n" + "\n".join(problems)


CURRENT: FakeGpu | None = None


def current() -> FakeGpu:
    """Returns the installed machine. Fails outside a test that installed one."""
    if CURRENT is None:
        raise RuntimeError("no fake GPU is installed: the test lacks the `gpu` fixture or has ended")
    return CURRENT


def module(name: str, package: bool = False) -> ModuleType:
    """An empty module as the import system would have made it."""
    new_module = ModuleType(name)
    new_module.__spec__ = ModuleSpec(name, None, is_package=package)
    if package:
        new_module.__path__ = []
    return new_module


PYCUDA = module("pycuda", package=True)
DRIVER = module("pycuda.driver")
TENSORRT, TENSORRT_RTX = module("tensorrt", package=True), module("tensorrt_rtx", package=True)
CUDA = module("cuda", package=True)
BINDINGS = module("cuda.bindings", package=True)
BINDINGS_DRIVER = module("cuda.bindings.driver")
"""The same objects in all tests, so that modules that imported them once keep working in later tests."""

PYCUDA.driver = DRIVER  # type: ignore[attr-defined]
CUDA.bindings = BINDINGS  # type: ignore[attr-defined]
BINDINGS.driver = BINDINGS_DRIVER  # type: ignore[attr-defined]
PYCUDA.VERSION = (2026, 1)  # type: ignore[attr-defined]
PYCUDA.VERSION_TEXT = "2026.1"  # type: ignore[attr-defined]


def install(
    monkeypatch: pytest.MonkeyPatch,
    *,
    tensorrt: str | None = "11.4",
    seed: int | None = None,
    eager: bool = False,
    cuda: str | None = None,
) -> FakeGpu:
    """Installs the machine until monkeypatch is undone.

    tensorrt   "11.4", "10.16", "8.6", "rtx-1.7" or None for a machine without it.
    cuda       the package through which the driver is called, "pycuda" or "cuda-bindings". None: what DNI_CUDA names, else pycuda.
    """
    from engines.cuda import driver
    from tests.fakes import cuda_bindings, cuda_library, nvcc, pycuda_driver

    machine = FakeGpu(tensorrt or "", seed, eager)
    monkeypatch.setattr(sys.modules[__name__], "CURRENT", machine)
    pycuda_driver.fill(DRIVER)
    cuda_bindings.fill(BINDINGS_DRIVER)
    cuda = cuda or os.environ.get(driver.CUDA_PACKAGE_VARIABLE) or "pycuda"
    modules = {
        "pycuda": PYCUDA,
        "pycuda.driver": DRIVER,
        "cuda": CUDA,
        "cuda.bindings": BINDINGS,
        "cuda.bindings.driver": BINDINGS_DRIVER,
    }
    if tensorrt is not None:
        from tests.fakes import tensorrt as fake

        is_rtx = tensorrt.startswith("rtx")
        library = TENSORRT_RTX if is_rtx else TENSORRT
        if is_rtx:
            machine.capability = (8, 9)
        machine.trt = fake.fill(library, tensorrt, machine)
        modules[library.__name__] = library
        _select_polygraphy(library)
    for name, each in modules.items():
        monkeypatch.setitem(sys.modules, name, each)
    monkeypatch.setenv(driver.CUDA_PACKAGE_VARIABLE, cuda)
    from engines.cuda import backend, device, machine_code

    _choose_backend(monkeypatch, backend, cuda)
    monkeypatch.setattr(device, "_primary_contexts", {})
    monkeypatch.setattr(machine_code, "run_nvcc", nvcc.run_nvcc)
    library_of_the_driver = cuda_library.Library(machine)
    monkeypatch.setattr(driver, "load_driver_library", lambda: library_of_the_driver)
    return machine


def _select_polygraphy(library: ModuleType) -> None:
    """Has Polygraphy work with this library; a real process has it work with one from its first import on."""
    from polygraphy import config

    config.USE_TENSORRT_RTX = library is TENSORRT_RTX
    for name, each in sys.modules.items():
        if name.startswith("polygraphy.") and "trt" in vars(each) and not isinstance(each.trt, ModuleType):
            each.trt = _Proxy()


class _Proxy:
    """The library of the current machine, as Polygraphy's lazy import of it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(TENSORRT_RTX if current().tensorrt.startswith("rtx") else TENSORRT, name)


def _choose_backend(monkeypatch: pytest.MonkeyPatch, backend: ModuleType, cuda: str) -> None:
    """Gives engines.cuda.backend, which another test may have imported with the other package, the names of this one."""
    own = importlib.import_module("engines.cuda.cuda_bindings")
    monkeypatch.setattr(own, "cu", BINDINGS_DRIVER)
    for name in backend.__all__:
        monkeypatch.setattr(backend, name, getattr(DRIVER if cuda == "pycuda" else own, name))
