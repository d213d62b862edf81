"""Applies the request guard to an ASGI application, and cuts off connections of the server that are too slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h11
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from dni_deploy.control.alpha_http import error_to_json
from dni_deploy.control.request_guard import (
    RequestGuard,
    RequestHead,
    RequestLimits,
    RequestRefusedError,
    make_response_headers,
)


@dataclass(frozen=True)
class PageLimits(RequestLimits):
    """Limits of the web UI's server; tests lower them.

    Attributes:
        max_clients: Number of pages that may watch at once (OBS, a desktop, a phone); the next one is asked to come back later.
        max_message_bytes: Size of one text message on the WebSocket.
        max_image_bytes: Size of an uploaded image.
        max_video_bytes: Size of an uploaded video, which is kept in a temporary file.
        send_timeout_s: Longest time until a client must have taken what was sent; then it is cut off.
        ping_interval_s: Time after which an idle client is asked whether it is still there.
        pong_timeout_s: Longest time for its answer.
        shutdown_timeout_s: Longest time until everything has ended after Ctrl-C.
    """

    max_connections: int = 64
    max_clients: int = 8
    max_message_bytes: int = 1 << 16
    max_image_bytes: int = 1 << 26
    max_video_bytes: int = 1 << 31
    send_timeout_s: float = 4.0
    ping_interval_s: float = 2.0
    pong_timeout_s: float = 3.0
    shutdown_timeout_s: float = 2.0


CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' ws://{host}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class RequestGuardMiddleware:
    """ASGI middleware that lets a request through to the application only where the guard admits it."""

    def __init__(
        self,
        app: ASGIApp,
        guard: RequestGuard,
        token: str,
        *,
        is_loopback: bool = True,
        unavailable_reason: Callable[[], str] = lambda: "",
    ) -> None:
        """Wraps an application.

        Args:
            app: The application.
            guard: Decides on each request; has a cookie name.
            token: Value of the cookie that a page gets which was opened with the token in its URL.
            is_loopback: False where the server listens to other machines: then the address at which a connection came in is a
                Host, too.
            unavailable_reason: Returns why a request cannot be served now, as a sentence, for a 503; "" where it can.
        """
        self.app, self.guard, self.token = app, guard, token
        self.is_loopback, self.unavailable_reason = is_loopback, unavailable_reason

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, WebSocket or lifespan as ASGI defines it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            admission = self.guard.admit(make_request_head(scope, is_loopback=self.is_loopback))
            if reason := self.unavailable_reason():
                raise RequestRefusedError(503, reason)
        except RequestRefusedError as refusal:
            response = make_refusal_response(refusal)
            response.headers.update(make_response_headers(refusal.status))
            if scope["type"] == "websocket":
                del response.headers["connection"]
            await response(scope, receive, send)
            return

        async def add_security_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = make_response_headers(message["status"])
                headers["content-security-policy"] = CONTENT_SECURITY_POLICY.format(host=admission.host)
                if admission.has_token_in_url:
                    headers["set-cookie"] = f"{self.guard.cookie_name}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                message["headers"] = [
                    *message.get("headers", []), *((name.encode(), value.encode()) for name, value in headers.items())
                ]  # fmt: skip
            await send(message)

        await self.app(scope, receive, add_security_headers)


def make_request_head(scope: Scope, *, is_loopback: bool = True) -> RequestHead:
    """Returns what the guard decides on, of an ASGI scope."""
    server = scope.get("server")
    return RequestHead(
        scope.get("method", "GET"),
        scope["path"],
        tuple((name.lower().decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
        query=scope["query_string"].decode("latin-1"),
        is_websocket=scope["type"] == "websocket",
        local_host=server[0] if server and not is_loopback else None,
    )


def make_refusal_response(refusal: RequestRefusedError) -> JSONResponse:
    """Makes the answer to a refused request, which ends the connection: a body that nobody reads is not waited for."""
    return JSONResponse(error_to_json(refusal.error), refusal.status, {"connection": "close"})


ABORT_EXTENSION = "dni.abort"
"""Key in scope["extensions"] of a WebSocket: a function that ends the connection without waiting for the other side."""


def make_http_protocol(limits: PageLimits) -> type[H11Protocol]:
    """Makes the protocol class of HTTP/1.1 whose connections are closed where the headers of a request do not come in time."""

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
            """Lets the timer run while the headers of a request are not complete: from the first byte, not from the last."""
            waiting = self in self.connections and self.conn.their_state is h11.IDLE
            if waiting and self.timer is None:
                self.timer = self.loop.call_later(limits.request_timeout_s, self.transport.abort)
            elif not waiting and self.timer is not None:
                self.timer.cancel()
                self.timer = None

    return TimeLimitedProtocol


def make_websocket_protocol(limits: PageLimits) -> type[WebSocketsSansIOProtocol]:
    """Makes the protocol class of WebSockets that can be cut off.

    The application cuts one off by ABORT_EXTENSION; the protocol, where a ping or a close is not answered.
    """

    class AbortableWebSocketProtocol(WebSocketsSansIOProtocol):
        def handle_connect(self, event: Request) -> None:
            super().handle_connect(event)
            if hasattr(self, "scope"):
                extensions: Any = self.scope["extensions"]
                extensions[ABORT_EXTENSION] = self.transport.abort

        async def send(self, message: Any) -> None:
            await super().send(message)
            if self.initial_response is not None and self.close_sent:
                self.handshake_complete = True  # by a refusal; uvicorn 0.54 would log it as an error of this server

        def keepalive_timeout(self) -> None:
            super().keepalive_timeout()
            self.transport.abort()  # close() alone would wait for a client that reads nothing

        def shutdown(self) -> None:
            super().shutdown()
            self.loop.call_later(limits.shutdown_timeout_s / 2, self.transport.abort)

    return AbortableWebSocketProtocol
