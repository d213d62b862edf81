"""Limits: how much and how long a client of the page may."""

from __future__ import annotations

from dataclasses import dataclass


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
