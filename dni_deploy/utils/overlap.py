"""A function over many items in threads, as many at once as the memory allows, with the results in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_overlapped(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    measure_bytes: Callable[[Item], int],
    max_bytes: int,
    stopping: threading.Event,
) -> Generator[Future[Result], None, None]:
    """Runs a function over items, several at once.

    Whatever ends the iteration early, Ctrl-C included, sets `stopping`, drops the items that have not begun and waits for those
    that have; a function that takes long looks at `stopping` between its steps.

    Args:
        function: Called in threads.
        items: In the order in which they begin.
        threads: Number of items that run at once.
        measure_bytes: Says how much memory an item takes while it runs; called in the caller's thread.
        max_bytes: Of all that run at once; an item that takes more runs alone.
        stopping: Set at the end.

    Yields:
        A future for each item that is done, in the order of the items.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="overlap")
    unfinished: dict[Future[Result], int] = {}
    ordered: deque[Future[Result]] = deque()
    try:
        for item in items:
            size = measure_bytes(item)
            while unfinished and (len(unfinished) == threads or sum(unfinished.values()) + size > max_bytes):
                for future in wait(unfinished, return_when=FIRST_COMPLETED).done:
                    del unfinished[future]
                while ordered and ordered[0].done():
                    yield ordered.popleft()
            future = executor.submit(function, item)
            unfinished[future] = size
            ordered.append(future)
        while ordered:
            wait([ordered[0]])
            yield ordered.popleft()
    finally:
        stopping.set()
        executor.shutdown(wait=True, cancel_futures=True)
