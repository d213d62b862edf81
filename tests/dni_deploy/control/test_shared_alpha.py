"""SharedAlpha: the newest wins, from any thread; nothing wrong gets in; the slew limit moves on the straight line."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.control.shared_alpha import AlphaState, SharedAlpha
from dni_deploy.errors import CoefficientsError, UsageError

TWO, THREE = ("psnr", "gan"), ("a", "b", "c")
PATIENCE = 20.0
"""Seconds until a thread that has not come back counts as a deadlock."""
CLOSE = 1e-12
"""Steps of a hundred reads, each rounded."""


def cell(**options: Any) -> SharedAlpha:
    return SharedAlpha(TWO, Coefficients.one_hot("psnr", TWO), **options)


def test_the_newest_wins() -> None:
    live = cell()
    assert live.read() == AlphaState(0, Coefficients.one_hot("psnr", TWO), Coefficients.one_hot("psnr", TWO), "")
    assert live.set_alpha(0.25, "osc") == 1
    assert live.set_alpha("gan=0.5,psnr=0.5", "page") == 2
    assert live.read().coefficients.values == (0.5, 0.5)
    assert (live.read().sequence, live.read().source) == (2, "page")
    assert live.at(0.0, 0) == live.read().coefficients


@pytest.mark.parametrize("alpha", [math.nan, "nan", 1.5, "x=1", "", None, [1], {"psnr": 2}, 10**400, "0" * 10**6 + "x"])
def test_what_does_not_fit_changes_nothing(alpha: Any) -> None:
    live = cell()
    live.set_alpha(0.25, "before")
    before = live.state
    with pytest.raises(CoefficientsError) as caught:
        live.set_alpha(alpha, "bad")
    assert len(str(caught.value)) < 500
    assert live.state == before


def test_a_first_alpha_of_another_family() -> None:
    with pytest.raises(CoefficientsError):
        SharedAlpha(THREE, Coefficients.one_hot("psnr", TWO))
    for slew in (0, -1, math.nan, math.inf):
        with pytest.raises(UsageError, match="slew"):
            cell(slew=slew)


def test_extrapolation_has_to_be_asked_for() -> None:
    with pytest.raises(CoefficientsError):
        cell().set_alpha(1.5)
    live = cell(extrapolate=True)
    live.set_alpha(1.5)
    assert live.read().requested.values == (1.5, -0.5)


def test_slew_by_the_time_passed_in() -> None:
    live = cell(slew=0.5)
    live.read(10.0)
    live.set_alpha("gan=1", now=10.0)
    gan = []
    for step in range(1, 6):
        setting = live.read(10.0 + 0.5 * step)
        gan.append(setting.coefficients.values[1])
        assert setting.requested.values == (0, 1)
        assert math.fsum(setting.coefficients.values) == 1
    assert gan == pytest.approx([0.25, 0.5, 0.75, 1, 1], abs=CLOSE)
    assert live.read(13.0).coefficients == Coefficients.one_hot("gan", TWO)  # exactly there


def test_a_rest_before_a_change_is_no_head_start() -> None:
    live = cell(slew=1.0)
    live.read(0.0)
    live.set_alpha(0.0, now=100.0)  # nobody read for 100 s
    assert live.read(100.25).coefficients.values == pytest.approx((0.75, 0.25), abs=CLOSE)


def test_slew_counts_the_seconds_of_the_pictures_for_a_frame_loop() -> None:
    live = cell(slew=1.0)
    assert live.at(0.0, 0).values == (1, 0)
    live.set_alpha(0.0)
    assert live.at(0.04, 1).values == pytest.approx((0.96, 0.04), abs=CLOSE)
    assert live.at(0.04, 1).values == pytest.approx((0.96, 0.04), abs=CLOSE)
    assert live.at(0.02, 0).values == pytest.approx((0.96, 0.04), abs=CLOSE)  # a seek back does not move it
    assert live.at(9.0, 225).values == (0, 1)


def test_slew_moves_straight_and_turns_at_once() -> None:
    live = SharedAlpha(THREE, Coefficients.one_hot("a", THREE), slew=1.0)
    live.read(0.0)
    live.set_alpha([0.0, 0.5, 0.5], now=0.0)
    assert live.read(0.4).coefficients.values == pytest.approx((0.6, 0.2, 0.2), abs=CLOSE)  # a has farthest to go: 1 a second
    live.set_alpha([1.0, 0.0, 0.0], now=0.4)
    assert live.read(0.6).coefficients.values == pytest.approx((0.8, 0.1, 0.1), abs=CLOSE)


def test_the_clock_is_monotonic_by_default() -> None:
    now = [5.0]
    live = cell(slew=1.0, clock=lambda: now[0])
    live.read()
    live.set_alpha(0.0)
    now[0] = 5.5
    assert live.read().coefficients.values == pytest.approx((0.5, 0.5), abs=CLOSE)
    now[0] = 4.0
    assert live.read().coefficients.values == pytest.approx((0.5, 0.5), abs=CLOSE)


def test_update_changes_what_is_wanted() -> None:
    live = cell()
    live.set_alpha(0.5)
    live.update(lambda wanted: Coefficients(TWO, (wanted.values[0] / 2, 1 - wanted.values[0] / 2)), "knob")
    assert live.read().requested.values == (0.25, 0.75)
    with pytest.raises(CoefficientsError):
        live.update(lambda wanted: Coefficients(TWO, (2.0, 2.0)))
    assert live.state.sequence == 2


def test_update_goes_from_what_is_wanted_not_from_where_a_slew_limit_is() -> None:
    live = cell(slew=0.1)
    live.read(0.0)
    live.set_alpha(0.5, now=0.0)
    live.read(0.1)
    live.update(lambda wanted: Coefficients.parse(wanted.values[0] / 2, TWO), now=0.1)
    assert live.read(0.2).requested.values == (0.25, 0.75)


def test_subscribers_and_waiting() -> None:
    live, seen = cell(), []
    end = live.subscribe(seen.append)
    live.set_alpha(0.25, "x")
    end()
    end()
    live.set_alpha(0.75)
    assert [(setting.sequence, setting.requested.values[0], setting.source) for setting in seen] == [(1, 0.25, "x")]
    assert live.wait_for_change(2, timeout=0.01) is None
    waited = live.wait_for_change(1)
    assert waited is not None
    assert waited.sequence == 2
    threading.Timer(0.02, lambda: live.set_alpha(0.1)).start()
    waited = live.wait_for_change(2, timeout=PATIENCE)
    assert waited is not None
    assert waited.requested.values[0] == 0.1


@pytest.mark.usefixtures("nervous")
@pytest.mark.parametrize("slew", [None, 50.0])
def test_many_threads(slew: float | None, record_property: Callable[[str, object], None]) -> None:
    """Each setter writes points of its own direction; a reader must only see whole points, and sequences that never go back."""
    live = SharedAlpha(THREE, Coefficients.one_hot("a", THREE), slew=slew)
    stop, errors = threading.Event(), list[BaseException]()
    sets = 3000

    def setter(writer: int) -> None:
        try:
            for step in range(1, sets + 1):
                live.set_alpha(
                    [0.5 if place == writer else 0.25 for place in range(3)] if step % 2 else [1 / 3] * 3, str(writer)
                )
        except BaseException as error:
            errors.append(error)

    counted = [0]

    def reader() -> None:
        newest = 0
        try:
            while not stop.is_set():
                setting = live.read()
                counted[0] += 1
                assert setting.sequence >= newest
                newest = setting.sequence
                assert abs(math.fsum(setting.coefficients.values) - 1) < CLOSE
                if setting.sequence:
                    odd = setting.requested.values != (1 / 3,) * 3
                    assert not odd or setting.requested.values[int(setting.source)] == 0.5  # point and source go together
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=reader, daemon=True) for _ in range(2)]
    setters = [threading.Thread(target=setter, args=(writer,), daemon=True) for writer in range(3)]
    for thread in (*readers, *setters):
        thread.start()
    for thread in setters:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    stop.set()
    for thread in readers:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    record_property("reads", counted[0])
    assert not errors
    assert live.state.sequence == 3 * sets
    assert counted[0] > 10
