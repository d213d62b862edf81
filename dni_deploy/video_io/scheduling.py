"""The priority of this process while encoders are opened.

SVT-AV1 makes the thread that opens it and its own threads real-time where the user is the superuser (as in most containers). All
else on the machine then waits for them, and so do programs that are started later, which inherit it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

THREADS_PATH = Path("/proc/self/task")
"""Linux's list of the process's threads by number."""


@contextmanager
def keep_scheduling() -> Iterator[None]:
    """Gives threads that become real-time inside the block the caller's scheduling again."""
    if not hasattr(os, "sched_getscheduler") or not THREADS_PATH.is_dir():
        yield
        return
    policy, parameters, before = os.sched_getscheduler(0), os.sched_getparam(0), _list_real_time_threads()
    try:
        yield
    finally:
        for thread in _list_real_time_threads() - before:
            with suppress(OSError):  # it has ended
                os.sched_setscheduler(thread, policy, parameters)


def _list_real_time_threads() -> set[int]:
    threads = set()
    for name in os.listdir(THREADS_PATH):
        with suppress(OSError):
            if os.sched_getscheduler(int(name)) in (os.SCHED_FIFO, os.SCHED_RR):
                threads.add(int(name))
    return threads
