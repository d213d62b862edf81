"""SyncRefit: no frame mixes two values, the newest value is applied, and a failed refit keeps the previous one.

The tag model: a slot has 64 layers and each weight is the tag of its value, so a frame that reads two tags is torn. Designs
that are known to tear frames run in the same harness and must be detected, or the harness would prove nothing.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import pytest

from dni_deploy.session.condition import InterruptibleCondition
from dni_deploy.session.swap import CurrentWeights, SyncRefit

LAYERS = 64
TIMEOUT_S = 20.0
"""Seconds until a thread that has not come back counts as a deadlock."""

Weights = list[list[int]]


class WithoutSlots(SyncRefit[int]):
    """Broken design: writes into the weights that frames are using."""

    def _find_free_slot(self, current: CurrentWeights[int] | None) -> int | None:
        return 0


class WithoutPins(SyncRefit[int]):
    """Broken design: alternates two slots without checking whether a frame still uses one."""

    def _find_free_slot(self, current: CurrentWeights[int] | None) -> int | None:
        assert current is not None
        return 1 - current.slot


@dataclass
class Counts:
    """Counts of a run of the tag model."""

    requests: int = 0
    frames: int = 0
    torn: int = 0
    swaps: int = 0
    backwards: int = 0
    errors: list[BaseException] = field(default_factory=list)


def tag_model(
    design: Callable[[int, Callable[[int, int], None], int], SyncRefit[int]] = SyncRefit,
    *,
    slots: int = 2,
    requests: int = 0,
    layer_by_layer: bool = False,
    until_torn: bool = False,
) -> tuple[Counts, SyncRefit[int]]:
    """Three threads request values, two render frames; ends after so many requests, or at the first torn frame.

    layer_by_layer: the reader looks up the current slot again for each layer, which is a broken design too.
    """
    weights: Weights = [[0] * LAYERS for _ in range(slots)]

    def refit(slot: int, tag: int) -> None:
        target = weights[slot]
        target[:] = [-1] * LAYERS  # a marker: a frame that still reads the slot sees it
        for layer in range(LAYERS):
            target[layer] = tag

    swap = design(slots, refit, 0)
    counts, stop, deadline = Counts(), threading.Event(), time.monotonic() + TIMEOUT_S
    lock = threading.Lock()

    def write(writer: int) -> None:
        tag = 0
        while not stop.is_set():
            tag += 1
            swap.request(10 * tag + writer)
            if tag % 4 == 0:
                time.sleep(0)  # let a frame begin, or most requests would only supersede each other
            if not until_torn and tag >= requests // 3:
                break
        with lock:
            counts.requests += tag

    def read() -> None:
        frames = torn = backwards = newest = 0
        try:
            while not stop.is_set():
                with swap.hold_current() as live:
                    if layer_by_layer:
                        tags = {weights[_live(swap).slot][layer] for layer in range(LAYERS)}
                    else:
                        weight = weights[live.slot]
                        tags = {weight[layer] for layer in range(LAYERS)}
                frames += 1
                torn += tags != {live.value} if not layer_by_layer else len(tags) != 1
                backwards += live.generation < newest
                newest = live.generation
                if until_torn and (torn or time.monotonic() > deadline):
                    break
        except BaseException as error:
            counts.errors.append(error)
        finally:
            if until_torn:
                stop.set()
        with lock:
            counts.frames += frames
            counts.torn += torn
            counts.backwards += backwards

    writers = [threading.Thread(target=write, args=(writer,), daemon=True) for writer in range(3)]
    readers = [threading.Thread(target=read, daemon=True) for _ in range(2)]
    for thread in (*readers, *writers):
        thread.start()
    _join(writers, TIMEOUT_S * (1 + requests / 10**5))
    stop.set()
    _join(readers)
    counts.swaps = swap.generation - 1
    return counts, swap


def _live(swap: SyncRefit[int]) -> CurrentWeights[int]:
    live = swap._current
    assert live is not None
    return live


def _join(threads: list[threading.Thread], timeout: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), "deadlock: a thread did not come back"


@pytest.mark.usefixtures("nervous")
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("requests", [30_000, pytest.param(999_999, marks=pytest.mark.slow)])
def test_no_frame_is_torn(slots: int, requests: int, record_property: Callable[[str, object], None]) -> None:
    counts, swap = tag_model(slots=slots, requests=requests)
    record_property("counts", str(counts))
    assert not counts.errors
    assert counts.torn == 0
    assert counts.backwards == 0
    assert counts.requests == requests
    assert counts.swaps > 100  # the model did change slots
    assert counts.frames > counts.swaps // 2
    requested = swap.requested_value
    with swap.hold_current() as live:
        assert live.value == requested
        assert live.value // 10 == requests // 3  # the last request of one of the threads


@pytest.mark.usefixtures("nervous")
@pytest.mark.parametrize(
    ("design", "slots", "layer_by_layer"),
    [(WithoutSlots, 1, False), (WithoutPins, 2, False), (SyncRefit, 2, True)],
    ids=["in place without slots", "two slots without pins", "a look at the live slot per layer"],
)
def test_broken_designs_are_detected(
    design: Any, slots: int, layer_by_layer: bool, record_property: Callable[[str, object], None]
) -> None:
    counts, _ = tag_model(design, slots=slots, layer_by_layer=layer_by_layer, until_torn=True)
    record_property("counts", str(counts))
    assert counts.torn > 0


# ----- every schedule of a small model


class Schedule:
    """Runs actors as threads, one at a time, from pause to pause, in the order given by a list of choices.

    pick: chooses the actor to run, of so many, once the list has ended.
    """

    def __init__(self, choices: list[int], pick: Callable[[int], int] = lambda width: 0) -> None:
        self.choices, self.widths, self.pick = choices, list[int](), pick
        self._back = threading.Semaphore(0)
        self._go: dict[str, threading.Semaphore] = {}
        self._until: dict[str, Callable[[], bool]] = {}
        self.errors: list[BaseException] = []

    def pause(self, until: Callable[[], bool] = lambda: True) -> None:
        """Called by an actor: lets others run, and returns when this one is chosen, which requires that `until` holds."""
        name = threading.current_thread().name
        if name in self._go:
            self._until[name] = until
            self._back.release()
            assert self._go[name].acquire(timeout=TIMEOUT_S)

    def run(self, actors: dict[str, Callable[[], None]]) -> None:
        def body(name: str) -> None:
            try:
                assert self._go[name].acquire(timeout=TIMEOUT_S)
                actors[name]()
            except BaseException as error:
                self.errors.append(error)
            finally:
                del self._until[name]
                self._back.release()

        for name in actors:
            self._go[name], self._until[name] = threading.Semaphore(0), lambda: True
        for name in actors:
            threading.Thread(target=body, args=(name,), name=name, daemon=True).start()
        step = 0
        while self._until:
            able = [name for name in actors if name in self._until and self._until[name]()]
            assert able, f"deadlock after {self.choices[:step]}: {list(self._until)} wait for each other"
            if step == len(self.choices):
                self.choices.append(self.pick(len(able)))
            self.widths.append(len(able))
            self._go[able[self.choices[step]]].release()
            assert self._back.acquire(timeout=TIMEOUT_S)
            step += 1

    def next(self) -> list[int] | None:
        """Returns the choices of the next schedule in depth-first order."""
        for step in range(len(self.choices) - 1, -1, -1):
            if self.choices[step] + 1 < self.widths[step]:
                return [*self.choices[:step], self.choices[step] + 1]
        return None


class ScheduledCondition:
    """threading.Condition as SyncRefit uses it, with pauses of the schedule wherever a thread could be preempted."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule, self.held, self.waiting = schedule, False, set[str]()

    def __enter__(self) -> None:
        self.schedule.pause(lambda: not self.held)
        self.held = True

    def __exit__(self, *_: object) -> None:
        self.held = False

    def wait(self, timeout: float | None = None) -> None:
        name = threading.current_thread().name
        self.waiting.add(name)
        self.held = False
        self.schedule.pause(lambda: name not in self.waiting and not self.held)
        self.held = True

    def notify_all(self) -> None:
        self.schedule.pause()
        self.waiting.clear()


