"""HTTP: a real server on loopback; every body, host, origin and client that should not get through."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control import http as feeder_module
from dni_deploy.control.http import MAX_BODY_BYTES, MAX_CONNECTIONS, HttpAlphaListener
from dni_deploy.errors import BusyError, UsageError
from tests.dni_deploy.control.listening import FOUR, PATIENCE, Told, new_cell, until


@pytest.fixture
def feeder() -> Iterator[HttpAlphaListener]:
    with HttpAlphaListener(new_cell(), 0, report=Told()) as made:
        yield made


Answer = tuple[int, dict[str, object]]


def ask(
    feeder: HttpAlphaListener, method: str = "GET", body: str | bytes | None = None, path: str = "/alpha", **headers: str
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", feeder.port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def raw(feeder: HttpAlphaListener, data: bytes) -> bytes:
    """What comes back on bytes as they are."""
    with socket.create_connection(("127.0.0.1", feeder.port), timeout=PATIENCE) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := client.recv(4096):
            answer += chunk
        return answer


def test_get_and_put(feeder: HttpAlphaListener) -> None:
    status, told = ask(feeder)
    assert status == 200
    assert told == {"schema": 1, "sequence": 0, "alpha": {"psnr": 1, "gan": 0}, "wanted": {"psnr": 1, "gan": 0}, "source": ""}
    bodies = {
        "0.4": 0.4,
        '{"alpha": 0.25}': 0.25,
        '{"psnr": 0.3, "gan": 0.7}': 0.3,
        '{"alpha": {"gan": 0.5}}': 0.5,
        "[0.125, 0.875]": 0.125,
        "psnr=0.3,gan=0.7": 0.3,
        "gan=0.25": 0.75,
        '"alpha 0.5"': 0.5,
        "alpha 0.625\n": 0.625,
    }
    for count, (body, psnr) in enumerate(bodies.items(), 1):
        status, told = ask(feeder, "PUT", body)
        assert (status, told["sequence"], told["source"]) == (200, count, "HTTP"), body
        assert feeder.handler.shared_alpha.read().requested.values[0] == psnr
        assert told["alpha"] == dict(zip(("psnr", "gan"), feeder.handler.shared_alpha.read().requested.values, strict=True))
    assert ask(feeder)[1]["sequence"] == len(bodies)


def test_a_plane() -> None:
    with HttpAlphaListener(new_cell(FOUR), 0, plane=ControlPlane.default(FOUR)) as feeder:
        assert ask(feeder, "PUT", '{"plane": [0.25, 0.5]}')[0] == 200
        assert feeder.handler.shared_alpha.read().requested.values == (0.375, 0.125, 0.375, 0.125)
        for body in ('{"plane": [0.25]}', '{"plane": 3}', '{"plane": [NaN, 0]}', '{"plane": [null, 0]}'):
            assert ask(feeder, "PUT", body)[0] == 400


@pytest.mark.parametrize(
    "body",
    ["", " ", "half", "NaN", "nan", "1e999", "2", "-1", "{", "[", "{}", "[]", '{"other": 1}', '{"psnr": NaN}', '{"alpha": null}',
     '{"alpha": {"alpha": 1}}', '{"psnr": 1, "psnr": 0}', "[0.5, 0.6]", "[" * 5000, '{"psnr": ' + "1" * 6000 + "}", "x" * MAX_BODY_BYTES,
     '{"plane": [0, 0]}', '{"alpha": true, "x": 1}', '"\\ud800"', "0.4\n0.5"],
)  # fmt: skip
def test_bodies_that_cannot_be_used(feeder: HttpAlphaListener, body: str) -> None:
    status, told = ask(feeder, "PUT", body)
    assert status == 400
    error = told["error"]
    assert isinstance(error, dict)
    assert set(error) == {"kind", "message", "exit_code"}
    assert error["message"].isprintable()
    assert len(error["message"]) < 600
    assert feeder.handler.shared_alpha.state.sequence == 0
    assert feeder.refused_count == 1


def test_bytes_that_are_no_text(feeder: HttpAlphaListener) -> None:
    assert ask(feeder, "PUT", b"\xff\xfe")[0] == 400
    assert ask(feeder, "PUT", b"\x1f\x8b\x08", Content_Encoding="gzip")[0] == 415


def test_a_body_over_the_limit(feeder: HttpAlphaListener) -> None:
    assert ask(feeder, "PUT", "x" * (MAX_BODY_BYTES + 1))[0] == 413
    assert b" 413 " in raw(feeder, _head(feeder, b"Content-Length: 99999999999999999999"))
    assert feeder.refused_count == 2


def _head(feeder: HttpAlphaListener, *lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([b"PUT /alpha HTTP/1.1", b"Host: localhost:%d" % feeder.port, *lines, b"", body])


@pytest.mark.parametrize(
    ("lines", "body", "status"),
    [
        ([b"Content-Length: 3"], b"0.4", b"200"),
        ([b"Content-Length: 30"], b"0.4", b"400"),
        ([b"Content-Length: -3"], b"0.4", b"411"),
        ([b"Content-Length: x"], b"0.4", b"411"),
        ([b"Content-Length: 3", b"Content-Length: 4"], b"0.4", b"411"),
        ([], b"0.4", b"411"),
        ([b"Transfer-Encoding: chunked"], b"3\r\n0.4\r\n0\r\n\r\n", b"411"),
        ([b"Host: evil"], b"", b"400"),
        ([b"X: " + b"y" * 70_000], b"", b"431"),
        ([b"X: y"] * 200, b"", b"431"),
    ],
)
def test_heads_that_do_not_fit(feeder: HttpAlphaListener, lines: list[bytes], body: bytes, status: bytes) -> None:
    assert raw(feeder, _head(feeder, *lines, body=body)).split(b" ", 2)[1] == status


@pytest.mark.parametrize(
    "data",
    [b"\0" * 100, b"GET\r\n\r\n", b"\x16\x03\x01", b"GET /alpha HTTP/9.9\r\n\r\n", b"G" * 70_000, b"GET /alpha\r\n"],
)
def test_what_is_not_http(feeder: HttpAlphaListener, data: bytes) -> None:
    assert b"200" not in raw(feeder, data)[:20]
    assert ask(feeder)[0] == 200


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("localhost:{port}", True),
        ("127.0.0.1:{port}", True),
        ("[::1]:{port}", True),
        ("LOCALHOST:{port}", True),
        ("evil", False),
        ("evil:{port}", False),
        ("127.0.0.1.evil:{port}", False),
        ("localhost.evil:{port}", False),
        ("localhost", False),
        ("localhost:1", False),
        ("192.168.0.7:{port}", False),
        ("", False),
    ],
)
def test_hosts(feeder: HttpAlphaListener, host: str, good: bool) -> None:
    for method in ("GET", "PUT"):
        status, _ = ask(feeder, method, "0.4" if method == "PUT" else None, Host=host.format(port=feeder.port))
        assert status == (200 if good else 400)
    assert (feeder.handler.shared_alpha.state.sequence == 1) == good


def test_pages_of_another_origin(feeder: HttpAlphaListener) -> None:
    for headers in (
        {"Origin": "http://evil"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert ask(feeder, "PUT", "0.4", **headers)[0] == 403
    assert feeder.handler.shared_alpha.state.sequence == 0
    assert ask(feeder, "PUT", "0.4", Origin=f"http://127.0.0.1:{feeder.port}", Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "NONSENSE"])
def test_other_methods(feeder: HttpAlphaListener, method: str) -> None:
    assert ask(feeder, method, "0.4")[0] == 405
    assert feeder.handler.shared_alpha.state.sequence == 0


@pytest.mark.parametrize("path", ["/", "/alpha/", "/alpha?x=1", "/../alpha", "/%61lpha", "alpha"])
def test_other_paths(feeder: HttpAlphaListener, path: str) -> None:
    assert ask(feeder, "PUT", "0.4", path)[0] == 404


def test_a_flood(feeder: HttpAlphaListener) -> None:
    """Four clients, all they can for 400 requests each; some are turned away, the last one counts."""

    def client() -> None:
        for step in range(400):
            with suppress(OSError, ValueError, http.client.HTTPException):  # turned away
                ask(feeder, "PUT", f"{step % 101 / 100}")

    clients = [threading.Thread(target=client, daemon=True) for _ in range(4)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert ask(feeder, "PUT", "0.625")[0] == 200
    assert feeder.handler.shared_alpha.read().requested.values == (0.625, 0.375)
    assert feeder.accepted_count > 100


def test_clients_that_say_nothing_are_cut_off(feeder: HttpAlphaListener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeder_module, "REQUEST_TIMEOUT_S", 0.3)
    silent = [socket.create_connection(("127.0.0.1", feeder.port), timeout=PATIENCE) for _ in range(MAX_CONNECTIONS)]
    for number, client in enumerate(silent):
        client.sendall(b"PUT /alpha HTTP/1.1\r\n"[:number])
    started = time.monotonic()
    until(lambda: _answers(feeder))
    assert time.monotonic() - started < PATIENCE / 4
    for client in silent:
        client.close()


def _answers(feeder: HttpAlphaListener) -> bool:
    try:
        return ask(feeder)[0] == 200
    except (OSError, ValueError, http.client.HTTPException):
        return False


def test_no_more_threads_than_connections(feeder: HttpAlphaListener) -> None:
    before = threading.active_count()
    clients = [socket.create_connection(("127.0.0.1", feeder.port), timeout=PATIENCE) for _ in range(3 * MAX_CONNECTIONS)]
    refused = 0
    for client in clients[MAX_CONNECTIONS:]:
        refused += b"503" in client.recv(100)
    assert refused == 2 * MAX_CONNECTIONS
    assert threading.active_count() <= before + MAX_CONNECTIONS
    for client in clients:
        client.close()
    until(lambda: _answers(feeder))


def test_a_client_that_goes_away(feeder: HttpAlphaListener, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", feeder.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(_head(feeder, b"Content-Length: 3"))
    assert ask(feeder)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_ports_and_closing(feeder: HttpAlphaListener) -> None:
    with pytest.raises(BusyError, match="another program has it"):
        HttpAlphaListener(new_cell(), feeder.port).start()
    with pytest.raises(UsageError):
        HttpAlphaListener(new_cell(), 70_000).start()
    with socket.create_connection(("127.0.0.1", feeder.port), timeout=PATIENCE) as waiting:
        waiting.sendall(b"PUT")
        started = time.monotonic()
        feeder.close()
        assert time.monotonic() - started < 2
        with suppress(ConnectionResetError):
            assert b"200" not in waiting.recv(100)  # it was let go
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", feeder.port), timeout=1)
    feeder.start()
    assert ask(feeder)[0] == 200
