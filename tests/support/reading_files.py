"""Reading malformed checkpoint files: dangerous interpreter events meanwhile, and the resulting error."""

from __future__ import annotations

import contextlib
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.errors import DniError

MAX_READ_S = 20  # for one file; the slowest (a pickle at the limit of steps) takes 4 on an idle core
DANGEROUS_EVENTS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess", "socket.", "exec", "compile", "pickle.find_class",
           "import", "ctypes", "shutil", "os.remove", "os.rename", "os.mkdir", "webbrowser", "pty", "marshal")  # fmt: skip

events: list[str] = []
watching = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if watching and (
        event.startswith(DANGEROUS_EVENTS) or (event == "open" and len(arguments) > 1 and arguments[1] not in ("rb", "r", None))
    ):
        events.append(event)


sys.addaudithook(_hook)


@contextlib.contextmanager
def watch_audit_events() -> Iterator[list[str]]:
    """Yields a list that collects the dangerous audit events of the interpreter."""
    global watching
    events.clear()
    watching = True
    try:
        yield events
    finally:
        watching = False


def assert_refused(path: Path, kind: type[DniError], *words: str) -> None:
    """Asserts that reading the file raises exactly this error, soon, with these words, short and printable."""
    start = time.perf_counter()
    with pytest.raises(kind) as caught:
        Checkpoint.read(path)
    assert time.perf_counter() - start < MAX_READ_S
    assert type(caught.value) is kind, repr(caught.value)
    message = str(caught.value)
    assert len(message) <= 300, message
    assert not any(unicodedata.category(character)[0] == "C" for character in message)
    assert "weights_only" not in message
    for word in words:
        assert word in message
