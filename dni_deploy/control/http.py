"""HTTP: GET /alpha tells the alpha, PUT /alpha sets it; for scripts on this machine, without any package.

curl -X PUT -d 0.4 http://127.0.0.1:9124/alpha
curl -X PUT -d '{"alpha": {"psnr": 0.3, "gan": 0.7}}' http://127.0.0.1:9124/alpha

A page of another site in a browser on this machine can send requests here, too: only those are answered whose Host is this
machine by name, and none that a page of another origin makes.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.listener import AlphaListener, bind_socket
from dni_deploy.control.message_handler import ReportMessage
from dni_deploy.control.shared_alpha import AlphaState, SharedAlpha
from dni_deploy.errors import DniError, UsageError, escape_name
from dni_deploy.utils.text_file import load_json

MAX_BODY_BYTES = 1 << 16
MAX_DRAIN_BYTES = 1 << 20
MAX_CONNECTIONS = 16
READ_TIMEOUT_S = 5.0
"""Seconds that a client may keep us waiting for a byte."""
REQUEST_TIMEOUT_S = 10.0
"""Seconds that a whole request may take, however its bytes drip."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class HttpAlphaListener(AlphaListener):
    """Listens on TCP. `port` is the real one after start, where 0 was given. hosts: names it may be called by besides LOOPBACK_NAMES."""

    source = "HTTP"

    def __init__(
        self,
        shared_alpha: SharedAlpha,
        port: int,
        host: str = "127.0.0.1",
        *,
        extra_hosts: tuple[str, ...] = (),
        plane: ControlPlane | None = None,
        report: ReportMessage | None = None,
    ) -> None:
        super().__init__(shared_alpha, plane=plane, report=report)
        self.host, self.port = host, port
        self.allowed_hosts = tuple(
            name.lower() for name in (*LOOPBACK_NAMES, f"[{host}]" if ":" in host else host, *extra_hosts)
        )

    def _open_input(self) -> None:
        listening = bind_socket(self.host, self.port, socket.SOCK_STREAM, "HTTP")
        self.port = listening.getsockname()[1]
        self._server = _HttpServer(self, listening)

    def _run(self) -> None:
        self._server.serve_forever(poll_interval=0.1)

    def _wake_thread(self) -> None:
        self._server.shutdown()

    def _close_input(self) -> None:
        self._server.server_close()
        self._server.close_expired(time.monotonic() + 2 * REQUEST_TIMEOUT_S)

    def set_from_body(self, body: str) -> None:
        """Set what a body says. Raises DniError."""
        text = body.strip()
        alpha: Any = load_json(text) if text[:1] in ("{", "[", '"') else text
        if isinstance(alpha, dict) and not set(alpha) & set(self.handler.shared_alpha.members):
            if set(alpha) == {"plane"}:
                point = alpha["plane"]
                if not isinstance(point, list) or len(point) != 2:
                    raise UsageError('"plane" is a list of two numbers, x and y.')
                self.handler.set_point(*point)
                return
            if set(alpha) == {"alpha"}:
                alpha = alpha["alpha"]
        if isinstance(alpha, str):
            self.handler.set_from_line(alpha)
        else:
            self.handler.set_alpha(alpha)


