"""The web UI server: its socket, its token, and its responses while it is busy or shuts down."""

from __future__ import annotations

import http.client
import socket
import threading

import pytest

pytest.importorskip("uvicorn", reason="the page's server needs the extra `serve`")

from dni_deploy.errors import BusyError, UsageError
from dni_deploy.webui.server import choose_token, open_listening_sockets
from tests.dni_deploy.webui.page_server import TOKEN, serve_page

QUERY = f"?token={TOKEN}"


def test_requests_during_shutdown_get_an_answer() -> None:
    with serve_page() as live:
        connection = http.client.HTTPConnection("127.0.0.1", live.page.port, timeout=5)
        connection.request("GET", f"/alpha{QUERY}")
        assert connection.getresponse().read()
        live.page._server.should_exit = True
        try:
            connection.request("GET", f"/alpha{QUERY}")
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("retry-after")) == (503, "2")
        except (http.client.HTTPException, OSError):
            pass  # the shutdown was faster
        connection.close()


def test_a_port_that_cannot_be_opened_is_a_one_line_error() -> None:
    (listening_socket,) = open_listening_sockets("127.0.0.1", 0)
    with listening_socket:
        port = listening_socket.getsockname()[1]
        with pytest.raises(BusyError, match=f"port {port}: another program has it"):
            open_listening_sockets("127.0.0.1", port)
    for host in ("no.such.host.invalid", "192.0.2.1"):  # the second one is reserved for documentation: no machine has it
        with pytest.raises(UsageError, match="address"):
            open_listening_sockets(host, 0)


def test_both_loopback_addresses_answer() -> None:
    with serve_page() as live:
        assert live.page.url.startswith("http://127.0.0.1:")
        for host in ("127.0.0.1", "::1"):
            connection = http.client.HTTPConnection(host, live.page.port, timeout=5)
            try:
                connection.request("GET", f"/alpha{QUERY}")
            except OSError:
                assert host == "::1"  # a machine without IPv6
                continue
            assert connection.getresponse().status == 200
            connection.close()


def test_a_token_is_required_beyond_loopback() -> None:
    assert len({choose_token(None, "127.0.0.1") for _ in range(3)}) == 3
    assert choose_token(TOKEN, "0.0.0.0") == TOKEN
    for token, host in ((None, "0.0.0.0"), (None, "::"), ("short", "127.0.0.1"), ("with a space in it and long", "127.0.0.1")):
        with pytest.raises(UsageError):
            choose_token(token, host)


def test_stop_ends_the_thread_and_frees_the_port() -> None:
    with serve_page() as live:
        assert live.page.url == f"http://127.0.0.1:{live.page.port}/?token={TOKEN}"
        assert "dni-page" in {thread.name for thread in threading.enumerate()}
        live.page.stop()
        live.page.stop()  # does nothing
        assert "dni-page" not in {thread.name for thread in threading.enumerate()}
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", live.page.port), 1)