RANDOM_SCHEDULES = 5_000


class Boom(Exception):
    """An injected refit failure."""


def explore(design: Any, slots: int, bad: frozenset[int] = frozenset(), third: bool = False) -> tuple[int, int]:
    """Runs all schedules of: a long frame; a thread that twice requests and renders; optionally one that requests once.

    There are two layers. `bad`: the numbers of the requests whose refit fails. Returns the number of schedules and how many
    of them were torn; ends at the first torn one. With the third thread all schedules would take hours: RANDOM_SCHEDULES of
    them are drawn.
    """
    choices: list[int] | None = []
    total = torn = 0
    draw = random.Random(0).randrange
    while choices is not None:
        schedule = Schedule(choices, draw) if third else Schedule(choices)
        weights = [[0, 0] for _ in range(slots)]
        generations: list[int] = []
        requested: list[int] = []
        seen_torn = False

        def refit(slot: int, tag: int, schedule: Schedule = schedule, weights: Weights = weights) -> None:
            weights[slot][0] = tag
            schedule.pause()
            if tag in bad:
                raise Boom
            weights[slot][1] = tag
            schedule.pause()

        swap: SyncRefit[int] = design(slots, refit, 0)
        swap._state_changed = ScheduledCondition(schedule)  # type: ignore[assignment]

        def request(schedule: Schedule = schedule, swap: SyncRefit[int] = swap, requested: list[int] = requested) -> None:
            schedule.pause()
            requested.append(len(requested) + 1)
            swap.request(requested[-1])

        def frame(
            reads: int, schedule: Schedule = schedule, swap: SyncRefit[int] = swap, weights: Weights = weights,
            generations: list[int] = generations, requested: list[int] = requested,
        ) -> None:  # fmt: skip
            nonlocal seen_torn
            before = len(requested)
            try:
                with swap.hold_current() as live:
                    generations.append(live.generation)
                    assert live.value >= before or bad, "a frame showed an older value than was requested before it began"
                    assert live.value not in bad
                    tags = [weights[live.slot][0]]
                    for _ in range(reads):
                        schedule.pause()
                        tags.append(weights[live.slot][1])
                    seen_torn |= any(tag != live.value for tag in tags)
            except Boom:
                assert bad

        def both(request: Callable[[], None] = request, frame: Callable[[int], None] = frame) -> None:
            for _ in range(2):
                request()
                frame(0)

        actors: dict[str, Callable[[], None]] = {"long": lambda frame=frame: frame(1), "both": both}  # type: ignore[misc]
        schedule.run({**actors, "third": request} if third else actors)
        assert not schedule.errors, schedule.errors
        assert generations == sorted(generations)
        swap._state_changed = InterruptibleCondition()
        for _ in range(2):  # a bad last value raises once, and then the previous one is applied
            try:
                with swap.hold_current() as live:
                    assert weights[live.slot] == [live.value] * 2 or design is not SyncRefit
                    assert live.value == len(requested) or bad
                    assert live.value not in bad
                    break
            except Boom:
                continue
        else:
            raise AssertionError("no value could be shown")
        assert swap._frames_in_slot == [0] * slots
        total, torn = total + 1, torn + bool(seen_torn)
        if torn or (third and total == RANDOM_SCHEDULES):
            choices = None
        else:
            choices = [] if third else schedule.next()
    return total, torn


