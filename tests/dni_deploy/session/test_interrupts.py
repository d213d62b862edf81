"""KeyboardInterrupt at random moments, alpha set in a signal's handler, and forks: a session goes on, or says that it cannot."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import EngineError
from dni_deploy.session.condition import InterruptibleCondition
from dni_deploy.session.session import Session
from dni_deploy.signature import Signature
from tests.support.frame_session import Dimmer

FRAME = np.full((4, 4, 3), 200, np.uint8)
HANG_S = 60
pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no interval timers")


@contextmanager
def opened(**options: Any) -> Iterator[Session]:
    session = Session(Dimmer((1.0, 0.0)), ("a", "b"), Signature(radius=0), Coefficients.one_hot("a", ("a", "b")), **options)
    yield session
    session.close()


@contextmanager
def handling(handler: Callable[..., Any]) -> Iterator[None]:
    """Handles SIGALRM so; a second timer, which nothing catches, ends a test that hangs."""
    previous = signal.signal(signal.SIGALRM, handler), signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    watchdog = threading.Timer(HANG_S, lambda: os._exit(99))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        watchdog.cancel()
        signal.signal(signal.SIGALRM, previous[0])


def infer_once(session: Session) -> None:
    session.alpha = random.random()
    session(FRAME)


def infer_with_alpha(session: Session) -> None:
    session(FRAME, alpha=random.random())


def stream_some(session: Session) -> None:
    session.alpha = random.random()
    for _ in session.stream([FRAME] * 4, alphas=[None, random.random(), None, random.random()]):
        pass


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("work", [infer_once, infer_with_alpha, stream_some])
def test_interrupts_leave_no_slot_held(work: Callable[[Session], None], is_async: bool, count: int) -> None:
    rounds = interrupts = 0
    with opened(async_refit=is_async) as session, handling(signal.default_int_handler):
        work(session)  # what is made once for a session is made here
        while interrupts < count or not rounds:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 1e-3))
                while True:
                    work(session)
                    rounds += 1
            except KeyboardInterrupt:
                interrupts += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        for alpha in (0.25, 0.5, 0.75, 1.0):
            session.alpha = alpha
            session.wait_until_applied()
            assert session(FRAME)[0, 0, 0] == round(200 * alpha)
            assert session.submit(FRAME, alpha=alpha / 2).result().output[0, 0, 0] == round(100 * alpha)
        assert not any(session._refitter._frames_in_slot)
        assert not session._ring._under_way


@pytest.mark.parametrize("is_async", [False, True])
def test_a_signals_handler_may_set_alpha(is_async: bool) -> None:
    handled = 0

    def handle(*_: object) -> None:
        nonlocal handled
        handled += 1
        session.alpha = random.random()

    with opened(async_refit=is_async) as session, handling(handle):
        while handled < 300:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 2e-4))
            for _ in range(10):
                session.alpha = random.random()
                session(FRAME)
        signal.setitimer(signal.ITIMER_REAL, 0)
        session.alpha = 0.5
        session.wait_until_applied()
        assert session(FRAME)[0, 0, 0] == 100


def test_a_handlers_change_of_something_else_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler runs between reading the state and writing it back."""
    with opened() as session:
        validate, calls = session._validate_state, list[int]()

        def interrupted(_: Session, state: Any) -> Any:
            calls.append(1)
            if len(calls) == 1:
                session.alpha = 0.25  # what a handler does
            return validate(state)

        monkeypatch.setattr(Session, "_validate_state", interrupted)
        session._change_state(lambda state: state)
        assert session.alpha == Coefficients.parse(0.25, ("a", "b"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_gets_one_error_and_can_end() -> None:
    with opened() as session:
        list(session.stream([FRAME] * 3))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            uses: list[Callable[[], object]] = [
                lambda: setattr(session, "alpha", 0.5),
                lambda: setattr(session, "rules", None),
                lambda: session(FRAME),
                lambda: session.submit(FRAME),
                lambda: list(session.stream([FRAME])),
                lambda: session.infer(np.zeros((1, 3, 4, 4), np.float32)),
                lambda: session.wait_until_applied(),
            ]
            refused = 0
            for use in uses:
                try:
                    use()
                except EngineError as error:
                    refused += "forked" in str(error)
            session.close()
            session.close()
            os.write(writer, bytes([refused, len(uses), session.engine.closed]))  # type: ignore[attr-defined]
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        refused, count, closed = os.read(reader, 3)
        assert (refused, closed) == (count, 0)
        os.close(reader)
        os.close(writer)
        assert session(FRAME)[0, 0, 0] == 200


def test_a_condition_is_waited_for_and_notified() -> None:
    condition, order = InterruptibleCondition(), list[str]()

    def wait() -> None:
        with condition:
            order.append("waits")
            assert condition.wait_for(lambda: "changed" in order, 20)
            order.append("woken")

    thread = threading.Thread(target=wait)
    thread.start()
    while "waits" not in order:
        pass
    with condition, condition:  # its thread may take it twice
        order.append("changed")
        condition.notify_all()
    thread.join(20)
    assert order == ["waits", "changed", "woken"]
    with condition:
        assert not condition.wait(0.01)
        assert not condition.wait_for(lambda: False, 0.01)
    assert not condition._wakes
