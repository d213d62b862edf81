"""A queue of bounded length between two threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition
from typing import Generic, TypeVar

Item = TypeVar("Item")

POLL_INTERVAL_S = 0.1
"""Length of a piece into which waits are cut: a signal that the system gives to another thread does not wake the main one, and
Python runs its handler there alone, between two waits."""


class QueueClosedError(Exception):
    """The queue was closed because something failed elsewhere; that error says why."""


def do_nothing() -> None:
    """Does nothing; the default of a poll callback."""


class BoundedQueue(Generic[Item]):
    """Items on their way from one thread to another, in order.

    Thread safety: One thread puts and one iterates; any thread may close or abort.
    """

    def __init__(self, max_items: int, poll: Callable[[], None] = do_nothing) -> None:
        """Makes an empty queue.

        Args:
            max_items: Number of items that lie in the queue at most; whoever puts one more waits.
            poll: Called every POLL_INTERVAL_S while the iterating thread waits; what it raises comes out of the iteration.
        """
        self._max_items, self._poll = max_items, poll
        self._items: deque[Item] = deque()
        self._changed = Condition()
        self._is_closed = self._is_incomplete = False

    def put(self, item: Item) -> None:
        """Waits for room and adds an item.

        Raises:
            QueueClosedError: The queue is closed; the item was not added.
        """
        with self._changed:
            self._wait(lambda: self._is_closed or len(self._items) < self._max_items)
            if self._is_closed:
                raise QueueClosedError
            self._items.append(item)
            self._changed.notify_all()

    def close(self, *, is_complete: bool = True) -> None:
        """Takes no more items; those in the queue are still given.

        Args:
            is_complete: False where items are missing because of an error: the iteration then ends by QueueClosedError.
        """
        with self._changed:
            self._is_closed = True
            self._is_incomplete |= not is_complete
            self._changed.notify_all()

    def abort(self) -> None:
        """Drops all items and stops both sides."""
        with self._changed:
            self._items.clear()
            self.close(is_complete=False)

    def __iter__(self) -> Iterator[Item]:
        """Gives every item, waiting for each, until the queue is closed and empty.

        Raises:
            QueueClosedError: The queue was aborted, or closed with items missing.
        """
        while True:
            with self._changed:
                self._wait(lambda: self._is_closed or bool(self._items), self._poll)
                if not self._items:
                    if self._is_incomplete:
                        raise QueueClosedError
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item  # a frame is not held while the next one is waited for

    def _wait(self, is_ready: Callable[[], bool], poll: Callable[[], None] = do_nothing) -> None:
        while not self._changed.wait_for(is_ready, POLL_INTERVAL_S):
            poll()
