"""How long a step took, for the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def log_duration(log: logging.Logger, step: str, level: int = logging.INFO) -> Iterator[None]:
    """Logs how long a step took, when it has ended without an error.

    Args:
        log: The module's logger.
        step: What was done, such as "verifying the graph".
        level: The level of the message.
    """
    started = time.perf_counter()
    yield
    log.log(level, "%s took %.3f s", step, time.perf_counter() - started)