@pytest.mark.parametrize(
    ("slots", "third"),
    [(1, False), (2, False), (3, False), *(pytest.param(slots, True, marks=pytest.mark.slow) for slots in (1, 2))],
)
def test_no_schedule_tears_a_frame(slots: int, third: bool, record_property: Callable[[str, object], None]) -> None:
    """Two actors have about a hundred schedules, three about ten thousand: half a minute."""
    total, torn = explore(SyncRefit, slots, third=third)
    record_property("schedules", str(total))
    assert total > 200
    assert torn == 0


@pytest.mark.parametrize(
    ("slots", "bad", "third"),
    [
        (1, {2}, False), (2, {2}, False), (2, {1}, False), (1, {1, 2}, False),
        *(pytest.param(slots, {2}, True, marks=pytest.mark.slow) for slots in (1, 2)),
    ],
)  # fmt: skip
def test_no_schedule_with_a_failing_refit_tears_a_frame(
    slots: int, bad: set[int], third: bool, record_property: Callable[[str, object], None]
) -> None:
    total, torn = explore(SyncRefit, slots, frozenset(bad), third)
    record_property("schedules", str(total))
    assert total > 50
    assert torn == 0


@pytest.mark.parametrize(("design", "slots"), [(WithoutSlots, 1), (WithoutPins, 2)])
def test_schedules_detect_broken_designs(design: Any, slots: int) -> None:
    assert explore(design, slots)[1] == 1


