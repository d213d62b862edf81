"""A frame that brings its alpha has it and no other one, whoever else uses the session; and it leaves nothing behind."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import CoefficientsError, EngineError, UsageError
from dni_deploy.imaging.frames import Frame
from dni_deploy.session.session import Session, open_session
from dni_deploy.signature import Signature
from tests.engines.conftest import write
from tests.support.frame_session import Dimmer
from tests.support.handmade_graphs import HAND

TIMEOUT_S = 60.0
MEMBERS = ("bright", "dark")
WHITE = np.full((2, 3, 3), 255, np.uint8)


def open_dimmer(engine: Dimmer | None = None, **options: Any) -> tuple[Session, Dimmer]:
    """Opens a session that multiplies by the first member's share: a white frame comes back as 255 * alpha."""
    engine = engine or Dimmer((1.0, 0.0))
    return Session(engine, MEMBERS, Signature(radius=0), Coefficients.one_hot("bright", MEMBERS), **options), engine


def level(frame: Frame) -> int:
    (value,) = np.unique(frame)
    return int(value)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def opened(request: pytest.FixtureRequest) -> Any:
    session, engine = open_dimmer(async_refit=request.param)
    with session:
        yield session, engine


def test_a_frame_has_its_own_alpha_and_the_session_keeps_its(opened: tuple[Session, Dimmer]) -> None:
    session, _ = opened
    assert level(session(WHITE, alpha=0.2)) == 51
    assert level(session(WHITE)) == 255
    rendered = session.render(WHITE, alpha={"bright": 0.4, "dark": 0.6})
    assert level(rendered.output) == 102
    assert rendered.coefficients.values == (0.4, 0.6)
    assert session.alpha.values == (1.0, 0.0)
    assert session.infer(np.ones((1, 3, 1, 1), np.float32), alpha=0.5).max() == 0.5
    assert float(session.render_pixels(WHITE, alpha=0.3).pixels.max()) == pytest.approx(76.5)
    session.alpha = 0.6
    assert session.wait_until_applied()
    assert [level(session(WHITE, alpha=0.2)), level(session(WHITE))] == [51, 153]


@pytest.mark.parametrize("bad", [1.5, "sharp=1", [1, 0, 0], float("nan")])
def test_a_bad_alpha_does_nothing(opened: tuple[Session, Dimmer], bad: Any) -> None:
    session, engine = opened
    refits, generation = engine.refits, session.generation
    for call in (session, session.render, session.render_pixels, session.submit):
        with pytest.raises(CoefficientsError):
            call(WHITE, alpha=bad)
    with pytest.raises(CoefficientsError):
        session.infer(np.ones((1, 3, 1, 1), np.float32), alpha=bad)
    with pytest.raises(UsageError):
        session(np.zeros((2, 2), np.uint8), alpha=0.5)
    assert (engine.refits, session.generation) == (refits, generation)
    assert level(session(WHITE)) == 255


def test_an_alpha_that_a_slot_has_costs_no_refit(opened: tuple[Session, Dimmer]) -> None:
    session, engine = opened
    for _ in range(3):
        assert [level(session(WHITE, alpha=0.2)), level(session(WHITE))] == [51, 255]
    assert engine.refits == 2
    assert level(session(WHITE, alpha=1.0)) == 255
    assert engine.refits == 2


def test_one_slot_goes_back_to_the_alpha_of_the_session() -> None:
    engine = Dimmer((1.0, 0.0))
    engine.slots = 1
    session, _ = open_dimmer(engine)
    assert [level(session(WHITE, alpha=share)) for share in (0.2, 0.4)] == [51, 102]
    assert level(session(WHITE)) == 255
    assert session.generation == 4


def test_the_oldest_weights_make_room() -> None:
    engine = Dimmer((1.0, 0.0))
    engine.slots, engine.set = 3, [1.0] * 3
    session, _ = open_dimmer(engine)
    for share in (0.2, 0.4, 0.2, 0.4):  # two viewers, beside the slot of the session's alpha
        session(WHITE, alpha=share)
    assert engine.refits == 3


class FailsAt(Dimmer):
    """Fails to refit one blend."""

    def refit(self, slot: int, coefficients: Any) -> None:
        if coefficients[0] == 0.2:
            self.set[slot] = np.nan  # half written
            raise EngineError("The refit failed.")
        super().refit(slot, coefficients)


