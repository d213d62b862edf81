"""A small HTTP server for GET and PUT of /alpha, for scripts on this machine; needs no package.

curl -X PUT -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{"alpha": 0.4}'
http://127.0.0.1:9124/alpha
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.address import LOOPBACK, bind_sockets
from dni_deploy.control.alpha_http import ALPHA_PATH, HTTP_SOURCE, JSON_CONTENT_TYPE, error_to_json, put_alpha, state_to_json
from dni_deploy.control.listener import AlphaListener
from dni_deploy.control.message_handler import ReportMessage
from dni_deploy.control.request_guard import (
    RequestGuard,
    RequestHead,
    RequestLimits,
    RequestRefusedError,
    bracket_host,
    check_body_head,
    is_loopback_host,
    make_response_headers,
    make_token,
    validate_token,
)
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import UsageError, escape_name

MAX_DISCARDED_BYTES = 1 << 20
"""Bytes of the body of a refused request that are read."""

POLL_INTERVAL_S = 0.1
"""Seconds between looks for connections that last too long, and for the end."""

READ_TIMEOUT_S = 5.0
"""Seconds that a client may let the server wait for a byte."""


class HttpAlphaListener(AlphaListener):
    """Listens on a TCP port.

    Attributes:
        port: The real port after `start`, where 0 was given.
        token: The secret that every request has to carry as `Authorization: Bearer`; None where none is required.
    """

    source = HTTP_SOURCE

    def __init__(
        self,
        shared_alpha: SharedAlpha,
        port: int,
        host: str = LOOPBACK,
        *,
        token: str | None = None,
        requires_token: bool = True,
        extra_hosts: Sequence[str] = (),
        limits: RequestLimits | None = None,
        plane: ControlPlane | None = None,
        report: ReportMessage | None = None,
    ) -> None:
        """Creates a listener, which opens its port in `start`.

        Args:
            shared_alpha: What is set.
            port: TCP port; 0 for any that is free.
            host: Address to listen at, as in ListenAddress.
            token: The secret; None for a random one.
            requires_token: False to let in every program on this machine, whoever started it.
            extra_hosts: Names that the server goes by besides those of loopback and `host`.
            limits: Sizes and times; None for the defaults.
            plane: What a point means; None refuses points.
            report: As in AlphaMessageHandler.

        Raises:
            UsageError: The token cannot be used, or none is required at an address that other machines can reach.
        """
        super().__init__(shared_alpha, plane=plane, report=report)
        if not requires_token and (token is not None or not is_loopback_host(host)):
            raise UsageError(
                "A token and no token exclude each other."
                if token is not None
                else f"At {escape_name(host, 60)} other machines can set alpha, so a token is required."
            )
        self.host, self.port, self.limits = host, port, limits or RequestLimits()
        self.token = None if not requires_token else make_token() if token is None else validate_token(token)
        self.guard = RequestGuard(self.token, port, extra_hosts=(bracket_host(host), *extra_hosts))

    def _open_input(self) -> None:
        sockets = bind_sockets(self.host, self.port, socket.SOCK_STREAM, "HTTP")
        self.port = self.guard.port = sockets[0].getsockname()[1]
        self._servers = [_HttpServer(self, opened) for opened in sockets]

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for server in self._servers:
                selector.register(server, selectors.EVENT_READ, server)
            while not self._stopping.is_set():
                for key, _ in selector.select(POLL_INTERVAL_S):
                    key.data.handle_request()
                for server in self._servers:
                    server.close_expired(time.monotonic())

    def _close_input(self) -> None:
        for server in self._servers:
            server.server_close()
            server.close_expired(float("inf"))


class _HttpServer(ThreadingMixIn, TCPServer):
    """Runs at most `max_connections` threads, each of which ends by itself."""

    daemon_threads = True
    timeout = 0  # of handle_request: the listener has waited already

    def __init__(self, listener: HttpAlphaListener, listening_socket: socket.socket) -> None:
        self.request_queue_size = 4 * listener.limits.max_connections
        super().__init__(listening_socket.getsockname(), _RequestHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening_socket
        self.address_family = listening_socket.family
        self.listener = listener
        self._start_times: dict[Any, float] = {}
        self._lock = threading.Lock()
        self.server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            accepted = len(self._start_times) < self.listener.limits.max_connections
            if accepted:
                self._start_times[request] = time.monotonic()
        if accepted:
            super().process_request(request, client_address)
            return
        refusal = RequestRefusedError(503, f"{self.listener.limits.max_connections} connections are open already; try again.")
        data = json.dumps(error_to_json(refusal.error)).encode()
        headers = {**_make_headers(503, data), "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with suppress(OSError):
            request.settimeout(0)
            request.send(f"HTTP/1.0 503 Service Unavailable\r\n{head}\r\n".encode() + data)
        super().shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._start_times.pop(request, None)
        super().shutdown_request(request)

    def close_expired(self, now: float) -> None:
        """Ends the connections that began more than the limit's time before `now`, however their bytes drip in."""
        with self._lock:
            expired = [
                request
                for request, started_at in self._start_times.items()
                if now - started_at > self.listener.limits.request_timeout_s
            ]
        for request in expired:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a client that went away or was cut off."""


class _RequestHandler(BaseHTTPRequestHandler):
    server: _HttpServer
    timeout = READ_TIMEOUT_S
    server_version, sys_version = "dni-deploy", ""

    def do_GET(self) -> None:
        self._respond(lambda head: (200, state_to_json(self.server.listener.handler.shared_alpha.state)))

    def do_PUT(self) -> None:
        self._respond(lambda head: put_alpha(self.server.listener.handler, self._read_body(head)))

    def _respond(self, answer: Callable[[RequestHead], tuple[int, dict[str, Any]]]) -> None:
        """Checks the request and sends the answer, or the error."""
        headers = tuple((name.lower(), value) for name, value in self.headers.items())
        is_loopback = is_loopback_host(self.server.listener.host)
        local_host = None if is_loopback else self.connection.getsockname()[0].removeprefix("::ffff:")
        head = RequestHead(self.command, self.path, headers, local_host=local_host)
        try:
            self.server.listener.guard.admit(head)
            if self.path != ALPHA_PATH:
                raise RequestRefusedError(404, f"There is only {ALPHA_PATH} here.")
            status, fields = answer(head)
        except RequestRefusedError as refusal:
            self._discard_body(head)
            self._send_refusal(refusal)
        else:
            self._send_json(status, fields)

    def _read_body(self, head: RequestHead) -> bytes:
        size = check_body_head(head, (JSON_CONTENT_TYPE,), self.server.listener.limits.max_body_bytes)
        data = self.rfile.read(size)
        if len(data) != size:
            raise RequestRefusedError(400, "The body is shorter than its Content-Length.")
        return data

    def _discard_body(self, head: RequestHead) -> None:
        """Reads what was sent, or the answer would be lost with the connection."""
        lengths = [value for value in head.get_all("content-length") if value.isascii() and value.isdigit()]
        with suppress(OSError):
            self.rfile.read(min(int(lengths[0][:9]), MAX_DISCARDED_BYTES) if lengths else 0)

    def _send_refusal(self, refusal: RequestRefusedError) -> None:
        self.server.listener.handler.count_refusal(str(refusal))
        self._send_json(refusal.status, error_to_json(refusal.error))

    def _send_json(self, status: int, fields: dict[str, Any]) -> None:
        data = json.dumps(fields).encode() + b"\n"
        self.send_response(status)
        for name, value in _make_headers(status, data).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers what http.server refuses by itself: an unknown method (here 405), a line too long, what is not HTTP."""
        self.close_connection = True
        if code == 501:
            self._send_refusal(
                RequestRefusedError(405, f"There is no {escape_name(self.command, 20)} here; there are GET and PUT.")
            )
        else:
            self._send_refusal(RequestRefusedError(int(code), escape_name(message)))

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""


def _make_headers(status: int, data: bytes) -> dict[str, str]:
    allowed = {"allow": "GET, PUT"} if status == 405 else {}
    return {
        "content-type": JSON_CONTENT_TYPE, "content-length": str(len(data)), **allowed, **make_response_headers(status)
    }  # fmt: skip