class _HttpServer(ThreadingMixIn, TCPServer):
    """At most MAX_CONNECTIONS threads; each ends by itself."""

    daemon_threads = True
    request_queue_size = 4 * MAX_CONNECTIONS

    def __init__(self, listener: HttpAlphaListener, listening_socket: socket.socket) -> None:
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
            room = len(self._start_times) < MAX_CONNECTIONS
            if room:
                self._start_times[request] = time.monotonic()
        if room:
            super().process_request(request, client_address)
        else:
            with suppress(OSError):
                request.settimeout(0)
                request.send(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
            super().shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._start_times.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        self.close_expired(time.monotonic())

    def close_expired(self, now: float) -> None:
        """End the connections that began more than REQUEST_TIMEOUT_S before `now`."""
        with self._lock:
            old = [request for request, began in self._start_times.items() if now - began > REQUEST_TIMEOUT_S]
        for request in old:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or was cut: nothing to tell."""


class _RequestHandler(BaseHTTPRequestHandler):
    server: _HttpServer
    timeout = READ_TIMEOUT_S
    server_version, sys_version = "dni-deploy", ""

    def do_GET(self) -> None:
        if self._check_request():
            self._respond_json(200, _state_to_json(self.server.listener.handler.shared_alpha.state))

    def do_PUT(self) -> None:
        if not self._check_request():
            return
        body = self._read_body()
        if body is None:
            return
        feeder, failed = self.server.listener, list[DniError]()

        def set_alpha() -> None:
            try:
                feeder.set_from_body(body)
            except DniError as error:
                failed.append(error)
                raise

        if feeder.handler.handle_safely(set_alpha):
            self._respond_json(200, _state_to_json(feeder.handler.shared_alpha.state))
        elif failed:
            self._respond_error(400, str(failed[0]), failed[0].kind)
        else:
            self._respond_error(500, "The alpha could not be set.", DniError.kind)

    def _check_request(self) -> bool:
        """Whether it is for us, from us, and for what there is; answers otherwise."""
        hosts, origin = self.headers.get_all("Host", []), self.headers.get("Origin")
        port = self.server.listener.port
        good = {f"{name}:{port}" for name in self.server.listener.allowed_hosts}
        good |= set(self.server.listener.allowed_hosts) if port == 80 else set()
        if len(hosts) != 1 or hosts[0].lower() not in good:
            return self._respond_refused(400, "The Host of the request is not this machine.")
        if origin not in (None, f"http://{hosts[0]}") or self.headers.get("Sec-Fetch-Site", "none") not in (
            "none",
            "same-origin",
        ):
            return self._respond_refused(403, "Pages of another origin cannot set alpha.")
        if self.path != "/alpha":
            return self._respond_refused(404, "There is only /alpha here.")
        return True

    def _read_body(self) -> str | None:
        given = self.headers.get_all("Content-Length", [])
        if self.headers.get("Transfer-Encoding") or len(given) != 1 or not (given[0].isascii() and given[0].isdigit()):
            self._respond_refused(411, "The request needs one Content-Length, and no Transfer-Encoding.")
            return None
        if self.headers.get("Content-Encoding", "identity") != "identity":
            self._respond_refused(415, "A body is not compressed.")
            return None
        if len(given[0]) > 9 or int(given[0]) > MAX_BODY_BYTES:
            self.rfile.read(min(int(given[0][:9]), MAX_DRAIN_BYTES))  # or the answer would be lost with the connection
            self._respond_refused(413, f"A body has at most {MAX_BODY_BYTES:,} bytes.")
            return None
        size = int(given[0])
        data = self.rfile.read(size)
        try:
            if len(data) == size:
                return data.decode("utf-8")
            self._respond_refused(400, "The body is shorter than its Content-Length.")
        except UnicodeDecodeError:
            self._respond_refused(400, "The body is not UTF-8 text.")
        return None

    def _respond_refused(self, status: int, sentence: str) -> bool:
        """Count it and answer; always False."""
        self.server.listener.handler.count_refusal(sentence)
        self._respond_error(status, sentence, UsageError.kind)
        return False

    def _respond_error(self, status: int, sentence: str, kind: str) -> None:
        self._respond_json(status, {"schema": 1, "error": {"kind": kind, "message": sentence, "exit_code": 2}})

    def _respond_json(self, status: int, fields: dict[str, Any]) -> None:
        data = json.dumps(fields).encode() + b"\n"
        self.send_response(status)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(data))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *([("Allow", "GET, PUT")] if status == 405 else []),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself: a method that is not there (405 here), a line too long, no HTTP."""
        status = 405 if code == 501 else int(code)
        self.close_connection = True
        self._respond_refused(
            status,
            f"There is no {escape_name(self.command, 20)} here; there are GET and PUT."
            if status == 405
            else escape_name(message),
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


def _state_to_json(state: AlphaState) -> dict[str, Any]:
    """alpha: as of the newest frame; wanted: where a slew limit is on the way to."""
    alpha, wanted = (dict(zip(point.members, point.values, strict=True)) for point in (state.coefficients, state.requested))
    return {"schema": 1, "sequence": state.sequence, "alpha": alpha, "wanted": wanted, "source": state.source}
