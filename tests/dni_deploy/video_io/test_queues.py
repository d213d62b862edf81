"""Loop: the three overlap, in order, with little between them; errors and a reader that goes away end it cleanly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from dni_deploy.video_io.pipe import OutputClosedError
from dni_deploy.video_io.queues import READ_AHEAD_FRAMES, WRITE_BEHIND_FRAMES, run_pipeline


def test_order() -> None:
    out: list[int] = []
    assert run_pipeline(iter(range(200)), lambda item, number: item * 1000 + number, out.append) == (200, False)
    assert out == [n * 1001 for n in range(200)]
    assert run_pipeline(iter(()), lambda item, number: item, out.append) == (0, False)


def test_they_overlap() -> None:
    """30 items of 10 ms in each of three places: 0.3 s if they overlap, 0.9 s one behind the other; 0.6 parts the two."""

    def slow(item: int) -> int:
        time.sleep(0.01)
        return item

    started = time.perf_counter()
    run_pipeline((slow(n) for n in range(30)), lambda item, number: slow(item), slow)
    assert time.perf_counter() - started < 0.6


def test_little_lies_between_them() -> None:
    """A sink that stands still stops the source: memory does not grow with the stream."""
    read = 0
    go = threading.Event()

    def source() -> Iterator[int]:
        nonlocal read
        for n in range(1000):
            read = n + 1
            yield n

    def sink(item: int) -> None:
        go.wait(10)

    thread = threading.Thread(target=run_pipeline, args=(source(), lambda item, number: item, sink))
    thread.start()
    time.sleep(0.2)
    held = read
    go.set()
    thread.join(10)
    assert held <= READ_AHEAD_FRAMES + WRITE_BEHIND_FRAMES + 3  # one more in each hand
    assert read == 1000


def failing(count: int) -> Iterator[int]:
    yield from range(count)
    raise ValueError("cut")


def test_what_came_before_a_cut_is_handed_over() -> None:
    out: list[int] = []
    with pytest.raises(ValueError, match="cut"):
        run_pipeline(failing(50), lambda item, number: item, out.append)
    assert out == list(range(50))


def test_what_was_made_before_an_error_is_handed_over() -> None:
    out: list[int] = []

    def effect(item: int, number: int) -> int:
        if number == 7:
            raise RuntimeError("broken")
        return item

    with pytest.raises(RuntimeError, match="broken"):
        run_pipeline(iter(range(1000)), effect, out.append)
    assert out == list(range(7))


@pytest.mark.parametrize("stalled", [False, True])
def test_a_reader_that_goes_away_is_no_error(stalled: bool) -> None:
    """Also where the source gives nothing more: nobody waits for it longer than a second."""
    taken = 0
    forever = threading.Event()

    def source() -> Iterator[int]:
        yield from range(4 if stalled else 10_000)
        forever.wait(30)

    def sink(item: int) -> None:
        nonlocal taken
        if taken == 3:
            raise OutputClosedError
        taken += 1

    started = time.perf_counter()
    assert run_pipeline(source(), lambda item, number: item, sink) == (3, True)
    assert time.perf_counter() - started < 5
    forever.set()


def test_a_sink_that_fails() -> None:
    def sink(item: int) -> None:
        if item == 2:
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        run_pipeline(iter(range(1000)), lambda item, number: item, sink)


def test_ctrl_c_waits_for_nobody() -> None:
    stuck = threading.Event()

    def effect(item: int, number: int) -> int:
        if number == 3:
            raise KeyboardInterrupt
        return item

    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(iter(range(100)), effect, lambda item: stuck.wait(30) and None)
    stuck.set()
    assert time.perf_counter() - started < 5
