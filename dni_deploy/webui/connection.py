"""Connection: uvicorn's protocols with the time limits that they lack: headers that never end, clients that never read."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from dni_deploy.webui.limits import RequestLimits

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
