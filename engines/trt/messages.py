"""Messages: TensorRT's own errors, kept for ours, and nothing of what else it says.

One logger for everything: TensorRT keeps the first one it is given for the whole process, and warns of any other.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Any

import tensorrt as trt

from dni_deploy.errors import EngineError, shown


class Messages(trt.ILogger):  # type: ignore[misc]  # no types are shipped
    """Keeps the newest errors. TensorRT calls `log` from any thread, and it must not raise."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: deque[str] = deque(maxlen=8)

    def log(self, severity: Any, msg: str) -> None:
        if severity in (trt.Logger.ERROR, trt.Logger.INTERNAL_ERROR):
            self.errors.append(str(msg))


@lru_cache(maxsize=1)
def messages() -> Messages:
    """The logger of this process."""
    return Messages()


def begin() -> None:
    """Forget what TensorRT complained of before, at the begin of something that may fail."""
    messages().errors.clear()


def failed(what: str, hint: str = "") -> EngineError:
    """The error for something that TensorRT would not do: "TensorRT could not <what>: <its error>." It is then forgotten.

    Of several errors since `begin` it is the first: the later ones say that what called it failed too.
    """
    errors = messages().errors
    told = f": {sentence(errors[0])}" if errors else ""
    errors.clear()
    return EngineError(f"TensorRT {trt.__version__} could not {what}{told}.{f' {hint}' if hint else ''}")


def sentence(text: str) -> str:
    """The first line of a message, without its full stop."""
    lines = text.strip().splitlines()
    return shown(lines[0] if lines else "no reason was given").rstrip(". ")