@pytest.mark.parametrize(("slots", "async_refit"), [(1, False), (2, False), (2, True)])
def test_a_refit_that_fails_is_the_error_of_its_frame_alone(slots: int, async_refit: bool) -> None:
    engine = FailsAt((1.0, 0.0))
    engine.slots = slots
    session, _ = open_dimmer(engine, async_refit=async_refit)
    with session:
        for _ in range(2):
            with pytest.raises(EngineError, match="The refit failed"):
                session(WHITE, alpha=0.2)
            assert level(session(WHITE)) == 255
            assert level(session(WHITE, alpha=0.4)) == 102
        assert session.alpha.values == (1.0, 0.0)


@pytest.mark.parametrize("frames", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("slots", "async_refit"), [(1, False), (2, False), (3, False), (2, True), (3, True)])
def test_sixteen_threads_with_an_alpha_each_get_theirs(slots: int, async_refit: bool, frames: int) -> None:
    """Beside one who moves the alpha of the session."""
    engine = Dimmer((1.0, 0.0))
    engine.slots, engine.set = slots, [1.0] * slots
    session, _ = open_dimmer(engine, async_refit=async_refit)
    wrong: list[tuple[int, int]] = []
    done = threading.Event()

    def view(viewer: int) -> None:
        for _ in range(frames):
            seen = level(session(WHITE, alpha=viewer / 255))
            if seen != viewer:
                wrong.append((viewer, seen))

    def move() -> None:
        step = 0
        while not done.wait(0.001):
            step += 1
            session.alpha = step % 100 / 100

    threads = [threading.Thread(target=view, args=(17 * index,), daemon=True) for index in range(16)]
    mover = threading.Thread(target=move, daemon=True)
    for thread in (*threads, mover):
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive(), "deadlock"
    done.set()
    mover.join(TIMEOUT_S)
    session.close()
    assert wrong == []


class Gate(Dimmer):
    """Holds up the refit of one blend."""

    def __init__(self, factors: tuple[float, ...]) -> None:
        super().__init__(factors)
        self.begun, self.open = threading.Event(), threading.Event()

    def refit(self, slot: int, coefficients: Any) -> None:
        if coefficients[0] == 0.2:
            self.begun.set()
            assert self.open.wait(TIMEOUT_S)
        super().refit(slot, coefficients)


def test_with_async_refit_other_frames_do_not_wait_for_the_refit_of_one() -> None:
    engine = Gate((1.0, 0.0))
    session, _ = open_dimmer(engine, async_refit=True)
    with session:
        seen: list[int] = []
        own = threading.Thread(target=lambda: seen.append(level(session(WHITE, alpha=0.2))), daemon=True)
        own.start()
        assert engine.begun.wait(TIMEOUT_S)
        assert level(session(WHITE)) == 255  # would hang
        session.alpha = 0.6  # its refit waits for the one that runs
        engine.open.set()
        own.join(TIMEOUT_S)
        assert seen == [51]
        assert session.wait_until_applied(TIMEOUT_S)
        assert level(session(WHITE)) == 153


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write(HAND["conv_bn"](), tmp_path_factory.mktemp("frame_alpha") / "x.dni", 3)


@pytest.mark.parametrize("options", [{}, {"rules": ["norm:*=0,0,1"]}, {"slots": 1}, {"async_refit": True}], ids=str)
def test_the_real_engine_renders_what_it_does_after_setting_the_alpha(bundle: Bundle, options: dict[str, Any]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (19, 23, 3), np.uint8)
    alphas = [(0.2, 0.3, 0.5), (0.0, 1.0, 0.0), (0.6, 0.4, 0.0)]
    with open_session(bundle, threads=1, **options) as session:
        expected = []
        for alpha in alphas:
            session.alpha = alpha
            assert session.wait_until_applied()
            expected.append(session(frame))
        session.alpha = (1.0, 0.0, 0.0)
        assert session.wait_until_applied()
        first = session(frame)
        for alpha, output in zip(alphas * 2, expected * 2, strict=True):
            assert np.array_equal(session(frame, alpha=alpha), output)
            assert np.array_equal(session(frame), first)
