"""SharedAlpha: the newest alpha wins, from any thread; invalid ones are refused; the slew limit moves on a straight line."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.control.shared_alpha import AlphaState, SharedAlpha
from dni_deploy.errors import CoefficientsError, UsageError
from tests.support.threads import run_writers_and_readers

TWO, THREE = ("psnr", "gan"), ("a", "b", "c")
TIMEOUT_S = 20.0
"""Seconds after which a thread that has not ended counts as deadlocked."""
CLOSE = 1e-12
"""Steps of a hundred reads, each rounded."""


def new_shared_alpha(**options: Any) -> SharedAlpha:
    return SharedAlpha(TWO, Coefficients.one_hot("psnr", TWO), **options)


def test_the_newest_alpha_wins() -> None:
    shared_alpha = new_shared_alpha()
    assert shared_alpha.read() == AlphaState(0, Coefficients.one_hot("psnr", TWO), Coefficients.one_hot("psnr", TWO), "")
    assert shared_alpha.set_alpha(0.25, "osc") == 1
    assert shared_alpha.set_alpha("gan=0.5,psnr=0.5", "page") == 2
    assert shared_alpha.read().coefficients.values == (0.5, 0.5)
    assert (shared_alpha.read().sequence, shared_alpha.read().source) == (2, "page")
    assert shared_alpha.at(0.0, 0) == shared_alpha.read().coefficients


@pytest.mark.parametrize("alpha", [math.nan, "nan", 1.5, "x=1", "", None, [1], {"psnr": 2}, 10**400, "0" * 10**6 + "x"])
def test_an_invalid_alpha_changes_nothing(alpha: Any) -> None:
    shared_alpha = new_shared_alpha()
    shared_alpha.set_alpha(0.25, "before")
    before = shared_alpha.state
    with pytest.raises(CoefficientsError) as caught:
        shared_alpha.set_alpha(alpha, "bad")
    assert len(str(caught.value)) < 500
    assert shared_alpha.state == before


def test_an_initial_alpha_of_another_family_is_refused() -> None:
    with pytest.raises(CoefficientsError):
        SharedAlpha(THREE, Coefficients.one_hot("psnr", TWO))
    for slew in (0, -1, math.nan, math.inf):
        with pytest.raises(UsageError, match="slew"):
            new_shared_alpha(slew=slew)


def test_extrapolation_is_off_by_default() -> None:
    with pytest.raises(CoefficientsError):
        new_shared_alpha().set_alpha(1.5)
    shared_alpha = new_shared_alpha(extrapolate=True)
    shared_alpha.set_alpha(1.5)
    assert shared_alpha.read().requested.values == (1.5, -0.5)


def test_slew_uses_the_time_argument() -> None:
    shared_alpha = new_shared_alpha(slew=0.5)
    shared_alpha.read(10.0)
    shared_alpha.set_alpha("gan=1", now=10.0)
    gan_values = []
    for step in range(1, 6):
        state = shared_alpha.read(10.0 + 0.5 * step)
        gan_values.append(state.coefficients.values[1])
        assert state.requested.values == (0, 1)
        assert math.fsum(state.coefficients.values) == 1
    assert gan_values == pytest.approx([0.25, 0.5, 0.75, 1, 1], abs=CLOSE)
    assert shared_alpha.read(13.0).coefficients == Coefficients.one_hot("gan", TWO)  # exactly the target


def test_time_before_a_change_does_not_count_for_slew() -> None:
    shared_alpha = new_shared_alpha(slew=1.0)
    shared_alpha.read(0.0)
    shared_alpha.set_alpha(0.0, now=100.0)  # no read for 100 s
    assert shared_alpha.read(100.25).coefficients.values == pytest.approx((0.75, 0.25), abs=CLOSE)


def test_slew_counts_the_time_of_frames_for_a_frame_loop() -> None:
    shared_alpha = new_shared_alpha(slew=1.0)
    assert shared_alpha.at(0.0, 0).values == (1, 0)
    shared_alpha.set_alpha(0.0)
    assert shared_alpha.at(0.04, 1).values == pytest.approx((0.96, 0.04), abs=CLOSE)
    assert shared_alpha.at(0.04, 1).values == pytest.approx((0.96, 0.04), abs=CLOSE)
    assert shared_alpha.at(0.02, 0).values == pytest.approx((0.96, 0.04), abs=CLOSE)  # seeking back does not move it
    assert shared_alpha.at(9.0, 225).values == (0, 1)


def test_slew_moves_straight_and_reverses_at_once() -> None:
    shared_alpha = SharedAlpha(THREE, Coefficients.one_hot("a", THREE), slew=1.0)
    shared_alpha.read(0.0)
    shared_alpha.set_alpha([0.0, 0.5, 0.5], now=0.0)
    assert shared_alpha.read(0.4).coefficients.values == pytest.approx(
        (0.6, 0.2, 0.2), abs=CLOSE
    )  # a has the largest distance: 1 per second
    shared_alpha.set_alpha([1.0, 0.0, 0.0], now=0.4)
    assert shared_alpha.read(0.6).coefficients.values == pytest.approx((0.8, 0.1, 0.1), abs=CLOSE)


def test_the_clock_is_monotonic_by_default() -> None:
    now = [5.0]
    shared_alpha = new_shared_alpha(slew=1.0, clock=lambda: now[0])
    shared_alpha.read()
    shared_alpha.set_alpha(0.0)
    now[0] = 5.5
    assert shared_alpha.read().coefficients.values == pytest.approx((0.5, 0.5), abs=CLOSE)
    now[0] = 4.0
    assert shared_alpha.read().coefficients.values == pytest.approx((0.5, 0.5), abs=CLOSE)


def test_update_changes_the_requested_alpha() -> None:
    shared_alpha = new_shared_alpha()
    shared_alpha.set_alpha(0.5)
    shared_alpha.update(lambda requested: Coefficients(TWO, (requested.values[0] / 2, 1 - requested.values[0] / 2)), "knob")
    assert shared_alpha.read().requested.values == (0.25, 0.75)
    with pytest.raises(CoefficientsError):
        shared_alpha.update(lambda requested: Coefficients(TWO, (2.0, 2.0)))
    assert shared_alpha.state.sequence == 2


def test_update_starts_from_the_requested_alpha_and_not_from_the_current_one() -> None:
    shared_alpha = new_shared_alpha(slew=0.1)
    shared_alpha.read(0.0)
    shared_alpha.set_alpha(0.5, now=0.0)
    shared_alpha.read(0.1)
    shared_alpha.update(lambda requested: Coefficients.parse(requested.values[0] / 2, TWO), now=0.1)
    assert shared_alpha.read(0.2).requested.values == (0.25, 0.75)


def test_subscribers_and_waiting_threads_are_notified() -> None:
    shared_alpha, received = new_shared_alpha(), []
    end = shared_alpha.subscribe(received.append)
    shared_alpha.set_alpha(0.25, "x")
    end()
    end()
    shared_alpha.set_alpha(0.75)
    assert [(state.sequence, state.requested.values[0], state.source) for state in received] == [(1, 0.25, "x")]
    assert shared_alpha.wait_for_change(2, timeout=0.01) is None
    waited = shared_alpha.wait_for_change(1)
    assert waited is not None
    assert waited.sequence == 2
    threading.Timer(0.02, lambda: shared_alpha.set_alpha(0.1)).start()
    waited = shared_alpha.wait_for_change(2, timeout=TIMEOUT_S)
    assert waited is not None
    assert waited.requested.values[0] == 0.1


@pytest.mark.usefixtures("nervous")
@pytest.mark.parametrize("slew", [None, 50.0])
def test_readers_see_consistent_states_while_many_threads_set(
    slew: float | None, record_property: Callable[[str, object], None]
) -> None:
    """Each setter writes points in its own direction; readers must see only consistent points and sequence numbers that never decrease."""
    shared_alpha = SharedAlpha(THREE, Coefficients.one_hot("a", THREE), slew=slew)
    stop, errors = threading.Event(), list[BaseException]()
    sets = 3000

    def setter(writer: int) -> None:
        try:
            for step in range(1, sets + 1):
                shared_alpha.set_alpha(
                    [0.5 if index == writer else 0.25 for index in range(3)] if step % 2 else [1 / 3] * 3, str(writer)
                )
        except BaseException as error:
            errors.append(error)

    counted = [0]

    def reader() -> None:
        newest = 0
        try:
            while not stop.is_set():
                state = shared_alpha.read()
                counted[0] += 1
                assert state.sequence >= newest
                newest = state.sequence
                assert abs(math.fsum(state.coefficients.values) - 1) < CLOSE
                if state.sequence:
                    is_setters_point = state.requested.values != (1 / 3,) * 3
                    assert not is_setters_point or state.requested.values[int(state.source)] == 0.5  # point and source match
        except BaseException as error:
            errors.append(error)

    run_writers_and_readers([partial(setter, writer) for writer in range(3)], [reader] * 2, stop, TIMEOUT_S)
    record_property("reads", counted[0])
    assert not errors
    assert shared_alpha.state.sequence == 3 * sets
    assert counted[0] > 10
