"""Waits: every place of the TensorRT backend that waits for the GPU is needed, or says why nothing can tell.

Each `synchronize()` and `wait_for_event()` in the sources is taken away on its own, by the line it stands on, and engines are then
driven through their lives until something is wrong: memory that was freed too early, a frame of old weights, work under a closed engine.
"""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines
from dni_deploy.errors import EngineError
from engines.interface import EngineOptions
from tests.engines.trt import alpha_probe_network, frame_probe_network
from tests.engines.trt.alpha_probe_network import Caught, Schedule
from tests.engines.trt.frame_probe_network import FrameSchedule
from tests.fakes import gpu as machine
from tests.fakes.gpu import FakeGpu, install
from tests.fakes.trt.record import Recording

ROOT = Path(engines.__file__).parent
SOURCES = sorted([*(ROOT / "trt").glob("*.py"), *(ROOT / "cuda").glob("*.py")])
NOT_TOLD: dict[str, str] = {}
"""By place, why its absence cannot be seen."""

WAITS = ("synchronize", "wait_for_event")
LIVES = [("11.4", "refit", False), ("8.6", "refit", False), ("11.4", "refit", True), ("11.4", "inputs", True)]


def places() -> Iterator[tuple[str, str, int]]:
    """ "runner.fetch", the file and the line of each wait; a second one in a function is "runner.fetch 2"."""
    for path in SOURCES:
        seen: dict[str, int] = {}
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            found = (node for node in ast.walk(function) if isinstance(node, ast.Attribute) and node.attr in WAITS)
            for line in sorted(node.lineno for node in found):
                name = f"{path.stem}.{function.name}"
                seen[name] = seen.get(name, 0) + 1
                yield name if seen[name] == 1 else f"{name} {seen[name]}", str(path), line


PLACES = sorted(places())


def take_away(monkeypatch: pytest.MonkeyPatch, path: str, line: int) -> list[int]:
    """Streams and events come back at once where they are waited for on this line. Gives a list that grows with each time."""
    from engines.cuda import backend as cuda

    times: list[int] = []
    for owner, method in ((cuda.Stream, "synchronize"), (cuda.Event, "synchronize"), (cuda.Stream, "wait_for_event")):
        original = getattr(owner, method)

        def call(self: Any, *args: Any, whole: Any = original) -> Any:
            frame: Any = sys._getframe(1)
            if frame.f_code.co_name == "_suppress_cuda_errors":  # it is handed the method and calls it
                frame = frame.f_back
            if frame.f_lineno == line and frame.f_code.co_filename == path:
                times.append(line)
                return self
            return whole(self, *args)

        monkeypatch.setattr(owner, method, call)
    return times


def live(gpu: FakeGpu, folder: Path, kind: str, graph: bool) -> None:
    """Raises Caught or EngineError, or leaves violations, where something is wrong."""
    gpu.trt.evaluator, gpu.trt.shapes = alpha_probe_network.evaluate, alpha_probe_network.shapes
    bundle = alpha_probe_network.bundle(folder)
    alpha_probe_network.build(bundle, kind)
    for life in range(4):
        engine = alpha_probe_network.open_engine(bundle, kind, EngineOptions(slots=2, cuda_graph=graph))
        try:
            schedule = Schedule(engine, gpu, fails=kind == "refit", by_row=kind == "refit")
            one_after_the_other(engine)
            for seed in range(life * 25, life * 25 + 25):
                schedule.run(seed)
            gpu.scheduler.reseed(None)  # as late as can be
            engine.refit(0, np.array([0.25, 0.75]))
            if kind == "refit":
                content = engine.serialize(0)
                engine.synchronize(0)
                if content != engine.serialize(0):
                    raise Caught("the engine was written before its refit had ended")
            engine.enqueue(0)
        finally:
            gpu.scheduler.reseed(None)
            engine.close()
            gpu.scheduler.drain_all()
        if gpu.violations:
            raise Caught(gpu.violations[0])
    render(gpu, folder, kind, graph)


