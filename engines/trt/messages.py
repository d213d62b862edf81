"""Messages: TensorRT's own errors, kept for ours, and nothing of what else it says.

One logger for everything: TensorRT keeps the first one it is given for the whole process, and warns of any other.
"""

from __future__ import annotations

import traceback
from collections import deque
from functools import lru_cache
from typing import Any

import tensorrt as trt

from dni_deploy.errors import EngineError, escape_name


class TensorRTLogger(trt.ILogger):  # type: ignore[misc]  # no types are shipped
    """Keeps the newest errors. TensorRT calls `log` from any thread, and it must not raise."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: deque[str] = deque(maxlen=8)

    def log(self, severity: Any, msg: str) -> None:
        if severity in (trt.Logger.ERROR, trt.Logger.INTERNAL_ERROR):
            self.errors.append(str(msg))


@lru_cache(maxsize=1)
def get_logger() -> TensorRTLogger:
    """The logger of this process."""
    return TensorRTLogger()


def clear_errors() -> None:
    """Forget what TensorRT complained of before, at the begin of something that may fail."""
    get_logger().errors.clear()


def make_engine_error(action: str, hint: str = "") -> EngineError:
    """The error for something that TensorRT would not do: "TensorRT could not <what>: <its error>." It is then forgotten.

    Of several errors since `clear_errors` it is the first: the later ones say that what called it failed too.
    """
    errors = get_logger().errors
    told = f": {summarize_message(errors[0])}" if errors else ""
    errors.clear()
    return EngineError(f"TensorRT {trt.__version__} could not {action}{told}.{f' {hint}' if hint else ''}")


def summarize_message(text: str) -> str:
    """The first line of a message, without its full stop."""
    lines = text.strip().splitlines()
    return escape_name(lines[0] if lines else "no reason was given").rstrip(". ")


def drop_variables(error: BaseException | None) -> None:
    """Clear the variables of every frame that the exception and those behind it went through; frames that still run keep theirs."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
