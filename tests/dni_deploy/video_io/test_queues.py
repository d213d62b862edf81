"""A bounded queue blocks producers, delivers everything in order, and ends at once when aborted."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import pytest

from dni_deploy.video_io.queues import BoundedQueue, QueueClosedError

DEADLINE_S = 10.0
"""Far longer than any of these steps takes, so that a failure ends instead of hanging."""


def start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_full_queue_blocks_put() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2)
    added: list[int] = []
    four_added = threading.Event()

    def put_items() -> None:
        for item in range(5):
            queue.put(item)
            added.append(item)
            if len(added) == 4:
                four_added.set()
        queue.close()

    thread = start(put_items)
    items = iter(queue)
    assert next(items) == 0
    assert next(items) == 1
    assert four_added.wait(DEADLINE_S)
    assert len(added) == 4  # two were delivered and two are in the queue; the fifth waits
    assert list(items) == [2, 3, 4]
    thread.join(DEADLINE_S)


def test_close_delivers_the_remaining_items() -> None:
    queue: BoundedQueue[int] = BoundedQueue(3)
    queue.put(1)
    queue.put(2)
    queue.close()
    with pytest.raises(QueueClosedError):
        queue.put(3)
    assert list(queue) == [1, 2]


def test_missing_items_end_the_iteration_by_an_error() -> None:
    queue: BoundedQueue[int] = BoundedQueue(3)
    queue.put(1)
    queue.close(is_complete=False)
    items = iter(queue)
    assert next(items) == 1
    with pytest.raises(QueueClosedError):
        next(items)


def test_abort_drops_everything_and_wakes_both_sides() -> None:
    full: BoundedQueue[int] = BoundedQueue(1)
    full.put(1)
    empty: BoundedQueue[int] = BoundedQueue(1)
    refused: list[str] = []

    def put_one_more() -> None:
        try:
            full.put(2)
        except QueueClosedError:
            refused.append("put")

    def wait_for_item() -> None:
        try:
            next(iter(empty))
        except QueueClosedError:
            refused.append("get")

    threads = [start(put_one_more), start(wait_for_item)]
    full.abort()
    empty.abort()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(refused) == ["get", "put"]
    with pytest.raises(QueueClosedError):
        next(iter(full))


def test_poll_is_called_while_the_queue_is_empty() -> None:
    class StopWaitingError(Exception):
        pass

    def poll() -> None:
        raise StopWaitingError

    queue: BoundedQueue[int] = BoundedQueue(1, poll)
    queue.put(1)
    items = iter(queue)
    assert next(items) == 1
    with pytest.raises(StopWaitingError):
        next(items)


def test_an_item_is_not_held_while_the_next_one_is_waited_for() -> None:
    class Item:
        pass

    queue: BoundedQueue[Item] = BoundedQueue(1)
    queue.put(Item())
    items = iter(queue)
    reference = weakref.ref(next(items))
    queue.close()
    assert next(items, None) is None
    assert reference() is None
