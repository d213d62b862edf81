"""Items in threads: as many at once as allowed, results in order, and nothing runs once the iteration has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from dni_deploy.utils.overlap import run_overlapped


class Tally:
    """Counts what runs at once, and takes longer for earlier items, so that they end in another order."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: list[int] = []
        self.most, self.most_bytes, self.ended = 0, 0, 0

    def __call__(self, item: int) -> int:
        with self.lock:
            self.running.append(item)
            self.most, self.most_bytes = max(self.most, len(self.running)), max(self.most_bytes, sum(self.running))
        time.sleep(0.004 if item % 2 else 0.001)
        with self.lock:
            self.running.remove(item)
            self.ended += 1
        return item


def overlap(function: Callable[[int], Any], items: Any, **settings: Any) -> Iterator[Future[Any]]:
    defaults = {"threads": 3, "measure_bytes": lambda item: item, "max_bytes": 10**9, "stopping": threading.Event()}
    return run_overlapped(function, items, **{**defaults, **settings})


def test_results_come_in_order_and_items_overlap() -> None:
    tally = Tally()
    assert [future.result() for future in overlap(tally, range(40))] == list(range(40))
    assert tally.most == 3


def test_memory_bounds_what_runs_at_once() -> None:
    tally = Tally()
    assert [future.result() for future in overlap(tally, [4, 5, 3, 200, 1, 9, 9], max_bytes=10)] == [4, 5, 3, 200, 1, 9, 9]
    assert tally.most_bytes == 200  # alone, since nothing else fits beside it
    tally = Tally()
    assert len(list(overlap(tally, [4, 5, 3, 1, 9, 9], max_bytes=10))) == 6
    assert tally.most_bytes <= 10


def test_an_error_belongs_to_its_item() -> None:
    def fail(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        return item

    futures = list(overlap(fail, range(4)))
    assert [type(future.exception()) for future in futures] == [type(None), type(None), ValueError, type(None)]


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, None])
def test_an_early_end_waits_for_what_runs_and_drops_the_rest(ending: type[BaseException] | None) -> None:
    tally, stopping = Tally(), threading.Event()
    futures = overlap(tally, range(1000), stopping=stopping)
    next(futures)
    if ending is None:
        futures.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(ending):
            futures.throw(ending())  # type: ignore[attr-defined]
    assert stopping.is_set()
    ended = tally.ended
    assert ended < 20
    time.sleep(0.02)
    assert (tally.ended, tally.running) == (ended, [])


def test_a_failing_measure_ends_the_iteration() -> None:
    tally = Tally()
    with pytest.raises(ZeroDivisionError):
        list(overlap(tally, [1, 2, 0], measure_bytes=lambda item: 1 // item))
    assert tally.running == []
