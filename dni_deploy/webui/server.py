"""The web UI's application on a socket of this machine, until it is stopped."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import uvicorn

from dni_deploy.control.address import LOOPBACK, bind_sockets
from dni_deploy.control.request_guard import RequestGuard, bracket_host, is_loopback_host, make_token, validate_token
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.webui.app import AppState, make_app
from dni_deploy.webui.guard import RequestGuardMiddleware, make_http_protocol, make_websocket_protocol

WILDCARD_ADDRESSES = ("0.0.0.0", "::", "")
LISTEN_BACKLOG = 128
THREAD_TIMEOUT_S = 10.0
"""Seconds that `start` and `stop` wait for the thread."""


def open_listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Opens the sockets of a server.

    Args:
        host: Name or address of this machine, as in ListenAddress; "" for all of its IPv4 addresses.
        port: TCP port; 0 for any that is free.

    Returns:
        The sockets, which the caller owns; they have one port.

    Raises:
        UsageError: There is no such address or port, or the port is reserved for the administrator.
        BusyError: Another program listens there.
    """
    sockets = bind_sockets(host, port, socket.SOCK_STREAM, "The page")
    for listening_socket in sockets:
        listening_socket.listen(LISTEN_BACKLOG)
        listening_socket.setblocking(False)
    return sockets


def choose_token(token: str | None, host: str) -> str:
    """Returns the token to use: the one that was given, or a random one.

    Raises:
        UsageError: It cannot be used, or none was given where other machines can come in.
    """
    if token is not None:
        return validate_token(token)
    if not is_loopback_host(host):
        raise UsageError(
            f"--host {escape_name(host, 60)} lets other machines in; choose your own token with --token or DNI_SERVE_TOKEN."
        )
    return make_token()


class PageServer:
    """Serves the page; as a context manager, in a thread of its own.

    Attributes:
        url: Address of the page, with the token.
        port: TCP port.

    Thread safety: `stop` may be called from any thread.
    """

    def __init__(self, state: AppState, listening_sockets: Sequence[socket.socket], token: str, host: str) -> None:
        """Makes a server that does not serve yet.

        Args:
            state: What the application works on; its renderer is started and closed by the caller.
            listening_sockets: The sockets, which the server closes when it ends.
            token: The secret.
            host: What the sockets were opened with.
        """
        self.port: int = listening_sockets[0].getsockname()[1]
        self.url = f"http://{'127.0.0.1' if host in (LOOPBACK, *WILDCARD_ADDRESSES) else bracket_host(host)}:{self.port}/?token={token}"
        self._sockets = list(listening_sockets)
        limits = self._limits = state.limits
        app = RequestGuardMiddleware(
            make_app(state),
            RequestGuard(token, self.port, cookie_name=f"dni-serve-{self.port}"),  # cookies do not keep ports apart
            token,
            is_loopback=is_loopback_host(host),
            unavailable_reason=self._unavailable_reason,
        )
        config = uvicorn.Config(
            app,
            http=make_http_protocol(limits),
            ws=make_websocket_protocol(limits),
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",  # clients learn of their errors; below warning, addresses are logged, and with them the token
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ws_max_size=limits.max_message_bytes,
            ws_ping_interval=limits.ping_interval_s,
            ws_ping_timeout=limits.pong_timeout_s,
            ws_per_message_deflate=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=max(1, round(limits.shutdown_timeout_s)),
            h11_max_incomplete_event_size=limits.max_header_bytes,
        )
        self._server = _ReadyServer(config)
        self._thread: threading.Thread | None = None

    def _unavailable_reason(self) -> str:
        if self._server.should_exit:
            return "The server is shutting down."
        if len(self._server.server_state.connections) > self._limits.max_connections:
            return f"{self._limits.max_connections} connections are open already; try again."
        return ""

    def run(self, on_ready: Callable[[], Any] | None = None) -> None:
        """Serves in this thread until a signal or `stop`. Signals are passed on when everything has ended.

        Args:
            on_ready: Called when the server answers.
        """
        self._server.on_ready = on_ready or (lambda: None)
        asyncio.run(self._server.serve(self._sockets))

    def start(self) -> None:
        """Serves in a thread of its own, which leaves signals alone; returns when the server answers."""
        answering = threading.Event()

        def serve_in_thread() -> None:
            try:
                self.run(answering.set)
            finally:
                answering.set()

        self._thread = threading.Thread(target=serve_in_thread, name="dni-page", daemon=True)
        self._thread.start()
        answering.wait(THREAD_TIMEOUT_S)

    def stop(self) -> None:
        """Ends the server; a second call does nothing."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(THREAD_TIMEOUT_S)

    def __enter__(self) -> PageServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class _ReadyServer(uvicorn.Server):
    """Calls a function as soon as the server answers."""

    on_ready: Callable[[], Any]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_ready()
