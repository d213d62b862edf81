"""Where a listener listens: an address of this machine as users write it, and its sockets."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack
from typing import NamedTuple

from dni_deploy.control.listener import bind_socket
from dni_deploy.control.request_guard import is_loopback_host
from dni_deploy.errors import BusyError, UnavailableError, UsageError, escape_name

LOOPBACK = "localhost"
"""Both loopback addresses, 127.0.0.1 and ::1: a client that is told "localhost" may use either."""

MAX_FREE_PORT_ATTEMPTS = 16
"""Ports that are tried for one that is free at both loopback addresses."""


class ListenAddress(NamedTuple):
    """An address to listen at.

    Attributes:
        host: Name or address of this machine; LOOPBACK for both of its loopback addresses.
        port: Port; 0 for any that is free.
    """

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback_host(self.host)

    @classmethod
    def parse(cls, text: str | int) -> ListenAddress:
        """Parses 9000, "9000", "0.0.0.0:9000" or "[::1]:9000".

        Raises:
            UsageError: The text is none of these.
        """
        match = re.fullmatch(r"(?:(?:\[([0-9a-fA-F:.%\w]+)\]|([^\[\]:/\s]+)):)?([0-9]{1,5})", str(text).strip(), re.ASCII)
        if match is None or int(match[3]) >= 1 << 16:
            raise UsageError(
                f"{escape_name(text, 60)!r} is not a port, nor an address and a port, such as 0.0.0.0:9000 or [::1]:9000."
            )
        return cls(match[1] or match[2] or LOOPBACK, int(match[3]))


def bind_sockets(host: str, port: int, kind: socket.SocketKind, protocol_name: str) -> list[socket.socket]:
    """Binds a socket, or for LOOPBACK one at each of the two addresses, with one port.

    Args:
        host: As in ListenAddress.
        port: Port; 0 for any that is free.
        kind: Stream or datagram.
        protocol_name: What listens, for messages.

    Returns:
        The sockets, which the caller owns; where there is no IPv6, the one of IPv4.

    Raises:
        UsageError: As `bind_socket` raises, like BusyError and UnavailableError.
    """
    if host != LOOPBACK:
        return [bind_socket(host, port, kind, protocol_name)]
    for attempt in range(MAX_FREE_PORT_ATTEMPTS):
        with ExitStack() as stack:
            first = stack.enter_context(bind_socket("127.0.0.1", port, kind, protocol_name))
            try:
                second = bind_socket("::1", first.getsockname()[1], kind, protocol_name)
            except (UsageError, UnavailableError):  # this machine has no IPv6
                stack.pop_all()
                return [first]
            except BusyError:
                if port or attempt == MAX_FREE_PORT_ATTEMPTS - 1:
                    raise
                continue
            stack.pop_all()
            return [first, second]
    raise AssertionError("not reached")
