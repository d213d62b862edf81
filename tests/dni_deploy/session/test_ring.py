"""Frames in flight: their order and alpha, back-pressure, errors, and an end that leaves nothing running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import EngineError, UsageError
from dni_deploy.imaging.frames import Frame
from dni_deploy.session.ring import FrameRing
from dni_deploy.session.session import Session
from dni_deploy.session.swap import SyncRefit
from dni_deploy.signature import Signature
from engines.interface import FRAMES_IN_FLIGHT
from tests.support.frame_session import Dimmer

TIMEOUT_S = 20.0
MEMBERS = ("bright", "dark")


class Counting(Dimmer):
    """Counts the frames that are in it, and can hold them up."""

    def __init__(self) -> None:
        super().__init__((1.0, 0.0))
        self.lock, self.gate = threading.Lock(), threading.Event()
        self.gate.set()
        self.inside = self.most = self.begun = 0
        self.entered = threading.Semaphore(0)

    def render(self, slot: int, frame: Any, signature: Signature) -> NDArray[Any]:
        with self.lock:
            self.inside += 1
            self.begun += 1
            self.most = max(self.most, self.inside)
        self.entered.release()
        assert self.gate.wait(TIMEOUT_S)
        try:
            return super().render(slot, frame, signature)
        finally:
            with self.lock:
                self.inside -= 1


@pytest.fixture
def opened() -> Iterator[tuple[Session, Counting]]:
    engine = Counting()
    session = Session(engine, MEMBERS, Signature(radius=0), Coefficients.one_hot("bright", MEMBERS))
    yield session, engine
    engine.gate.set()
    session.close()


def gray(value: int, width: int = 4) -> Frame:
    return np.full((3, width, 3), value, np.uint8)


def level(frame: Any) -> int:
    (value,) = np.unique(frame)
    return int(value)


def test_a_stream_keeps_order_and_alphas(opened: tuple[Session, Counting]) -> None:
    session, engine = opened
    shares = [round(index % 7 / 10, 1) for index in range(60)]
    rendered = list(session.stream((gray(200) for _ in shares), alphas=shares))
    assert [level(each.output) for each in rendered] == [round(200 * share) for share in shares]
    assert [each.coefficients.values[0] for each in rendered] == shares
    assert engine.begun == 60
    assert session.alpha.values == (1.0, 0.0)


def test_without_alphas_a_frame_has_that_of_the_session_when_it_is_read(opened: tuple[Session, Counting]) -> None:
    session, _ = opened

    def source() -> Iterator[Frame]:
        for index in range(20):
            session.alpha = index / 20
            yield gray(200)

    assert [level(each.output) for each in session.stream(source())] == [10 * index for index in range(20)]


def test_frames_overlap_up_to_the_limit(opened: tuple[Session, Counting]) -> None:
    session, engine = opened
    engine.gate.clear()
    futures = [session.submit(gray(9)) for _ in range(FRAMES_IN_FLIGHT)]
    one_more = threading.Thread(target=lambda: futures.append(session.submit(gray(9))), daemon=True)
    one_more.start()
    for _ in range(FRAMES_IN_FLIGHT):
        assert engine.entered.acquire(timeout=TIMEOUT_S)
    one_more.join(0.05)
    assert one_more.is_alive()  # it waits for a place
    assert engine.most == FRAMES_IN_FLIGHT
    engine.gate.set()
    one_more.join(TIMEOUT_S)
    assert [level(future.result(TIMEOUT_S).output) for future in futures] == [9] * (FRAMES_IN_FLIGHT + 1)
    assert engine.most == FRAMES_IN_FLIGHT


def test_a_stream_reads_no_further_than_there_is_room(opened: tuple[Session, Counting]) -> None:
    session, _ = opened
    read = 0

    def source() -> Iterator[Frame]:
        nonlocal read
        for read in range(1, 100):  # noqa: B007
            yield gray(1)

    stream = session.stream(source())
    for index in range(1, 6):
        next(stream)
        assert read == index + FRAMES_IN_FLIGHT - 1


def test_a_frame_may_be_changed_once_it_is_submitted(opened: tuple[Session, Counting]) -> None:
    session, engine = opened
    engine.gate.clear()
    frame = gray(200)
    future = session.submit(frame)
    frame[:] = 0
    engine.gate.set()
    assert level(future.result(TIMEOUT_S).output) == 200


def test_the_error_of_a_frame_comes_in_its_place(opened: tuple[Session, Counting]) -> None:
    session, engine = opened
    engine.broken = 5  # frames of this width give a NaN
    stream = session.stream(gray(8, width) for width in (4, 4, 5, 4, 4))
    assert [level(next(stream).output) for _ in range(2)] == [8, 8]
    with pytest.raises(EngineError, match="NaN or infinite"):
        next(stream)
    assert engine.inside == 0
    assert list(stream) == []


def test_the_error_of_a_source_comes_after_the_frames_before_it(opened: tuple[Session, Counting]) -> None:
    session, engine = opened

    def source() -> Iterator[Any]:
        yield gray(1)
        yield gray(2)
        raise OSError("the file is cut")

    seen: list[int] = []
    with pytest.raises(OSError, match="the file is cut"):
        seen.extend(level(each.output) for each in session.stream(source()))
    assert seen == [1, 2]
    with pytest.raises(UsageError, match="got float64"):
        list(session.stream([gray(1), np.zeros((2, 2, 3))]))  # type: ignore[list-item]
    assert engine.inside == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_a_stream_that_is_left_leaves_nothing_running(opened: tuple[Session, Counting], error: type[BaseException]) -> None:
    session, engine = opened
    stream = session.stream(gray(7) for _ in range(100))
    next(stream)
    if error is GeneratorExit:
        stream.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert engine.inside == 0
    assert engine.begun <= 1 + FRAMES_IN_FLIGHT
    assert level(session(gray(7))) == 7


def test_closing_ends_what_runs_and_refuses_what_comes(opened: tuple[Session, Counting]) -> None:
    session, engine = opened
    engine.gate.clear()
    futures = [session.submit(gray(6)) for _ in range(FRAMES_IN_FLIGHT)]
    for _ in futures:
        assert engine.entered.acquire(timeout=TIMEOUT_S)
    closing = threading.Thread(target=session.close, daemon=True)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()  # it waits for the frames
    assert engine.closed == 0
    engine.gate.set()
    closing.join(TIMEOUT_S)
    assert not closing.is_alive()
    assert [level(future.result(TIMEOUT_S).output) for future in futures] == [6] * FRAMES_IN_FLIGHT
    assert engine.closed == 1
    with pytest.raises(EngineError, match="The session is closed"):
        session.submit(gray(1))
    with pytest.raises(EngineError, match="The session is closed"):
        next(session.stream([gray(1)]))


def test_a_frame_whose_refit_fails_gives_its_place_back() -> None:
    def refit(slot: int, value: int) -> None:
        if value:
            raise EngineError("no refit")

    ring = FrameRing(SyncRefit(2, refit, 0))
    with pytest.raises(EngineError, match="no refit"):
        ring.submit(lambda weights: None, 1)
    assert not ring._under_way
    ring.close()
