"""TensorRT's error messages, kept for the project's own errors.

There is one logger per library: TensorRT keeps the first one that it gets for the whole process, and warns of any other.
"""

from __future__ import annotations

import traceback
from collections import deque
from typing import Any

from dni_deploy.errors import escape_name

_loggers: dict[str, Any] = {}


def get_logger(trt: Any) -> Any:
    """Returns the logger of this process for a library's module.

    Its attribute `errors` holds the newest error messages.
    """
    if trt.__name__ not in _loggers:
        _loggers[trt.__name__] = _make_logger(trt)
    return _loggers[trt.__name__]


def _make_logger(trt: Any) -> Any:
    class ErrorLogger(trt.ILogger):  # type: ignore[misc]  # no types are shipped
        """Keeps the newest errors and drops everything else.

        Thread safety: TensorRT calls `log` from any thread; it must not raise.
        """

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, msg: str) -> None:
            """Keeps an error; called by TensorRT."""
            if severity in (trt.Logger.ERROR, trt.Logger.INTERNAL_ERROR):
                self.errors.append(str(msg))

    return ErrorLogger()


def summarize_message(text: str) -> str:
    """Returns the first line of a message, without its full stop."""
    lines = text.strip().splitlines()
    return escape_name(lines[0] if lines else "no reason was given").rstrip(". ")


def drop_variables(error: BaseException | None) -> None:
    """Clears the variables of every frame that an exception and its causes went through, so that they keep nothing alive.

    Frames that still run keep theirs.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