def render(gpu: FakeGpu, folder: Path, kind: str, graph: bool) -> None:
    """The life of an engine of frames."""
    engine = frame_probe_network.open_engine(gpu, folder, kind, graph=graph)
    try:
        schedule = FrameSchedule(engine, gpu)
        for seed in range(40):
            schedule.run(seed)
    finally:
        gpu.scheduler.reseed(None)
        engine.close()
        gpu.scheduler.drain_all()
    if gpu.violations:
        raise Caught(gpu.violations[0])


def one_after_the_other(engine: Any) -> None:
    """Frames without a wait between them, at first as late as can be: their memory is used again, and grows."""
    small, large = np.ones((1, 1, 1, 1), np.float32), np.ones(alpha_probe_network.LARGEST, np.float32)
    for slot, x in ((0, small), (1, large)):  # the memory that both work in grows while the first run uses it
        engine.refit(slot, np.array([0.5, 0.5]))
        engine.upload(slot, x)
        engine.enqueue(slot)
    for slot, x in ((1, large), (0, small)):
        if not np.array_equal(engine.download(slot), alpha_probe_network.picture(0.5, x)):
            raise Caught(f"slot {slot} gives another picture")
    for slot in (0, 1):
        for x in (small, small, large, large):
            engine.refit(slot, np.array([0.5, 0.5]))
            engine.upload(slot, x)
            engine.enqueue(slot)
            engine.refit(slot, np.array([0.25, 0.75]))
            engine.upload(slot, -x)
            got = engine.download(slot)
            if not np.array_equal(got, alpha_probe_network.picture(0.5, x)):
                raise Caught(f"{got.ravel()[:4]} where it must be {alpha_probe_network.picture(0.5, x).ravel()[:4]}")
            engine.enqueue(slot)


def copies() -> None:
    """A buffer's copies without a stream are there on return, for every stream."""
    from engines.cuda import backend as cuda
    from engines.cuda.device import Device
    from engines.cuda.memory import Buffer

    device = Device.open()
    with device:
        buffer, other, out = Buffer(device, 8), device.create_stream(), np.empty(2, np.float32)
        for values in ([1.0, 2.0], [0.0, 0.0]):
            if any(values):
                buffer.upload(np.array(values, np.float32))
            else:
                buffer.zero()
            cuda.memcpy_dtoh_async(out, buffer.pointer, other)
            other.synchronize()
            through = np.empty(2, np.float32)
            buffer.download(through)
            if out.tolist() != values or through.tolist() != values:
                raise Caught(f"{out} and {through} where {values} was copied")
        machine.current().scheduler.drain_all()
        buffer.free()
        del other
    device.close()


def caught(monkeypatch: pytest.MonkeyPatch, folder: Path, place: tuple[str, int] | None) -> str | None:
    """The first thing that was wrong in any of the lives, or None."""
    monkeypatch.setattr("engines.verification.VERIFICATION_SIDE_PX", 1)
    monkeypatch.setattr("engines.trt.library.NUMPY_MAJOR_VERSION", 1)
    for version, kind, graph in LIVES:
        with monkeypatch.context() as patch:
            gpu = install(patch, tensorrt=version)
            patch.setattr(Recording, "version", None)
            if place is not None:
                take_away(patch, *place)
            target = folder / f"{version}-{kind}-{graph}"
            target.mkdir()
            try:
                copies()
                live(gpu, target, kind, graph)
            except (Caught, EngineError) as error:
                return f"TensorRT {version}, {kind}: {error}"
            finally:
                gc.collect()
            left = gpu.leaks()
            if left:
                return left[0]
    return None


@pytest.mark.parametrize(("path", "line"), [place[1:] for place in PLACES], ids=[place[0] for place in PLACES])
@pytest.mark.slow
def test_wait_taken_away(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str, line: int
) -> None:
    name = request.node.callspec.id
    said = caught(monkeypatch, tmp_path, (path, line))
    if name in NOT_TOLD:
        assert said is None, f"{name} is needed after all: {said}"
    else:
        assert said is not None, f"{name} was taken away and nothing was wrong"


@pytest.mark.slow
def test_nothing_taken_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(PLACES) > 10
    assert caught(monkeypatch, tmp_path, None) is None
    assert machine.CURRENT is None