# ----- a refit that fails


@dataclass
class Breakable:
    """Slots of three layers whose refit fails halfway at the calls in `failing` (counted from 1)."""

    slots: int
    failing: set[int]

    def __post_init__(self) -> None:
        self.weights: Weights = [[-1] * 3 for _ in range(self.slots)]
        self.tags: list[int] = []

    @property
    def calls(self) -> int:
        return len(self.tags)

    def refit(self, slot: int, tag: int) -> None:
        self.tags.append(tag)
        self.weights[slot][0] = tag
        if self.calls in self.failing:
            raise Boom
        self.weights[slot][:] = [tag] * 3

    def shown(self, swap: SyncRefit[int]) -> int:
        with swap.hold_current() as live:
            assert self.weights[live.slot] == [live.value] * 3
            return live.value


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("failing", range(2, 8))
def test_a_failed_refit_keeps_the_previous_value(slots: int, failing: int) -> None:
    engine = Breakable(slots, {failing})
    swap = SyncRefit(slots, engine.refit, 100)
    expected = 100
    for value in range(101, 110):
        swap.request(value)
        if engine.calls + 1 == failing:
            with pytest.raises(Boom):
                engine.shown(swap)
            assert swap.requested_value == expected
            generation = swap.generation
            assert engine.shown(swap) == expected
            # With one slot the previous value has to be refitted again; with two it was never overwritten.
            assert swap.generation == generation + (slots == 1)
        else:
            assert engine.shown(swap) == value
            expected = value
    assert engine.shown(swap) == 109


def test_a_first_refit_that_fails_raises() -> None:
    with pytest.raises(Boom):
        SyncRefit(2, Breakable(2, {1}).refit, 0)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_second_failure_does_not_lose_the_value_before(slots: int) -> None:
    """One slot: 1 fails, and 2 fails too before any frame uses 0 again; 0 is still the current value."""
    engine = Breakable(slots, {2, 3})
    swap = SyncRefit(slots, engine.refit, 0)
    for value in (1, 2):
        swap.request(value)
        with pytest.raises(Boom):
            engine.shown(swap)
    assert engine.shown(swap) == 0


def test_a_failed_repair_is_tried_again() -> None:
    engine = Breakable(1, {2, 3})
    swap = SyncRefit(1, engine.refit, 0)
    swap.request(1)
    for _ in range(2):  # the refit of 1 fails, then the repair with 0
        with pytest.raises(Boom):
            engine.shown(swap)
    assert engine.shown(swap) == 0


@pytest.mark.parametrize("slots", [1, 2])
def test_a_request_at_any_line_of_a_failing_refit_is_not_lost(slots: int) -> None:
    """A trace stops the failing frame before each line of SyncRefit in turn, where another thread makes a request."""
    moment, injected = 0, True
    while injected:
        moment, injected = moment + 1, False
        engine = Breakable(slots, {2})
        swap = SyncRefit(slots, engine.refit, 0)
        swap.request(1)
        lines = 0
        other = threading.Thread(target=swap.request, args=(2,), daemon=True)

        def trace(
            frame: FrameType, event: str, _: Any, swap: SyncRefit[int] = swap, other: Any = other, at: int = moment
        ) -> Any:
            nonlocal lines, injected
            if frame.f_locals.get("self") is not swap:
                return None
            if event == "line":
                lines += 1
                if lines == at:
                    injected = True
                    other.start()
                    other.join(0.05)  # it may have to wait for an assignment that the traced thread is about to execute
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            engine.shown(swap)
        except Boom:
            pass
        finally:
            sys.settrace(before)
        if injected:
            other.join(TIMEOUT_S)
            assert not other.is_alive()
            # If 2 was requested before the failing refit began, 2 is what failed; otherwise it is the newest value and applied.
            expected = 0 if engine.tags[1] == 2 else 2
            assert engine.shown(swap) == expected, f"the request at line {moment} was lost"
    assert moment > 10


