"""Addresses to listen at: how they are written, and both loopback addresses at one port."""

from __future__ import annotations

import socket

import pytest

from dni_deploy.control.address import LOOPBACK, ListenAddress, bind_sockets
from dni_deploy.errors import BusyError, UsageError


@pytest.mark.parametrize(
    ("text", "host", "port", "is_loopback"),
    [
        (9000, LOOPBACK, 9000, True),
        ("0", LOOPBACK, 0, True),
        (" 9000 ", LOOPBACK, 9000, True),
        ("localhost:9000", LOOPBACK, 9000, True),
        ("127.0.0.1:9000", "127.0.0.1", 9000, True),
        ("[::1]:9000", "::1", 9000, True),
        ("0.0.0.0:9000", "0.0.0.0", 9000, False),
        ("[::]:9000", "::", 9000, False),
        ("[fe80::1%eth0]:9000", "fe80::1%eth0", 9000, False),
        ("studio.local:9000", "studio.local", 9000, False),
    ],
)
def test_addresses_are_parsed(text: str | int, host: str, port: int, is_loopback: bool) -> None:
    address = ListenAddress.parse(text)
    assert address == (host, port)
    assert address.is_loopback == is_loopback


@pytest.mark.parametrize(
    "text", ["", "x", "65536", "-1", "1.5", ":9000", "::1:9000", "a b:9000", "http://x:9000", "٩", "[::1]", "0.0.0.0:"]
)
def test_text_that_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a port, nor an address and a port"):
        ListenAddress.parse(text)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_loopback_is_both_addresses_at_one_port(kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = bind_sockets(LOOPBACK, 0, kind, "OSC")
    port = sockets[0].getsockname()[1]
    assert [opened.getsockname()[:2] for opened in sockets] == [("127.0.0.1", port), ("::1", port)][: len(sockets)]
    for opened in sockets:
        if kind == socket.SOCK_STREAM:
            opened.listen()
    if len(sockets) == 2:
        sockets[0].close()  # another program has one of the two
        with pytest.raises(BusyError, match=f"::1 port {port}"):
            bind_sockets(LOOPBACK, port, kind, "OSC")
    for opened in sockets:
        opened.close()

    def fail(*arguments: object, **options: object) -> list[object]:
        raise OSError("a machine without IPv6")

    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **options: (fail if ":" in host else getaddrinfo)(host, *rest, **options)
    )
    (only,) = bind_sockets(LOOPBACK, 0, kind, "OSC")
    with only:
        assert only.getsockname()[0] == "127.0.0.1"
