"""Guard: who may talk to the page's server; everything else gets a status before any of our code sees it."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

import h11
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request


@dataclass(frozen=True)
class RequestLimits:
    """Sizes in bytes, times in seconds; tests make them smaller.

    clients      pages that may watch at once (OBS, a desk, a phone); the next one is told to come back later.
    connections  open connections in all, beyond which requests get 503.
    message      one text message on the WebSocket.
    body         JSON by HTTP.  picture: an uploaded picture.
    headers      of one request.
    request      until a request's headers are whole, and the longest wait for the next part of a body.
    send         until a client must have taken what was sent; then it is cut off.
    ping, pong   how often an idle client is asked whether it is still there, and how long it may take to answer.
    shutdown     until everything has ended after Ctrl-C.
    """

    max_clients: int = 8
    max_connections: int = 64
    max_message_bytes: int = 1 << 16
    max_body_bytes: int = 1 << 20
    max_image_bytes: int = 1 << 26
    max_header_bytes: int = 1 << 16
    request_timeout_s: float = 10.0
    send_timeout_s: float = 4.0
    ping_interval_s: float = 2.0
    pong_timeout_s: float = 3.0
    shutdown_timeout_s: float = 2.0


MIN_TOKEN_LENGTH = 16

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' ws://{host}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class RequestRefusedError(Exception):
    """A request that is not let in: an HTTP status and one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class RequestGuard:
    """ASGI middleware around the application.

    token     what the URL carries; compared in constant time.
    port      that the server listens on; part of the Host header and of the cookie's name (cookies do not keep ports apart).
    loopback  False where the server listens to other machines: then the address that the connection came in on is a Host, too.
    closing   tells whether the server is shutting down; requests get 503 then.

    Four questions, in this order: is the Host a name of ours (a rebound DNS name is not), is the Origin exactly ours (a page of
    another site, or "null", is not), does the browser say that another site sent it, and is the token right. A cookie alone
    never changes anything: it counts for a change only together with the Origin that browsers then send.
    """

    def __init__(
        self, app: ASGIApp, token: str, port: int, *, loopback: bool = True, is_closing: Callable[[], bool] = lambda: False
    ) -> None:
        self.app, self.token, self.port, self.loopback, self.is_closing = app, token, port, loopback, is_closing
        self.cookie_name = f"dni-serve-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = _Headers(scope)
        try:
            host = self._check_host(scope, headers)
            self._check_origin(scope, headers, host)
            by_url = self._check_token(scope, headers)
            if self.is_closing():
                raise RequestRefusedError(503, "The server is shutting down.")
        except RequestRefusedError as refusal:
            response = JSONResponse({"error": refusal.message}, refusal.status, _make_security_headers(""))
            if refusal.status == 503:
                response.headers["retry-after"] = "2"
            if scope["type"] == "http":
                response.headers["connection"] = "close"  # a body that nobody reads is not waited for
            await response(scope, receive, send)
            return

        async def add_security_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = _make_security_headers(host)
                if by_url:
                    more["set-cookie"] = f"{self.cookie_name}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                message["headers"] = [
                    *message.get("headers", []), *((name.encode(), value.encode()) for name, value in more.items())
                ]  # fmt: skip
            await send(message)

        await self.app(scope, receive, add_security_headers)

    def _check_host(self, scope: Scope, headers: _Headers) -> str:
        hosts = headers.get_all("host")
        if len(hosts) != 1:
            raise RequestRefusedError(400, "A request has exactly one Host header.")
        host = hosts[0].lower()
        names = list(LOOPBACK_HOSTS)
        server = scope.get("server")
        if not self.loopback and server:
            names.append(f"[{server[0]}]" if ":" in server[0] else server[0])
        known = {f"{name}:{self.port}" for name in names} | (set(names) if self.port == 80 else set())
        if host not in known:
            raise RequestRefusedError(400, "This server does not go by the name in the Host header.")
        return host

    def _check_origin(self, scope: Scope, headers: _Headers, host: str) -> None:
        origins = headers.get_all("origin")
        if len(origins) > 1 or (origins and origins[0] != f"http://{host}"):
            raise RequestRefusedError(403, "The request comes from another origin.")
        # A link to the page, clicked on another site, is a visit; everything else that another site sends is not.
        visit = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] == "/"
        if headers.get_all("sec-fetch-site")[:1] not in ([], ["same-origin"], ["none"]) and not visit:
            raise RequestRefusedError(403, "The request comes from another site.")

    def _check_token(self, scope: Scope, headers: _Headers) -> bool:
        """Returns whether the token was in the URL; raises Refusal."""
        in_url = _get_query_values(scope, "token")
        bearer = [value[7:] for value in headers.get_all("authorization") if value[:7].lower() == "bearer "]
        for given in (in_url, bearer):
            if given:
                if len(given) != 1 or not self._is_right_token(given[0]):
                    raise RequestRefusedError(403, "The token is wrong.")
                return given is in_url
        cookies = headers.get_cookies(self.cookie_name)
        if not cookies:
            raise RequestRefusedError(401, "The token is missing; open the address that dni-deploy serve printed.")
        if not any(self._is_right_token(cookie) for cookie in cookies):
            raise RequestRefusedError(403, "The token is wrong; open the address that dni-deploy serve printed.")
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        if not reads and not headers.get_all("origin"):
            raise RequestRefusedError(
                403, "A change needs the page's Origin, or the token in the address or as Authorization: Bearer."
            )
        return False

    def _is_right_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())


