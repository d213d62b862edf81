"""A process that renders for long keeps its memory, threads and files, and gives the same bytes at the end."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from dni_deploy.session.session import Session, open_session
from tests.support import pico_bundle, pipe_bundle

FRAMES_PER_ROW = 50
SHORT_GROWTH, LONG_GROWTH = 0.1, 0.03
"""Of memory in the second half: in seconds, caches and the allocator still fill."""


class Usage(NamedTuple):
    """What a process holds."""

    memory: int
    files: int
    threads: int


def measure_usage() -> Usage:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Usage(pages * os.sysconf("SC_PAGESIZE"), len(os.listdir("/proc/self/fd")), threading.active_count())


def render_at_random(sessions: dict[str, Session], rng: random.Random, frame: int) -> None:
    """Renders one frame of a random size with a random session, alpha and set of rules, now and then in the ring."""
    session = sessions[rng.choice(sorted(sessions))]
    first = session.members[0]
    kind = rng.random()
    if kind < 0.1 and session.signature.takes_frames:
        session.rules = [f"*={rng.random():.3f}"]
    elif kind < 0.2:
        session.rules = None
    session.alpha = rng.choice([rng.random(), 0, 1, {first: 0.25, session.members[1]: 0.75}])
    height, width = rng.randint(8, 64), rng.randint(8, 64)
    pixels = np.random.default_rng(frame).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if not session.signature.takes_frames:
        session.infer(pixels[None, None, :, :, 0].astype(np.float32) / 255)
    elif rng.random() < 0.3:
        list(session.stream([pixels] * 4, alphas=[rng.random() for _ in range(4)]))
    else:
        session.render(pixels, alpha=rng.random() if rng.random() < 0.2 else None)


def run(folder: Path, seconds: float, max_growth: float, record_property: Callable[[str, object], None]) -> None:
    pico_bundle.write(folder / "pico.dni")
    pipe_bundle.write(folder / "pipe.dni")
    pipe_bundle.write(folder / "double.dni", scale=2)
    options = {"engine": "onnxruntime", "threads": 1}
    sessions = {
        "pico": open_session(folder / "pico.dni", **options),
        "pipe": open_session(folder / "pipe.dni", **options, async_refit=True),
        "double": open_session(folder / "double.dni", **options, slots=2),
    }
    rng, rows, frame = random.Random(3), [], 0
    fixed = np.random.default_rng(1).integers(0, 256, (24, 28, 3), dtype=np.uint8)
    outputs = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(rows) < 8:
        for _ in range(FRAMES_PER_ROW):
            render_at_random(sessions, rng, frame)
            frame += 1
        sessions["double"].rules, sessions["double"].alpha = None, 0.3
        outputs.add(sessions["double"].render(fixed).output.tobytes())
        rows.append(measure_usage())
    half, last = rows[len(rows) // 2], rows[-1]
    record_property("long run", f"{frame} frames, {half} to {last}")
    print(f"{frame:,} frames, memory {last.memory / half.memory - 1:+.2%} in the second half, {half[1:]} to {last[1:]}")
    assert len(outputs) == 1
    assert last.memory < half.memory * (1 + max_growth)
    assert last.files <= half.files
    assert last.threads <= half.threads
    before = measure_usage()
    for session in sessions.values():
        session.close()
    assert measure_usage().threads < before.threads


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("seconds", "max_growth"),
    [
        pytest.param(15.0, SHORT_GROWTH, marks=pytest.mark.slow),
        pytest.param(1800.0, LONG_GROWTH, marks=pytest.mark.campaign),
    ],
)
def test_nothing_grows(
    tmp_path: Path, seconds: float, max_growth: float, record_property: Callable[[str, object], None]
) -> None:
    run(tmp_path, seconds, max_growth, record_property)
