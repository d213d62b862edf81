"""AsyncRefit: the guarantees of SyncRefit hold, no frame waits for a refit, and a failure is raised once.

The harnesses are those of test_swap: the tag model with real threads, and schedules of a small model, here random, with the
refitting thread as another actor. Designs that are known to be wrong run in the same harnesses and must be detected.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from dni_deploy.errors import EngineError, UsageError
from dni_deploy.session import swap as swap_module
from dni_deploy.session.condition import InterruptibleCondition
from dni_deploy.session.swap import AsyncRefit, CurrentWeights
from tests.dni_deploy.session.test_swap import TIMEOUT_S, Boom, Breakable, Schedule, ScheduledCondition, Weights, tag_model


@contextmanager
def running(design: Any, slots: int, refit: Callable[[int, int], None], first: int = 0) -> Iterator[AsyncRefit[int]]:
    swap: AsyncRefit[int] = design(slots, refit, first)
    try:
        yield swap
    finally:
        swap.close()
        assert not swap._thread.is_alive()


class WithoutPins(AsyncRefit[int]):
    """Broken design: refits a slot that a frame still uses."""

    def _find_free_slot(self, current: CurrentWeights[int] | None) -> int | None:
        return 1 - self._current.slot


class InPlace(AsyncRefit[int]):
    """Broken design: refits the current slot."""

    def _find_free_slot(self, current: CurrentWeights[int] | None) -> int | None:
        return self._current.slot


class TooEarly(AsyncRefit[int]):
    """Broken design: applies a value when its refit begins."""

    def _run_refits(self) -> None:
        refit = self._refit

        def published(slot: int, value: int) -> None:
            with self._state_changed:
                self._current = CurrentWeights(self._current.generation + 1, slot, value)
            refit(slot, value)

        self._refit = published
        super()._run_refits()


@pytest.mark.usefixtures("nervous")
@pytest.mark.parametrize(("slots", "requests"), [(2, 30_000), (3, 30_000), pytest.param(2, 999_999, marks=pytest.mark.slow)])
def test_no_frame_is_torn(slots: int, requests: int, record_property: Callable[[str, object], None]) -> None:
    counts, generations = tag_model(AsyncRefit, slots=slots, requests=requests)  # type: ignore[arg-type]
    swap: Any = generations
    record_property("counts", str(counts))
    assert not counts.errors
    assert (counts.torn, counts.backwards, counts.requests) == (0, 0, requests)
    assert counts.swaps > 100  # the model did change slots
    assert swap.wait_until_applied(TIMEOUT_S)
    with swap.hold_current() as live:
        assert live.value == swap.requested_value
        assert live.value // 10 == requests // 3  # the last request of one of the threads
    swap.close()


@pytest.mark.usefixtures("nervous")
@pytest.mark.parametrize("design", [WithoutPins, InPlace, TooEarly])
def test_broken_designs_are_detected(design: Any) -> None:
    counts, swap = tag_model(design, until_torn=True)
    swap.close()  # type: ignore[attr-defined]
    assert counts.torn > 0


# ----- random schedules of a small model


class Condition(ScheduledCondition):
    def wait_for(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        while not predicate():
            self.wait()
        return True


def manual(design: Any) -> Any:
    """Returns the design with a thread that ends at once: an actor of the schedule does its work instead."""

    class Manual(design):  # type: ignore[misc]
        def _run_refits(self) -> None:
            if threading.current_thread().name == "worker":
                super()._run_refits()

    return Manual


def explore(design: Any, slots: int, bad: frozenset[int] = frozenset(), count: int = 3000) -> tuple[int, int]:
    """Runs random schedules of: a long frame; a thread that twice requests and renders a frame; the refitting thread.

    There are two layers. `bad`: the numbers of the requests whose refit fails. Returns the number of different schedules, and
    how many were torn; ends at the first torn one.
    """
    random = np.random.default_rng(count)
    different, torn = set[tuple[int, ...]](), 0
    for _ in range(count):
        schedule = Schedule([], lambda width: int(random.integers(width)))
        weights: Weights = [[0, 0] for _ in range(slots)]
        seen_torn, failures, generations, finished = [False], list[int](), list[int](), set[str]()

        def refit(slot: int, tag: int, schedule: Schedule = schedule, weights: Weights = weights) -> None:
            weights[slot][0] = tag
            schedule.pause()
            if tag in bad:
                raise Boom(tag)
            weights[slot][1] = tag
            schedule.pause()

        swap: Any = manual(design)(slots, refit, 0)
        swap._state_changed = Condition(schedule)

        def frame(
            reads: int, schedule: Schedule = schedule, swap: Any = swap, weights: Weights = weights,
            seen_torn: list[bool] = seen_torn, failures: list[int] = failures, generations: list[int] = generations,
        ) -> None:  # fmt: skip
            try:
                with swap.hold_current() as live:
                    generations.append(live.generation)
                    tags = [weights[live.slot][0]]
                    for _ in range(reads):
                        schedule.pause()
                        tags.append(weights[live.slot][1])
                    seen_torn[0] |= any(tag != live.value for tag in tags) or live.value in bad
            except Boom as boom:
                failures.append(boom.args[0])

        def both(swap: Any = swap, frame: Any = frame, finished: set[str] = finished) -> None:
            for tag in (1, 2):
                swap.request(tag)
                frame(0)
            finished.add("both")

        def long(frame: Any = frame, finished: set[str] = finished) -> None:
            frame(1)
            finished.add("long")

        def end(swap: Any = swap, schedule: Schedule = schedule, finished: set[str] = finished) -> None:
            schedule.pause(lambda: len(finished) == 2)
            assert swap.wait_until_applied(None)
            swap.close()

        schedule.run({"worker": lambda swap=swap: type(swap)._run_refits(swap), "long": long, "both": both, "end": end})  # type: ignore[misc]
        assert not schedule.errors, schedule.errors
        assert generations == sorted(generations)
        swap._state_changed = InterruptibleCondition()
        for _ in range(2):  # a failure that no frame has raised yet is raised now, and only once
            try:
                with swap.hold_current() as live:
                    # Without failures the last request is applied; otherwise the last good one not superseded, or the first value.
                    assert live.value == 2 if not bad else live.value not in bad
                    seen_torn[0] |= weights[live.slot] != [live.value] * 2
                    break
            except Boom as boom:
                failures.append(boom.args[0])
        else:
            raise AssertionError("a failure was raised twice")
        assert len(failures) == len(set(failures))
        assert 2 not in bad or 2 in failures  # the last request is never superseded, so its failure is raised
        assert swap._frames_in_slot == [0] * slots
        different.add(tuple(schedule.choices))
        torn += seen_torn[0]
        if torn:
            break
    return len(different), torn


@pytest.mark.parametrize("slots", [2, 3])
@pytest.mark.parametrize("bad", [set[int](), {1}, {2}, {1, 2}], ids=str)
@pytest.mark.parametrize("count", [120, pytest.param(2_500, marks=pytest.mark.slow)])
def test_no_random_schedule_tears_a_frame(
    slots: int, bad: set[int], count: int, record_property: Callable[[str, object], None]
) -> None:
    different, torn = explore(AsyncRefit, slots, frozenset(bad), count)
    record_property("schedules", str(different))
    assert different > 0.9 * count
    assert torn == 0


@pytest.mark.parametrize("design", [WithoutPins, InPlace, TooEarly])
def test_schedules_detect_broken_designs(design: Any) -> None:
    assert explore(design, 2)[1] == 1


# ----- a refit that fails


def settled(swap: AsyncRefit[int], engine: Breakable) -> int:
    """Returns the value that is applied once the thread is idle."""
    assert swap.wait_until_applied(TIMEOUT_S)
    with swap.hold_current() as live:
        assert engine.weights[live.slot] == [live.value] * 3
        return live.value


@pytest.mark.parametrize("slots", [2, 3])
@pytest.mark.parametrize("failing", range(2, 9))
def test_a_failed_refit_keeps_the_previous_value(slots: int, failing: int) -> None:
    engine = Breakable(slots, {failing})
    with running(AsyncRefit, slots, engine.refit, 100) as swap:
        expected = 100
        for value in range(101, 110):
            swap.request(value)
            if value == 99 + failing:
                with pytest.raises(Boom):
                    settled(swap, engine)
                generation = swap.generation
                assert (swap.requested_value, settled(swap, engine), swap.generation) == (expected, expected, generation)
            else:
                assert settled(swap, engine) == value
                expected = value
        assert engine.calls == 10  # the slot whose refit failed was refitted whole, only by the next value


@pytest.mark.parametrize("slots", [2, 3])
def test_frames_stay_valid_while_every_refit_fails(slots: int) -> None:
    engine = Breakable(slots, {2, 3, 4})
    with running(AsyncRefit, slots, engine.refit) as swap:
        for value in (1, 2, 3):
            swap.request(value)
            assert swap.wait_until_applied(TIMEOUT_S)
        with pytest.raises(Boom):  # three failures since the last frame: the newest is raised
            settled(swap, engine)
        assert settled(swap, engine) == 0
        swap.request(4)
        assert settled(swap, engine) == 4


def test_a_first_refit_that_fails_raises() -> None:
    before = threading.active_count()
    with pytest.raises(Boom):
        AsyncRefit(2, Breakable(2, {1}).refit, 0)
    assert threading.active_count() == before


@pytest.mark.usefixtures("nervous")
@pytest.mark.parametrize("seed", range(8))
def test_random_failures_under_random_requests(seed: int) -> None:
    """Frames are whole whatever fails; once idle, the newest value is applied, or the newest that did not fail."""
    random = np.random.default_rng(seed)
    engine = Breakable(2 + seed % 2, set((random.integers(2, 2000, 300)).tolist()))
    failed: set[int] = set()

    def refit(slot: int, tag: int) -> None:
        try:
            engine.refit(slot, tag)
        except Boom:
            failed.add(tag)
            raise

    stop, problems, raised_count = threading.Event(), list[object](), [0]
    with running(AsyncRefit, engine.slots, refit) as swap:

        def look() -> None:
            while not stop.is_set():
                try:
                    with swap.hold_current() as live:
                        if engine.weights[live.slot] != [live.value] * 3 or live.value in failed:
                            problems.append(live)
                except Boom:
                    raised_count[0] += 1

        reader = threading.Thread(target=look, daemon=True)
        reader.start()
        for tag in range(1, 3000):
            swap.request(tag)
            if tag % 3 == 0:
                time.sleep(0)
        assert swap.wait_until_applied(TIMEOUT_S)
        stop.set()
        reader.join(TIMEOUT_S)
        assert not reader.is_alive()
        assert not problems
        assert raised_count[0] <= len(failed)
        for _ in range(2):
            try:
                with swap.hold_current() as live:
                    assert live.value == 2999 or (2999 in failed and live.value not in failed)
                    break
            except Boom:
                continue


# ----- waiting


@contextmanager
def held_refit(slots: int = 2) -> Iterator[tuple[AsyncRefit[int], list[int]]]:
    """Yields an AsyncRefit whose refit of 1 runs until the block ends, and the values that were refitted."""
    started, continue_refit, refitted = threading.Event(), threading.Event(), list[int]()

    def refit(slot: int, tag: int) -> None:
        refitted.append(tag)
        if tag == 1:
            started.set()
            assert continue_refit.wait(TIMEOUT_S)

    with running(AsyncRefit, slots, refit) as swap:
        swap.request(1)
        assert started.wait(TIMEOUT_S)
        try:
            yield swap, refitted
        finally:
            continue_refit.set()


def test_frames_and_requests_do_not_wait_for_a_refit() -> None:
    with held_refit() as (swap, refitted):
        started = time.perf_counter()
        for value in range(2, 1000):
            swap.request(value)
            with swap.hold_current() as live:
                assert live == CurrentWeights(1, 0, 0)
        assert time.perf_counter() - started < 5  # waiting for the refit would have taken TIMEOUT_S
        assert not swap.wait_until_applied(0.01)
        assert swap.requested_value == 999
    assert refitted in ([0, 1], [0, 1, 999])  # the others were superseded; the end of the block may close it before 999


def test_superseded_requests_are_skipped_and_the_last_is_shown() -> None:
    refitted: list[int] = []
    gate = threading.Semaphore(0)

    def refit(slot: int, tag: int) -> None:
        refitted.append(tag)
        if tag:
            assert gate.acquire(timeout=TIMEOUT_S)

    with running(AsyncRefit, 2, refit) as swap:
        for value in (1, 2, 3, 4):
            swap.request(value)
            while len(refitted) < 2:
                time.sleep(0.001)
        gate.release(2)
        assert swap.wait_until_applied(TIMEOUT_S)
        assert refitted == [0, 1, 4]
        assert swap.generation == 3  # 1 was applied although it was superseded while its refit ran
        with swap.hold_current() as live:
            assert live.value == 4


def test_requesting_the_current_value_again_shows_no_other_value() -> None:
    with held_refit() as (swap, refitted):
        swap.request(0)  # the identical object that is current
        assert not swap.wait_until_applied(0.01)  # the thread is not idle
    assert refitted == [0, 1]
    assert swap.generation == 1


@pytest.mark.parametrize("slots", [2, 3])
def test_frames_in_all_slots_do_not_deadlock(slots: int) -> None:
    """Frames hold all slots, each with another value; another value waits for the first one to end, and frames continue."""
    with running(AsyncRefit, slots, lambda slot, tag: None) as swap:
        held = [swap.hold_current() for _ in range(slots)]
        held_weights = []
        for number, frame in enumerate(held):
            swap.request(number)
            assert swap.wait_until_applied(TIMEOUT_S)
            held_weights.append(frame.__enter__())
        assert {live.slot for live in held_weights} == set(range(slots))
        swap.request(99)
        assert not swap.wait_until_applied(0.05)
        with swap.hold_current() as live:
            assert live == held_weights[-1]
        held[0].__exit__(None, None, None)
        assert swap.wait_until_applied(TIMEOUT_S)
        with swap.hold_current() as live:
            assert (live.slot, live.value) == (held_weights[0].slot, 99)
        for frame in held[1:]:
            frame.__exit__(None, None, None)


def test_an_error_in_a_frame_frees_its_slot() -> None:
    with running(AsyncRefit, 2, lambda slot, tag: None) as swap:
        with pytest.raises(Boom), swap.hold_current():
            raise Boom
        assert swap._frames_in_slot == [0, 0]


def test_async_refit_needs_two_slots() -> None:
    with pytest.raises(UsageError, match="2 sets of weights"):
        AsyncRefit(1, lambda slot, tag: None, 0)


# ----- the end


def test_closing_waits_for_a_running_refit_and_drops_pending_requests() -> None:
    started, refitted = threading.Event(), list[int]()

    def refit(slot: int, tag: int) -> None:
        if tag == 1:
            started.set()
            time.sleep(0.05)
        refitted.append(tag)

    swap = AsyncRefit(2, refit, 0)
    swap.request(1)
    assert started.wait(TIMEOUT_S)
    swap.request(2)
    swap.close()
    swap.close()
    assert refitted == [0, 1]
    assert not swap._thread.is_alive()
    swap.request(3)  # no effect, and no error
    assert swap.wait_until_applied()  # and no call waits for a thread that has ended


def test_a_refit_that_does_not_end_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap_module, "REFIT_CLOSE_TIMEOUT_S", 0.05)
    with held_refit() as (swap, _), pytest.raises(EngineError, match="not ended"):
        swap.close()
    monkeypatch.undo()
    swap.close()


def test_a_program_that_does_not_close_the_session_still_exits() -> None:
    """It does not exit in the middle of a refit."""
    code = (
        "import time; from dni_deploy.session.swap import AsyncRefit\n"
        "def refit(slot, tag):\n    if tag: time.sleep(0.3); print('whole', flush=True)\n"
        "swap = AsyncRefit(2, refit, 0); swap.request(1); time.sleep(0.1)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "whole\n", "")