class _Headers:
    """The raw headers, by lower-case name; bytes that are not ASCII can never be equal to anything of ours."""

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.pairs = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]

    def get_all(self, name: str) -> list[str]:
        return [value for known, value in self.pairs if known == name.encode()]

    def get_cookies(self, name: str) -> list[str]:
        found = []
        for value in self.get_all("cookie"):
            for part in value.split(";"):
                jar: SimpleCookie = SimpleCookie()
                try:
                    jar.load(part.strip())
                except CookieError:  # another program's cookie on this host
                    continue
                found += [morsel.value for key, morsel in jar.items() if key == name]
        return found


def _get_query_values(scope: Scope, name: str) -> list[str]:
    try:
        return parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=32).get(name, [])
    except ValueError:
        raise RequestRefusedError(400, "The address has too many parameters.") from None


def _make_security_headers(host: str) -> dict[str, str]:
    """What every answer carries: never cached, never guessed at, never framed, and no word of it to other sites."""
    return {
        "content-security-policy": CONTENT_SECURITY_POLICY.format(host=host) if host else "default-src 'none'",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
    }


ABORT_EXTENSION = "dni.abort"
"""In a WebSocket's scope["extensions"]: a function that ends the connection at once, without waiting for the other side."""


def make_http_protocol(limits: RequestLimits) -> type[H11Protocol]:
    """HTTP/1.1 whose connections are closed where a request's headers are not whole within limits.request."""

    class TimeLimitedProtocol(H11Protocol):
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._update_timer()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._update_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            if self.timer is not None:
                self.timer.cancel()
            super().connection_lost(exc)

        def _update_timer(self) -> None:
            """The clock runs while a request has begun and its headers are not whole; from the first byte, not from the last."""
            waiting = self in self.connections and self.conn.their_state is h11.IDLE
            if waiting and self.timer is None:
                self.timer = self.loop.call_later(limits.request_timeout_s, self.transport.abort)
            elif not waiting and self.timer is not None:
                self.timer.cancel()
                self.timer = None

    return TimeLimitedProtocol


def make_websocket_protocol(limits: RequestLimits) -> type[WebSocketsSansIOProtocol]:
    """A WebSocket that can be cut off: by us through ABORT_EXTENSION, and where a ping is not answered or a goodbye not taken."""

    class AbortableWebSocketProtocol(WebSocketsSansIOProtocol):
        def handle_connect(self, event: Request) -> None:
            super().handle_connect(event)
            if hasattr(self, "scope"):
                extensions: Any = self.scope["extensions"]
                extensions[ABORT_EXTENSION] = self.transport.abort

        async def send(self, message: Any) -> None:
            await super().send(message)
            if self.initial_response is not None and self.close_sent:
                self.handshake_complete = True  # by a refusal; uvicorn 0.54 would log it as an error of ours

        def keepalive_timeout(self) -> None:
            super().keepalive_timeout()
            self.transport.abort()  # close() alone would wait for a client that reads nothing

        def shutdown(self) -> None:
            super().shutdown()
            self.loop.call_later(limits.shutdown_timeout_s / 2, self.transport.abort)

    return AbortableWebSocketProtocol
