"""Feeder: what brings messages to the cell in a thread of its own; a context manager."""

from __future__ import annotations

import errno
import socket
import threading
from types import TracebackType
from typing import TypeVar

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.message_handler import AlphaMessageHandler, ReportMessage
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import BusyError, UnavailableError, UsageError, escape_name

Self_ = TypeVar("Self_", bound="AlphaListener")
LISTENER_CLOSE_TIMEOUT_S = 2.0
"""Seconds that close waits for the thread; it is a daemon, so a program that ends does not wait for it."""


class AlphaListener:
    """Base of the feeders. `start` opens what it listens to and raises; after that nothing is raised, only counted."""

    source = ""

    def __init__(
        self, shared_alpha: SharedAlpha, *, plane: ControlPlane | None = None, report: ReportMessage | None = None
    ) -> None:
        self.handler = AlphaMessageHandler(shared_alpha, self.source, plane, report)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def accepted_count(self) -> int:
        """How many messages have set alpha."""
        return self.handler.accepted_count

    @property
    def refused_count(self) -> int:
        """How many messages could not be used."""
        return self.handler.refused_count

    def start(self) -> None:
        """Begin to listen. Raises BusyError, UsageError, UnavailableError."""
        if self._thread is None:
            self._stopping.clear()
            self._open_input()
            self._thread = threading.Thread(target=self._run, name=f"dni-{self.source.lower()}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop listening; alpha stays as it is. Calling it again does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            self._wake_thread()
            thread.join(LISTENER_CLOSE_TIMEOUT_S)
            self._close_input()
            self.handler.report_refusals()

    def __enter__(self: Self_) -> Self_:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open_input(self) -> None:
        """Take what is needed; raises."""

    def _run(self) -> None:
        """Until `_stopping` is set; raises nothing."""
        raise NotImplementedError

    def _wake_thread(self) -> None:
        """Make `_run` see that it is to stop."""

    def _close_input(self) -> None:
        """Give back what `_open_input` took."""


def bind_socket(host: str, port: int, kind: socket.SocketKind, protocol_name: str) -> socket.socket:
    """A socket that is bound. Raises UsageError (no such address, no such port), BusyError (taken), UnavailableError."""
    if not 0 <= port < 1 << 16:
        raise UsageError(f"{port} is not a port; ports are from 1 to 65535, and 0 is any that is free.")
    where = f"{escape_name(host, 80)} port {port}"
    try:
        family, _, protocol, _, address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"{protocol_name} cannot listen on {where}: there is no such address ({escape_name(error, 80)})."
        ) from None
    made = socket.socket(family, kind, protocol)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a server that has just ended; never a live one
        made.bind(address)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise BusyError(f"{protocol_name} cannot listen on {where}: another program has it. Choose another port.") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"{protocol_name} cannot listen on {where}: it is not an address of this machine.") from None
        raise UnavailableError(f"{protocol_name} cannot listen on {where} ({escape_name(error.strerror)}).") from None
    return made
