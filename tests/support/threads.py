"""Threads of a stress test: readers run until every writer is through."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence


def run_writers_and_readers(
    writers: Sequence[Callable[[], None]], readers: Sequence[Callable[[], None]], stop: threading.Event, timeout_s: float
) -> None:
    """Starts all in threads, waits for the writers, sets `stop` for the readers and waits for them.

    Args:
        writers: What ends by itself.
        readers: What runs until `stop` is set.
        stop: The event.
        timeout_s: Seconds to wait for each thread; one that has not ended then fails the test.
    """
    threads = [threading.Thread(target=body, daemon=True) for body in (*readers, *writers)]
    for thread in threads:
        thread.start()
    for thread in threads[len(readers) :]:
        thread.join(timeout_s)
        assert not thread.is_alive()
    stop.set()
    for thread in threads[: len(readers)]:
        thread.join(timeout_s)
        assert not thread.is_alive()
