"""Read, process and write at the same time, in three threads with bounded queues between them.

    read --[ max_read ]--> process (the caller's thread) --[ max_processed ]--> write

`process` returns a future, so that several items can be under way in threads of its own. Since the queues are bounded, a slow
output slows the input, and memory does not grow with the stream.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from threading import Thread
from typing import NamedTuple, TypeVar

from dni_deploy.video_io.pipe import OutputClosedError
from dni_deploy.video_io.queues import POLL_INTERVAL_S, BoundedQueue, QueueClosedError, do_nothing

In = TypeVar("In")
Out = TypeVar("Out")


class PipelineLimits(NamedTuple):
    """How much lies between the threads, and how long they are waited for.

    Attributes:
        max_read: Items that are read and not yet processed.
        max_processed: Items that are processed, or under way, and not yet written.
        join_timeout_s: Seconds to wait, when all else is over, for a thread that is still in a read or a write; it is a daemon.
    """

    max_read: int
    max_processed: int
    join_timeout_s: float


class PipelineResult(NamedTuple):
    """How a pipeline ended without an error.

    Attributes:
        written: Number of items that were written whole.
        output_closed: The reader of the output closed it before the input ended.
    """

    written: int
    output_closed: bool


def run_pipeline(
    read: Iterable[In],
    process: Callable[[In], Future[Out]],
    write: Callable[[Iterator[tuple[In, Out]]], None],
    limits: PipelineLimits,
    poll: Callable[[], None] = do_nothing,
) -> PipelineResult:
    """Takes every item from `read` through `process` to `write`, in order.

    The first error of the three ends all and is raised here; the items that were processed before it are written. An exception
    that is no error, such as Ctrl-C, drops them. OutputClosedError is no error either: it ends the pipeline with a count.

    Args:
        read: Iterated in a thread of its own.
        process: Called in the caller's thread, in order; returns the item's result, later.
        write: Called once, in a thread of its own, with an iterator of the items and their results. Where something else failed, the
            iterator ends by QueueClosedError after the last item instead of stopping; `write` lets it pass.
        limits: Depth of the queues and patience at the end.
        poll: Called now and then in the writing thread while it waits for an item. It may raise OutputClosedError.

    Returns:
        The number of items written, and whether the output was closed.
    """
    pending: BoundedQueue[In] = BoundedQueue(limits.max_read)
    processed: BoundedQueue[tuple[In, Future[Out]]] = BoundedQueue(limits.max_processed, poll)
    errors: list[BaseException] = []
    written = 0

    def read_items() -> None:
        try:
            for item in read:
                pending.put(item)
                del item
        except QueueClosedError:
            pass
        except BaseException as error:
            errors.append(error)
        finally:
            pending.close()

    def count_items() -> Iterator[tuple[In, Out]]:
        nonlocal written
        for item, future in processed:
            try:
                result = future.result()
            except Exception as error:
                errors.append(error)
                raise QueueClosedError from error
            yield item, result
            del item, future, result
            written += 1

    def write_items() -> None:
        try:
            write(count_items())
        except QueueClosedError:
            pass
        except BaseException as error:
            errors.append(error)
        finally:
            pending.abort()
            processed.abort()

    reader = Thread(target=read_items, name="dni-read", daemon=True)
    writer = Thread(target=write_items, name="dni-write", daemon=True)
    reader.start()
    writer.start()
    try:
        try:
            for item in pending:
                processed.put((item, process(item)))
                del item
        except QueueClosedError:
            pass  # the writer has ended
        except Exception as error:
            errors.append(error)
        pending.abort()
        processed.close(is_complete=not errors)
        _join(writer)
    finally:
        pending.abort()
        processed.abort()
        for thread in (reader, writer):
            _join(thread, limits.join_timeout_s)
    if errors and not isinstance(errors[0], OutputClosedError):
        raise errors[0]
    return PipelineResult(written, bool(errors))


def make_completed_future(result: Out) -> Future[Out]:
    """Returns a future that has this result, for a `process` that has done its work when it returns."""
    future: Future[Out] = Future()
    future.set_result(result)
    return future


def _join(thread: Thread, timeout_s: float = math.inf) -> None:
    """Waits for the end of a thread, in pieces as queues do."""
    deadline = time.monotonic() + timeout_s
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(POLL_INTERVAL_S)
