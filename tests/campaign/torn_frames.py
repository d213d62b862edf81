"""Torn frames: the tag model with frames in flight.

    python -m tests.campaign.torn_frames [--frames 3000000]

A slot has 64 weights that are all the tag of its value. Threads set values; others submit frames to the ring, some of them with a
value of their own. A frame that reads a tag that is not its value's is torn.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dni_deploy.session.ring import FrameRing
from dni_deploy.session.swap import AsyncRefit, CurrentWeights, SyncRefit

LAYERS = 64
TIMEOUT_S = 60.0
SWITCH_INTERVAL_S = 1e-6

Strategy = SyncRefit[int] | AsyncRefit[int]


@dataclass
class Counts:
    """What a run of the model saw."""

    frames: int = 0
    own: int = 0
    torn: int = 0
    wrong: int = 0
    refits: int = 0
    sets: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """Number of frames that are torn, or have another value than they brought, and of errors."""
        return self.torn + self.wrong + len(self.errors)


def run_model(
    design: Callable[[int, Callable[[int, int], None], int], Any],
    slots: int,
    frames: int,
    *,
    until_bad: bool = False,
    setters: int = 3,
) -> Counts:
    """Two threads submit frames while three set values.

    Args:
        design: The strategy.
        slots: Number of sets of weights.
        frames: Ends after so many.
        until_bad: Ends at the first bad frame, too.
        setters: Number of threads that set values.

    Returns:
        The counts. The last value that was set is shown by the last frame, or that counts as wrong.
    """
    weights = [[0] * LAYERS for _ in range(slots)]
    counts, lock, stop = Counts(), threading.Lock(), threading.Event()

    def refit(slot: int, tag: int) -> None:
        target = weights[slot]
        target[:] = [-1] * LAYERS
        for layer in range(LAYERS):
            target[layer] = tag
        counts.refits += 1

    strategy: Strategy = design(slots, refit, 0)
    ring = FrameRing(strategy)

    def read(held: CurrentWeights[int]) -> tuple[int, bool]:
        weight = weights[held.slot]
        return held.value, {weight[layer] for layer in range(LAYERS)} != {held.value}

    def judge(own: int | None, future: Future[tuple[int, bool]]) -> None:
        if future.cancelled():  # what was not begun when the ring was closed
            return
        with lock:
            counts.frames += 1
            counts.own += own is not None
            if error := future.exception():
                counts.errors.append(repr(error))
            else:
                value, is_torn = future.result()
                counts.torn += is_torn
                counts.wrong += own not in (None, value)
            if counts.frames >= frames or (until_bad and counts.bad):
                stop.set()

    def submit(number: int) -> None:
        rng = random.Random(number)
        while not stop.is_set():
            own = rng.randrange(10**9) if rng.random() < 0.05 else None
            future = ring.submit(read, own)
            future.add_done_callback(partial(judge, own))

    def change(number: int) -> None:
        tag = 0
        while not stop.is_set():
            tag += 1
            strategy.request(10 * tag + number)
            time.sleep(0 if tag % 4 else 1e-4)
        with lock:
            counts.sets += tag

    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    threads = [threading.Thread(target=submit, args=(number,), daemon=True) for number in range(2)]
    threads += [threading.Thread(target=change, args=(number,), daemon=True) for number in range(setters)]
    try:
        for thread in threads:
            thread.start()
        stop.wait()
        for thread in threads:
            thread.join(TIMEOUT_S)
            if thread.is_alive():
                counts.errors.append("a thread did not come back")
    finally:
        sys.setswitchinterval(interval)
    ring.close()
    if isinstance(strategy, AsyncRefit):
        counts.errors += [] if strategy.wait_until_applied(TIMEOUT_S) else ["the last value is not applied"]
    with strategy.hold_current() as held:
        counts.wrong += held.value != strategy.requested_value
        counts.torn += read(held)[1]
    if isinstance(strategy, AsyncRefit):
        strategy.close()
    return counts


MODELS: tuple[tuple[Any, int], ...] = ((SyncRefit, 1), (SyncRefit, 2), (SyncRefit, 3), (AsyncRefit, 2), (AsyncRefit, 3))


def main() -> int:
    """Divides the frames among the models; exit code 1 where one is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3_000_000)
    frames = parser.parse_args().frames
    results = []
    for design, slots in MODELS:
        results.append(counts := run_model(design, slots, frames // len(MODELS)))
        print(
            f"{design.__name__}, {slots} slots: {counts.frames:,} frames, {counts.own:,} with a value of their own, {counts.refits:,} "
            f"refits, {counts.sets:,} sets: {counts.torn} torn, {counts.wrong} wrong {counts.errors[:3]}",
            flush=True,
        )
    bad = sum(counts.bad for counts in results)
    print(f"{sum(counts.frames for counts in results):,} frames, {bad} bad")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
