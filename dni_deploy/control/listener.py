"""The base of everything that brings messages to the shared alpha in a thread of its own."""

from __future__ import annotations

import errno
import logging
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
"""Seconds that `close` waits for the thread; it is a daemon, so a program that ends does not wait for it."""

EXCLUSIVE_OPTION: int | None = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
"""Windows lets two programs share a port unless one asks for it alone; elsewhere no program can take a port that is in use."""

log = logging.getLogger(__name__)


class AlphaListener:
    """Listens for messages that set alpha; a context manager.

    A subclass implements `_run` and what it needs of `_open_input`, `_wake_thread` and `_close_input`. `start` raises what
    makes listening impossible; after that nothing is raised, only counted.

    Attributes:
        source: Who set the alpha, as SharedAlpha and messages call it.
        handler: Applies each message to the shared alpha.

    Thread safety: one thread starts and closes a listener; the counts may be read from any thread.
    """

    source = ""

    def __init__(
        self, shared_alpha: SharedAlpha, *, plane: ControlPlane | None = None, report: ReportMessage | None = None
    ) -> None:
        """Creates a listener that is not started.

        Args:
            shared_alpha: What is set.
            plane: What a point means; None refuses points.
            report: As in AlphaMessageHandler.
        """
        self.handler = AlphaMessageHandler(shared_alpha, self.source, plane, report)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def accepted_count(self) -> int:
        """Number of messages that have set alpha."""
        return self.handler.accepted_count

    @property
    def refused_count(self) -> int:
        """Number of messages that could not be used."""
        return self.handler.refused_count

    def start(self) -> None:
        """Begins to listen; does nothing if it does already.

        Raises:
            BusyError: The port is in use.
            UsageError: There is no such address, port or input.
            UnavailableError: A device or a permission is missing.
        """
        if self._thread is None:
            self._stopping.clear()
            self._open_input()
            self._thread = threading.Thread(target=self._run, name=f"dni-{self.source.lower()}", daemon=True)
            self._thread.start()
            log.debug("listening for alpha by %s", self.source)

    def close(self) -> None:
        """Stops listening; alpha stays as it is. A second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            self._wake_thread()
            thread.join(LISTENER_CLOSE_TIMEOUT_S)
            self._close_input()
            self.handler.report_refusals()
            log.debug("%s: %d messages accepted, %d refused", self.source, self.accepted_count, self.refused_count)

    def __enter__(self: Self_) -> Self_:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open_input(self) -> None:
        """Opens what is listened to; may raise."""

    def _run(self) -> None:
        """Listens until `_stopping` is set; raises nothing."""
        raise NotImplementedError

    def _wake_thread(self) -> None:
        """Makes `_run` see that `_stopping` is set."""

    def _close_input(self) -> None:
        """Closes what `_open_input` opened."""


def bind_socket(host: str, port: int, kind: socket.SocketKind, protocol_name: str) -> socket.socket:
    """Opens a socket and binds it.

    Args:
        host: Name or address of this machine; "" for all of its IPv4 addresses.
        port: Port; 0 for any that is free.
        kind: Stream or datagram.
        protocol_name: What listens, for messages.

    Returns:
        The socket, which the caller owns.

    Raises:
        UsageError: There is no such address or port, or the port is reserved for the administrator.
        BusyError: Another program listens there.
        UnavailableError: The system refuses for another reason.
    """
    if not 0 <= port < 1 << 16:
        raise UsageError(f"{port} is not a port; ports are from 1 to 65535, and 0 is any that is free.")
    prefix = f"{protocol_name} cannot listen on {escape_name(host, 80)} port {port}"
    try:
        family, _, protocol, _, address = socket.getaddrinfo(host or "0.0.0.0", port, type=kind, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{prefix}: there is no such address ({escape_name(error, 80)}).") from None
    bound = socket.socket(family, kind, protocol)
    try:
        if EXCLUSIVE_OPTION is not None:
            bound.setsockopt(socket.SOL_SOCKET, EXCLUSIVE_OPTION, 1)
        elif kind == socket.SOCK_STREAM:
            # Of a server that has just ended; never of a running one.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE or (EXCLUSIVE_OPTION is not None and error.errno == errno.EACCES):
            raise BusyError(f"{prefix}: another program has it. Choose another port, or 0 for any.") from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"{prefix}: it is not an address of this machine.") from None
        if error.errno == errno.EACCES:
            raise UsageError(f"{prefix}: it needs rights that this user does not have. Choose one from 1024 on.") from None
        raise UnavailableError(f"{prefix} ({escape_name(error.strerror)}).") from None
    return bound
