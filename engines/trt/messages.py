"""TensorRT's error messages, kept for the project's own errors.

There is one logger: TensorRT keeps the first one that it gets for the whole process, and warns of any other.
"""

from __future__ import annotations

import traceback
from collections import deque
from functools import lru_cache
from typing import Any

import tensorrt as trt

from dni_deploy.errors import EngineError, escape_name


class TensorRTLogger(trt.ILogger):  # type: ignore[misc]  # no types are shipped
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


@lru_cache(maxsize=1)
def get_logger() -> TensorRTLogger:
    """Returns the logger of this process."""
    return TensorRTLogger()


def clear_errors() -> None:
    """Forgets earlier errors, before something that may fail."""
    get_logger().errors.clear()


def make_engine_error(action: str, hint: str = "") -> EngineError:
    """Makes the error for something that TensorRT refused, with TensorRT's own message, and forgets that message.

    Of several errors since `clear_errors` it takes the first: the later ones say that the callers failed too.

    Args:
        action: What was refused, an infinitive such as "load the plan".
        hint: What to do, a sentence.
    """
    errors = get_logger().errors
    detail = f": {summarize_message(errors[0])}" if errors else ""
    errors.clear()
    return EngineError(f"TensorRT {trt.__version__} could not {action}{detail}.{f' {hint}' if hint else ''}")


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
