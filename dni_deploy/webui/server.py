"""Server: the application on a socket of this machine, until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import uvicorn

from dni_deploy.control.request_guard import RequestGuard, bracket_host, is_loopback_host, make_token, validate_token
from dni_deploy.errors import BusyError, UsageError, escape_name
from dni_deploy.webui.app import AppState, make_app
from dni_deploy.webui.guard import RequestGuardMiddleware, make_http_protocol, make_websocket_protocol

WILDCARD_ADDRESSES = ("0.0.0.0", "::", "")


def open_listening_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises BusyError (something listens there), UsageError (no address of this machine, a port that is not ours to take).
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {escape_name(host, 60)} is no address of this machine.") from error
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(128)
        opened.setblocking(False)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise BusyError(
                f"Port {port} is taken by another program; choose another one with --port, or 0 for any."
            ) from error
        if error.errno == errno.EACCES:
            raise UsageError(f"Port {port} needs rights that this user has not; choose one from 1024 on.") from error
        raise UsageError(f"--host {escape_name(host, 60)} is no address of this machine ({error.strerror}).") from error
    return opened


def choose_token(token: str | None, host: str) -> str:
    """Returns the token to use: the one that was given, or a random one.

    Raises:
        UsageError: It cannot be used, or none was given where other machines can come in.
    """
    if token is not None:
        return validate_token(token)
    if not is_loopback_host(host):
        raise UsageError(
            f"--host {escape_name(host, 60)} lets other machines in; choose a token of your own with --token or DNI_SERVE_TOKEN."
        )
    return make_token()


class PageServer:
    """The page under `url`. Owns the socket; the desk's stage is started and closed by whoever made it.

    `run` blocks in this thread until a signal or `stop`; `start` does it in a thread of its own (then signals are not touched).
    """

    def __init__(self, state: AppState, listening_socket: socket.socket, token: str, host: str) -> None:
        address = listening_socket.getsockname()
        self.port: int = address[1]
        shown_host = "127.0.0.1" if host in WILDCARD_ADDRESSES else bracket_host(host)
        self.url = f"http://{shown_host}:{self.port}/?token={token}"
        self._socket = listening_socket
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
            log_level="error",  # what a client does wrong is told to it; below warning, addresses are logged, and with them the token
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
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def _unavailable_reason(self) -> str:
        if self._server.should_exit:
            return "The server is shutting down."
        if len(self._server.server_state.connections) > self._limits.max_connections:
            return f"{self._limits.max_connections} connections are open already; try again."
        return ""

    def run(self, on_ready: Callable[[], Any] | None = None) -> None:
        """Serve until it is stopped; `on_ready` is called when it answers. Signals are passed on when everything has ended."""
        asyncio.run(self._serve(on_ready))

    async def _serve(self, on_ready: Callable[[], Any] | None) -> None:
        serving = asyncio.ensure_future(self._server.serve([self._socket]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.005)
        if on_ready is not None and not serving.done():
            on_ready()
        await serving

    def start(self) -> None:
        """Serve in a thread; returns when it answers."""
        answering = threading.Event()

        def serve_in_thread() -> None:
            try:
                self.run(answering.set)
            finally:
                answering.set()

        self._thread = threading.Thread(target=serve_in_thread, name="dni-page", daemon=True)
        self._thread.start()
        answering.wait(10.0)

    def stop(self) -> None:
        """From any thread; a second call does nothing."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(10.0)

    def __enter__(self) -> PageServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
