"""The HTTP listener on a real port: malformed, oversized, slow and silent clients, and its tokens.

Responses to well-formed requests are tested for both servers in tests/end_to_end/test_alpha_http.py.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from dni_deploy.control.http import HttpAlphaListener
from dni_deploy.control.request_guard import RequestLimits
from dni_deploy.errors import BusyError, UsageError
from tests.dni_deploy.control.listening import TIMEOUT_S, RecordedReports, new_shared_alpha, wait_until

TOKEN = "a-token-of-the-tests"
LIMITS = RequestLimits()
BODY = b'{"alpha": 0.4}'


@pytest.fixture
def listener() -> Iterator[HttpAlphaListener]:
    with HttpAlphaListener(new_shared_alpha(), 0, token=TOKEN, report=RecordedReports()) as opened:
        yield opened


Answer = tuple[int, dict[str, object]]


def ask(
    listener: HttpAlphaListener, method: str = "GET", body: str | bytes | None = None, path: str = "/alpha", **headers: str
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=TIMEOUT_S)
    try:
        connection.request(
            method, path, body, {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers}
        )
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def raw(listener: HttpAlphaListener, data: bytes) -> bytes:
    """Sends raw bytes and returns the response."""
    with socket.create_connection(("127.0.0.1", listener.port), timeout=TIMEOUT_S) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := client.recv(4096):
            answer += chunk
        return answer


ADMITTED = (b"Authorization: Bearer " + TOKEN.encode(), b"Content-Type: application/json")


def _head(listener: HttpAlphaListener, *lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"PUT /alpha HTTP/1.1", b"Host: localhost:%d" % listener.port, *ADMITTED, *lines, b"", body])


@pytest.mark.parametrize(
    ("lines", "body", "status"),
    [
        ([b"Content-Length: 14"], BODY, b"200"),
        ([b"Content-Length: 30"], BODY, b"400"),
        ([b"Content-Length: -3"], BODY, b"411"),
        ([b"Content-Length: x"], BODY, b"411"),
        ([b"Content-Length: 14", b"Content-Length: 15"], BODY, b"411"),
        ([], BODY, b"411"),
        ([b"Transfer-Encoding: chunked"], b"e\r\n" + BODY + b"\r\n0\r\n\r\n", b"411"),
        ([b"Content-Length: 99999999999999999999"], b"", b"413"),
        ([b"Host: evil"], b"", b"400"),
        ([b"X: " + b"y" * 70_000], b"", b"431"),
        ([b"X: y"] * 200, b"", b"431"),
    ],
)
def test_a_body_whose_length_is_wrong_is_refused(
    listener: HttpAlphaListener, lines: list[bytes], body: bytes, status: bytes
) -> None:
    assert raw(listener, _head(listener, *lines, body=body)).split(b" ", 2)[1] == status


@pytest.mark.parametrize(
    "data",
    [b"\0" * 100, b"GET\r\n\r\n", b"\x16\x03\x01", b"GET /alpha HTTP/9.9\r\n\r\n", b"G" * 70_000, b"GET /alpha\r\n"],
)
def test_bytes_that_are_not_http_are_refused(listener: HttpAlphaListener, data: bytes) -> None:
    assert b"200" not in raw(listener, data)[:20]
    assert ask(listener)[0] == 200


def test_the_last_request_of_a_flood_wins(listener: HttpAlphaListener) -> None:
    """Four clients send 400 requests each as fast as they can; some are refused, and the last one wins."""

    def client() -> None:
        for step in range(400):
            with suppress(OSError, ValueError, http.client.HTTPException):  # refused
                ask(listener, "PUT", '{"alpha": %g}' % (step % 101 / 100))

    clients = [threading.Thread(target=client, daemon=True) for _ in range(4)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
    assert ask(listener, "PUT", '{"alpha": 0.625}')[0] == 200
    assert listener.handler.shared_alpha.read().requested.values == (0.625, 0.375)
    assert listener.accepted_count > 100


def test_silent_clients_are_disconnected() -> None:
    limits = RequestLimits(request_timeout_s=0.3)
    with HttpAlphaListener(new_shared_alpha(), 0, token=TOKEN, limits=limits, report=RecordedReports()) as listener:
        _fill_with_silent_clients(listener)


def _fill_with_silent_clients(listener: HttpAlphaListener) -> None:
    silent = [socket.create_connection(("127.0.0.1", listener.port), timeout=TIMEOUT_S) for _ in range(LIMITS.max_connections)]
    for number, client in enumerate(silent):
        client.sendall(b"PUT /alpha HTTP/1.1\r\n"[:number])
    started = time.monotonic()
    wait_until(lambda: _answers(listener))
    assert time.monotonic() - started < TIMEOUT_S / 4
    for client in silent:
        client.close()


def _answers(listener: HttpAlphaListener) -> bool:
    try:
        return ask(listener)[0] == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False


def test_no_more_threads_than_connections(listener: HttpAlphaListener) -> None:
    before = threading.active_count()
    clients = [
        socket.create_connection(("127.0.0.1", listener.port), timeout=TIMEOUT_S) for _ in range(3 * LIMITS.max_connections)
    ]
    refused = 0
    for client in clients[LIMITS.max_connections :]:
        refused += b"503" in client.recv(100)
    assert refused == 2 * LIMITS.max_connections
    assert threading.active_count() <= before + LIMITS.max_connections
    for client in clients:
        client.close()
    wait_until(lambda: _answers(listener))


def test_a_disconnected_client_prints_nothing(listener: HttpAlphaListener, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", listener.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(_head(listener, b"Content-Length: 14"))
    assert ask(listener)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_close_frees_the_port_and_disconnects_clients(listener: HttpAlphaListener) -> None:
    with pytest.raises(BusyError, match="another program has it"):
        HttpAlphaListener(new_shared_alpha(), listener.port).start()
    with pytest.raises(UsageError):
        HttpAlphaListener(new_shared_alpha(), 70_000).start()
    with socket.create_connection(("127.0.0.1", listener.port), timeout=TIMEOUT_S) as waiting:
        waiting.sendall(b"PUT")
        started = time.monotonic()
        listener.close()
        assert time.monotonic() - started < 2
        with suppress(ConnectionResetError):
            assert b"200" not in waiting.recv(100)  # it was disconnected
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", listener.port), timeout=1)
    listener.start()
    assert ask(listener)[0] == 200


def test_a_token_is_random_unless_it_is_chosen(listener: HttpAlphaListener) -> None:
    random_tokens = {HttpAlphaListener(new_shared_alpha(), 0).token for _ in range(3)}
    assert len(random_tokens) == 3
    assert all(token is not None and len(token) >= 43 for token in random_tokens)  # 256 bits
    for token in ("short", "with a space in it and long", "x" * 257, "sixteen-letters-\u00e9"):
        with pytest.raises(UsageError, match="16 to 256"):
            HttpAlphaListener(new_shared_alpha(), 0, token=token)


def test_a_token_in_the_url_or_a_cookie_is_ignored(listener: HttpAlphaListener) -> None:
    for path, cookie in ((f"/alpha?token={TOKEN}", ""), ("/alpha", f"dni-serve-{listener.port}={TOKEN}")):
        assert ask(listener, path=path, Authorization="", Cookie=cookie)[0] == 401
    assert ask(listener, path=f"/alpha?token={TOKEN}")[0] == 404  # this server ignores the query
    assert ask(listener, path="/%61lpha")[0] == ask(listener, path="/alpha/")[0] == ask(listener, path="/")[0] == 404


def test_without_a_token_only_loopback_is_allowed() -> None:
    with HttpAlphaListener(new_shared_alpha(), 0, requires_token=False, report=RecordedReports()) as listener:
        assert listener.token is None
        assert ask(listener, Authorization="")[0] == 200
        assert ask(listener, "PUT", BODY, Authorization="", Origin="http://evil")[0] == 403
    for host in ("0.0.0.0", "192.168.0.7", "::", "example.org"):
        with pytest.raises(UsageError, match="token is required"):
            HttpAlphaListener(new_shared_alpha(), 0, host, requires_token=False)
    with pytest.raises(UsageError, match="exclude each other"):
        HttpAlphaListener(new_shared_alpha(), 0, token=TOKEN, requires_token=False)
