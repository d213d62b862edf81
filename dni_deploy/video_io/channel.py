"""Channel: a bounded queue between two threads that can be broken from outside, so that nobody waits for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition
from typing import Generic, TypeVar

Item = TypeVar("Item")


class QueueClosedError(Exception):
    """The channel was broken: somebody else failed, and tells why."""


class AbortableQueue(Generic[Item]):
    """One thread puts, one gets; at most `max_items` items are between them."""

    def __init__(self, max_items: int) -> None:
        self._max_items = max_items
        self._items: deque[Item] = deque()
        self._changed = Condition()
        self._closed = False
        self._aborted = False

    def put(self, item: Item) -> None:
        """Wait for room and put. Raises Broken."""
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or len(self._items) < self._max_items)
            if self._aborted:
                raise QueueClosedError
            self._items.append(item)
            self._changed.notify_all()

    def close(self) -> None:
        """There will be no more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Wake and stop both sides at once; what is inside is dropped."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Every item until the end. Raises Broken."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._aborted or self._closed or bool(self._items))
                if self._aborted:
                    raise QueueClosedError
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item  # a frame is not to be held while the next one is waited for
