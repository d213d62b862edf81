"""Feeder: what brings messages to the cell in a thread of its own; a context manager."""

from __future__ import annotations

import errno
import socket
import threading
from types import TracebackType
from typing import TypeVar

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.message_handler import Steering, Tell
from dni_deploy.control.shared_alpha import AlphaCell
from dni_deploy.errors import BusyError, EnvironmentProblem, UsageError, shown

Self_ = TypeVar("Self_", bound="Feeder")
PATIENCE = 2.0
"""Seconds that close waits for the thread; it is a daemon, so a program that ends does not wait for it."""


class Feeder:
    """Base of the feeders. `start` opens what it listens to and raises; after that nothing is raised, only counted."""

    source = ""

    def __init__(self, cell: AlphaCell, *, plane: ControlPlane | None = None, tell: Tell | None = None) -> None:
        self.steering = Steering(cell, self.source, plane, tell)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def accepted(self) -> int:
        """How many messages have set alpha."""
        return self.steering.accepted

    @property
    def refused(self) -> int:
        """How many messages could not be used."""
        return self.steering.refused

    def start(self) -> None:
        """Begin to listen. Raises BusyError, UsageError, EnvironmentProblem."""
        if self._thread is None:
            self._stopping.clear()
            self._open()
            self._thread = threading.Thread(target=self._run, name=f"dni-{self.source.lower()}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop listening; alpha stays as it is. Calling it again does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            self._wake()
            thread.join(PATIENCE)
            self._shut()
            self.steering.finish()

    def __enter__(self: Self_) -> Self_:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open(self) -> None:
        """Take what is needed; raises."""

    def _run(self) -> None:
        """Until `_stopping` is set; raises nothing."""
        raise NotImplementedError

    def _wake(self) -> None:
        """Make `_run` see that it is to stop."""

    def _shut(self) -> None:
        """Give back what `_open` took."""


def bound(host: str, port: int, kind: socket.SocketKind, what: str) -> socket.socket:
    """A socket that is bound. Raises UsageError (no such address, no such port), BusyError (taken), EnvironmentProblem."""
    if not 0 <= port < 1 << 16:
        raise UsageError(f"{port} is not a port; ports are from 1 to 65535, and 0 is any that is free.")
    where = f"{shown(host, 80)} port {port}"
    try:
        family, _, protocol, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{what} cannot listen on {where}: there is no such address ({shown(error, 80)}).") from None
    made = socket.socket(family, kind, protocol)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a server that has just ended; never a live one
        made.bind(address)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise BusyError(f"{what} cannot listen on {where}: another program has it. Choose another port.") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"{what} cannot listen on {where}: it is not an address of this machine.") from None
        raise EnvironmentProblem(f"{what} cannot listen on {where} ({shown(error.strerror)}).") from None
    return made
