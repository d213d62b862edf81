"""Channel: a bounded queue between two threads that can be broken from outside, so that nobody waits for ever."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Broken(Exception):
    """The channel was broken: somebody else failed, and tells why."""


class Channel(Generic[Item]):
    """One thread puts, one gets; at most `limit` items are between them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[Item] = deque()
        self._changed = Condition()
        self._ended = False
        self._broken = False

    def put(self, item: Item) -> None:
        """Wait for room and put. Raises Broken."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken or len(self._items) < self._limit)
            if self._broken:
                raise Broken
            self._items.append(item)
            self._changed.notify_all()

    def end(self) -> None:
        """There will be no more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def break_up(self) -> None:
        """Wake and stop both sides at once; what is inside is dropped."""
        with self._changed:
            self._broken = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Every item until the end. Raises Broken."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._broken or self._ended or bool(self._items))
                if self._broken:
                    raise Broken
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
            del item  # a frame is not to be held while the next one is waited for