# ----- waiting


def test_a_request_waits_for_neither_frame_nor_refit() -> None:
    """Neither for a frame nor for a refit."""
    refitting, continue_refit = threading.Event(), threading.Event()

    def refit(slot: int, tag: int) -> None:
        if tag == 1:
            refitting.set()
            assert continue_refit.wait(TIMEOUT_S)

    swap = SyncRefit(2, refit, 0)
    shown: list[int] = []

    def frame() -> None:
        with swap.hold_current() as live:
            shown.append(live.value)

    with swap.hold_current():
        swap.request(1)
        thread = threading.Thread(target=frame, daemon=True)
        thread.start()
        assert refitting.wait(TIMEOUT_S)
        started = time.perf_counter()
        for value in range(2, 1000):
            swap.request(value)
        assert time.perf_counter() - started < 5  # waiting for the refit would have taken TIMEOUT_S
        assert swap.requested_value == 999
        continue_refit.set()
        _join([thread])
    frame()
    assert shown == [1, 999]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_frame_waits_for_a_free_slot(slots: int) -> None:
    """`slots` frames hold all slots with different values; another value has to wait until the first one ends."""
    swap = SyncRefit(slots, lambda slot, tag: None, 0)
    held = [swap.hold_current() for _ in range(slots)]
    held_weights = []
    for number, frame in enumerate(held):
        swap.request(number)
        held_weights.append(frame.__enter__())
    assert {live.slot for live in held_weights} == set(range(slots))
    swap.request(99)
    entered: list[CurrentWeights[int]] = []

    def frame() -> None:
        with swap.hold_current() as live:
            entered.append(live)

    thread = threading.Thread(target=frame, daemon=True)
    thread.start()
    thread.join(0.1)
    assert not entered
    held[0].__exit__(None, None, None)
    _join([thread])
    assert (entered[0].slot, entered[0].value) == (held_weights[0].slot, 99)
    for frame_held in held[1:]:
        frame_held.__exit__(None, None, None)


def test_frames_of_one_value_share_a_slot() -> None:
    calls: list[int] = []
    swap = SyncRefit(2, lambda slot, tag: calls.append(slot), 0)
    with swap.hold_current() as first, swap.hold_current() as second:
        assert first == second == CurrentWeights(1, 0, 0)
    assert calls == [0]


def test_values_between_two_frames_cost_one_refit() -> None:
    calls: list[int] = []
    swap = SyncRefit(2, lambda slot, tag: calls.append(tag), 0)
    for value in range(1, 1000):
        swap.request(value)
    with swap.hold_current() as live:
        assert live.value == 999
    assert calls == [0, 999]
    assert swap.generation == 2


def test_an_error_in_a_frame_frees_its_slot() -> None:
    swap = SyncRefit(1, lambda slot, tag: None, 0)
    with pytest.raises(Boom), swap.hold_current():
        raise Boom
    swap.request(1)
    with swap.hold_current() as live:
        assert live.value == 1


def test_work_that_has_ended_uses_no_slot() -> None:
    swap = SyncRefit(1, lambda slot, value: None, 0)
    assert swap.use(lambda weights: weights.value) == 0
    assert swap._frames_in_slot == [0]
    with pytest.raises(ZeroDivisionError):
        swap.use(lambda weights: 1 // weights.value)
    assert swap.use(lambda weights: weights.value, 5) == 5
    assert swap._frames_in_slot == [0]
