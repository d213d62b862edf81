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

from dni_deploy.alpha.keyframes import load_json
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.listener import Feeder, bound
from dni_deploy.control.message_handler import Tell
from dni_deploy.control.shared_alpha import AlphaCell, Setting
from dni_deploy.errors import DniError, UsageError, shown

BODY_LIMIT = 1 << 16
DRAINED = 1 << 20
CONNECTIONS = 16
SILENCE = 5.0
"""Seconds that a client may keep us waiting for a byte."""
DEADLINE = 10.0
"""Seconds that a whole request may take, however its bytes drip."""
LOCAL = ("localhost", "127.0.0.1", "[::1]")


class HttpFeeder(Feeder):
    """Listens on TCP. `port` is the real one after start, where 0 was given. hosts: names it may be called by besides LOCAL."""

    source = "HTTP"

    def __init__(
        self,
        cell: AlphaCell,
        port: int,
        host: str = "127.0.0.1",
        *,
        hosts: tuple[str, ...] = (),
        plane: ControlPlane | None = None,
        tell: Tell | None = None,
    ) -> None:
        super().__init__(cell, plane=plane, tell=tell)
        self.host, self.port = host, port
        self.names = tuple(name.lower() for name in (*LOCAL, f"[{host}]" if ":" in host else host, *hosts))

    def _open(self) -> None:
        listening = bound(self.host, self.port, socket.SOCK_STREAM, "HTTP")
        self.port = listening.getsockname()[1]
        self._server = _Server(self, listening)

    def _run(self) -> None:
        self._server.serve_forever(poll_interval=0.1)

    def _wake(self) -> None:
        self._server.shutdown()

    def _shut(self) -> None:
        self._server.server_close()
        self._server.cut(time.monotonic() + 2 * DEADLINE)

    def put(self, body: str) -> None:
        """Set what a body says. Raises DniError."""
        text = body.strip()
        alpha: Any = load_json(text) if text[:1] in ("{", "[", '"') else text
        if isinstance(alpha, dict) and not set(alpha) & set(self.steering.cell.members):
            if set(alpha) == {"plane"}:
                point = alpha["plane"]
                if not isinstance(point, list) or len(point) != 2:
                    raise UsageError('"plane" is a list of two numbers, x and y.')
                self.steering.point(*point)
                return
            if set(alpha) == {"alpha"}:
                alpha = alpha["alpha"]
        if isinstance(alpha, str):
            self.steering.line(alpha)
        else:
            self.steering.alpha(alpha)


class _Server(ThreadingMixIn, TCPServer):
    """At most CONNECTIONS threads; each ends by itself."""

    daemon_threads = True
    request_queue_size = 4 * CONNECTIONS

    def __init__(self, feeder: HttpFeeder, listening: socket.socket) -> None:
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.address_family = listening.family
        self.feeder = feeder
        self._began: dict[Any, float] = {}
        self._guard = threading.Lock()
        self.server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            room = len(self._began) < CONNECTIONS
            if room:
                self._began[request] = time.monotonic()
        if room:
            super().process_request(request, client_address)
        else:
            with suppress(OSError):
                request.settimeout(0)
                request.send(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
            super().shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._began.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        self.cut(time.monotonic())

    def cut(self, now: float) -> None:
        """End the connections that began more than DEADLINE before `now`."""
        with self._guard:
            old = [request for request, began in self._began.items() if now - began > DEADLINE]
        for request in old:
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or was cut: nothing to tell."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = SILENCE
    server_version, sys_version = "dni-deploy", ""

    def do_GET(self) -> None:
        if self._welcome():
            self._answer(200, _told(self.server.feeder.steering.cell.setting))

    def do_PUT(self) -> None:
        if not self._welcome():
            return
        body = self._body()
        if body is None:
            return
        feeder, failed = self.server.feeder, list[DniError]()

        def put() -> None:
            try:
                feeder.put(body)
            except DniError as error:
                failed.append(error)
                raise

        if feeder.steering.attempt(put):
            self._answer(200, _told(feeder.steering.cell.setting))
        elif failed:
            self._error(400, str(failed[0]), failed[0].kind)
        else:
            self._error(500, "The alpha could not be set.", DniError.kind)

    def _welcome(self) -> bool:
        """Whether it is for us, from us, and for what there is; answers otherwise."""
        hosts, origin = self.headers.get_all("Host", []), self.headers.get("Origin")
        port = self.server.feeder.port
        good = {f"{name}:{port}" for name in self.server.feeder.names}
        good |= set(self.server.feeder.names) if port == 80 else set()
        if len(hosts) != 1 or hosts[0].lower() not in good:
            return self._refuse(400, "The Host of the request is not this machine.")
        if origin not in (None, f"http://{hosts[0]}") or self.headers.get("Sec-Fetch-Site", "none") not in (
            "none",
            "same-origin",
        ):
            return self._refuse(403, "Pages of another origin cannot set alpha.")
        if self.path != "/alpha":
            return self._refuse(404, "There is only /alpha here.")
        return True

    def _body(self) -> str | None:
        given = self.headers.get_all("Content-Length", [])
        if self.headers.get("Transfer-Encoding") or len(given) != 1 or not (given[0].isascii() and given[0].isdigit()):
            self._refuse(411, "The request needs one Content-Length, and no Transfer-Encoding.")
            return None
        if self.headers.get("Content-Encoding", "identity") != "identity":
            self._refuse(415, "A body is not compressed.")
            return None
        if len(given[0]) > 9 or int(given[0]) > BODY_LIMIT:
            self.rfile.read(min(int(given[0][:9]), DRAINED))  # or the answer would be lost with the connection
            self._refuse(413, f"A body has at most {BODY_LIMIT:,} bytes.")
            return None
        size = int(given[0])
        data = self.rfile.read(size)
        try:
            if len(data) == size:
                return data.decode("utf-8")
            self._refuse(400, "The body is shorter than its Content-Length.")
        except UnicodeDecodeError:
            self._refuse(400, "The body is not UTF-8 text.")
        return None

    def _refuse(self, status: int, sentence: str) -> bool:
        """Count it and answer; always False."""
        self.server.feeder.steering.refuse(sentence)
        self._error(status, sentence, UsageError.kind)
        return False

    def _error(self, status: int, sentence: str, kind: str) -> None:
        self._answer(status, {"schema": 1, "error": {"kind": kind, "message": sentence, "exit_code": 2}})

    def _answer(self, status: int, fields: dict[str, Any]) -> None:
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
        self._refuse(
            status, f"There is no {shown(self.command, 20)} here; there are GET and PUT." if status == 405 else shown(message)
        )

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


def _told(setting: Setting) -> dict[str, Any]:
    """alpha: as of the newest frame; wanted: where a slew limit is on the way to."""
    alpha, wanted = (dict(zip(point.members, point.shares, strict=True)) for point in (setting.coefficients, setting.wanted))
    return {"schema": 1, "sequence": setting.sequence, "alpha": alpha, "wanted": wanted, "source": setting.source}
