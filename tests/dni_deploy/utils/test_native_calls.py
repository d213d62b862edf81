"""Calls of native code end at a signal: those that run, those that come after it, and the process where one does not end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dni_deploy.utils.native_calls import NATIVE_CALLS, NativeCalls, end_calls_at_signals

ROOT = Path(__file__).parents[3]


class Ended(Exception):
    pass


class Endless:
    """A call that goes on until it is ended."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def run(self) -> None:
        assert self.ended.wait(20)
        raise Ended


def test_a_call_returns_what_it_returns() -> None:
    calls, endless = NativeCalls(), Endless()
    assert calls.run(lambda: 3, endless.ended.set) == 3
    assert calls.wait_until_ended(0)
    calls.end_all()
    assert not endless.ended.is_set()  # it had ended before


def test_calls_of_all_threads_end_and_later_ones_do_at_once() -> None:
    calls, running, errors = NativeCalls(), [Endless() for _ in range(3)], list[Exception]()

    def run(endless: Endless) -> None:
        try:
            calls.run(endless.run, endless.ended.set)
        except Ended as ended:
            errors.append(ended)

    threads = [threading.Thread(target=run, args=(endless,)) for endless in running]
    for thread in threads:
        thread.start()
    while len(calls._end_by_token) < 3:
        time.sleep(0.001)
    assert not calls.wait_until_ended(0)
    calls.end_all()
    for thread in threads:
        thread.join(20)
    assert len(errors) == 3
    assert calls.wait_until_ended(0)
    late = Endless()
    with pytest.raises(Ended):
        calls.run(late.run, late.ended.set)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no signals of its user's")
def test_a_signal_ends_calls_within_the_block_alone() -> None:
    handled = list[int]()
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: handled.append(number))
    try:
        endless = Endless()
        with end_calls_at_signals((signal.SIGUSR1,)):
            threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
            with pytest.raises(Ended):
                NATIVE_CALLS.run(endless.run, endless.ended.set)
            os.kill(os.getpid(), signal.SIGUSR1)
        assert handled == [signal.SIGUSR1] * 2
        assert NATIVE_CALLS.run(lambda: 1, lambda: None) == 1
        os.kill(os.getpid(), signal.SIGUSR1)
        assert not NATIVE_CALLS.are_ending
    finally:
        signal.signal(signal.SIGUSR1, previous)


@pytest.mark.skipif(os.name == "nt", reason="signals end processes there")
def test_a_call_that_does_not_end_ends_the_process() -> None:
    code = (
        "import os, signal, sys, threading, time\n"
        "from dni_deploy.utils import native_calls\n"
        "native_calls.END_TIMEOUT_S = 0.1\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "def run(): native_calls.NATIVE_CALLS.run(lambda: time.sleep(20), lambda: None)\n"
        "with native_calls.end_calls_at_signals((signal.SIGTERM,)):\n"
        "    threading.Thread(target=run, daemon=True).start()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(20)\n"
    )
    begin = time.monotonic()
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (child.returncode, child.stderr) == (128 + signal.SIGTERM, "dni-deploy: stopped.\n")
    assert time.monotonic() - begin < 15
