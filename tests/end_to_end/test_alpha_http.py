"""The HTTP API of /alpha: one suite, run against the listener of `filter --http` and against the server of `serve`."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.control.http import HttpAlphaListener
from dni_deploy.control.request_guard import SECURITY_HEADERS, RequestLimits
from dni_deploy.control.shared_alpha import SharedAlpha
from tests.dni_deploy.control.listening import wait_until

TOKEN = "a-token-of-the-tests"
NAMES = ("bright", "dark", "middle", "dim")
MAX_BODY_BYTES = 1000
TIMEOUT_S = 10.0


class AlphaServer(NamedTuple):
    kind: str
    port: int
    shared_alpha: SharedAlpha


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    fields: dict[str, Any]


@contextmanager
def open_listener(count: int = 2, max_connections: int = 16) -> Iterator[AlphaServer]:
    members = NAMES[:count]
    shared_alpha = SharedAlpha(members, Coefficients.one_hot(members[0], members))
    plane = ControlPlane.default(members) if count > 2 else None
    limits = RequestLimits(max_connections=max_connections, max_body_bytes=MAX_BODY_BYTES)
    with HttpAlphaListener(shared_alpha, 0, token=TOKEN, limits=limits, plane=plane, report=lambda sentence: None) as listener:
        yield AlphaServer("listener", listener.port, shared_alpha)


@contextmanager
def open_page_server(count: int = 2, max_connections: int = 16) -> Iterator[AlphaServer]:
    pytest.importorskip("uvicorn", reason="the page's server needs the extra `serve`")
    from dni_deploy.webui.guard import PageLimits
    from tests.dni_deploy.webui.page_server import serve_page

    limits = PageLimits(max_connections=max_connections, max_body_bytes=MAX_BODY_BYTES)
    with serve_page(count, limits=limits) as live:
        yield AlphaServer("page", live.page.port, live.shared_alpha)


SERVERS = {"listener": open_listener, "page": open_page_server}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[AlphaServer]:
    with SERVERS[request.param]() as opened:
        yield opened


@pytest.fixture(params=SERVERS)
def plane_server(request: pytest.FixtureRequest) -> Iterator[AlphaServer]:
    with SERVERS[request.param](4) as opened:
        yield opened


def ask(
    server: AlphaServer,
    method: str = "GET",
    body: str | bytes = b"",
    path: str = "/alpha",
    host: str | None = None,
    **headers: str | None,
) -> Answer:
    """Sends a request that is valid except for the arguments; a header that is None is left out."""
    data = body.encode() if isinstance(body, str) else body
    fields = {
        "Host": f"127.0.0.1:{server.port}" if host is None else host, "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json" if method == "PUT" else None, "Content-Length": str(len(data)) if method == "PUT" else None,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }  # fmt: skip
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in fields.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(data or None)
        answer = connection.getresponse()
        headers_of_answer = {name.lower(): value for name, value in answer.getheaders()}
        text = answer.read()
    finally:
        connection.close()
    assert headers_of_answer.items() >= {**SECURITY_HEADERS, "content-security-policy": ANY_POLICY}.items()
    assert not [name for name in headers_of_answer if name.startswith("access-control")]
    assert "unsafe" not in headers_of_answer["content-security-policy"]
    assert headers_of_answer["content-type"] == "application/json"
    parsed = json.loads(text)
    assert parsed["schema"] == 2
    assert ("error" in parsed) == (answer.status != 200)
    if answer.status != 200:
        assert set(parsed["error"]) == {"kind", "message", "exit_code"}
        assert parsed["error"]["message"].isprintable()
        assert 10 < len(parsed["error"]["message"]) < 300
    return Answer(answer.status, headers_of_answer, parsed)


class _Anything(str):
    def __eq__(self, other: object) -> bool:
        return isinstance(other, str)

    __hash__ = str.__hash__


ANY_POLICY = _Anything()


def test_get_and_put_return_the_same_object(server: AlphaServer) -> None:
    before = server.shared_alpha.state.sequence
    put = ask(server, "PUT", '{"alpha": 0.25}').fields
    get = ask(server).fields
    coefficients = {"bright": 0.25, "dark": 0.75}
    expected = {"schema": 2, "sequence": before + 1, "alpha": coefficients, "wanted": coefficients, "source": "HTTP"}
    for fields in (put, get):
        assert {key: value for key, value in fields.items() if key != "frame"} == expected
        if server.kind == "page":
            assert set(fields["frame"]) == {"generation", "count", "problem"}
        else:
            assert "frame" not in fields


@pytest.mark.parametrize(
    ("body", "coefficient"),
    [
        ('{"alpha": 0.25}', 0.25),
        ('{"alpha": 1}', 1.0),
        ('{"alpha": {"bright": 0.3, "dark": 0.7}}', 0.3),
        ('{"alpha": {"dark": 0.25}}', 0.75),
        (' {"alpha": [0.125, 0.875]}\n', 0.125),
    ],
)
def test_put_sets_alpha(server: AlphaServer, body: str, coefficient: float) -> None:
    assert ask(server, "PUT", body).status == 200
    assert server.shared_alpha.state.requested.values == (coefficient, 1 - coefficient)
    assert ask(server, "PUT", body, Content_Type="application/json; charset=utf-8").status == 200
    assert ask(server, "PUT", body, Content_Type='application/json; Charset="UTF-8"').status == 200


def test_put_sets_a_point_of_the_plane(plane_server: AlphaServer) -> None:
    assert ask(plane_server, "PUT", '{"plane": [0.25, 0.5]}').status == 200
    assert plane_server.shared_alpha.state.requested.values == (0.375, 0.125, 0.375, 0.125)
    for body in ('{"plane": [0.25]}', '{"plane": 3}', '{"plane": [NaN, 0]}', '{"plane": [null, 0]}'):
        assert ask(plane_server, "PUT", body).status == 400
    assert plane_server.shared_alpha.state.sequence == 1


@pytest.mark.parametrize(
    "body",
    ["", " ", "x", "half", "0.4", "NaN", "nan", "1e999", "2", "-1", "{", "[", "{}", "[]", "[0.5, 0.5]", '"alpha 0.5"', '{"other": 1}',
     '{"bright": 0.3, "dark": 0.7}', '{"alpha": NaN}', '{"alpha": 1e999}', '{"alpha": 1.5}', '{"alpha": -1}', '{"alpha": null}',
     '{"alpha": true}', '{"alpha": "0.5"}', '{"alpha": "nobody=1"}', '{"alpha": [1]}', '{"alpha": []}', '{"alpha": {}}',
     '{"alpha": [0.5, 0.6]}', '{"alpha": {"alpha": 1}}', '{"alpha": {"bright": NaN}}', '{"alpha": {"bright": 1, "bright": 0}}',
     '{"alpha": 1, "alpha": 0}', '{"alpha": true, "x": 1}', '{"alpha": 1, "plane": [0, 0]}', '{"plane": [0, 0]}', "[" * 900,
     '{"alpha": ' + "1" * 900 + "}", '{"alpha": {"\\ud800": 1}}', "0.4\n0.5", b"\xff\xfe", b'{"alpha": 0.\xff}'],
)  # fmt: skip
def test_an_invalid_body_changes_nothing(server: AlphaServer, body: str | bytes) -> None:
    before = server.shared_alpha.state
    answer = ask(server, "PUT", body)
    assert answer.status == 400
    assert answer.fields["error"]["exit_code"] == 2
    assert server.shared_alpha.state == before


def test_a_body_of_another_type_or_size_is_refused(server: AlphaServer) -> None:
    body = '{"alpha": 0.5}'
    before = server.shared_alpha.state
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", None):
        assert ask(server, "PUT", body, Content_Type=content_type).status == 415
    assert ask(server, "PUT", body, Content_Type="application/json; charset=utf-16").status == 415
    for text, words in (
        ("[" * 900, "nested too deeply"),
        ('{"alpha": ' + "1" * 900 + "}", "larger than any float"),
        ('{"alpha": 0,4}', "has a point: 0.4"),
    ):
        message = ask(server, "PUT", text).fields["error"]["message"]
        assert words in message or text.startswith("[")
        assert "recursion" not in message
        assert "sys." not in message
    assert ask(server, "PUT", body, Content_Encoding="gzip").status == 415
    too_large = ask(server, "PUT", body + " " * MAX_BODY_BYTES)
    assert (too_large.status, too_large.fields["error"]["kind"]) == (413, "LimitError")
    assert ask(server, "PUT", body, Content_Length=None).status == 411
    chunked = ask(server, "PUT", b"e\r\n" + body.encode() + b"\r\n0\r\n\r\n", Content_Length=None, Transfer_Encoding="chunked")
    assert chunked.status == 411
    assert server.shared_alpha.state == before


HOSTS = {
    "localhost:{port}": True, "127.0.0.1:{port}": True, "[::1]:{port}": True, "LOCALHOST:{port}": True, "evil": False,
    "evil:{port}": False, "127.0.0.1.evil:{port}": False, "localhost.evil:{port}": False, "localhost": False, "127.0.0.1": False,
    "localhost:1": False, "192.168.0.7:{port}": False, "127.0.0.1:{port}.": False, "localhost:{port}@evil": False, "": False,
    "\u00c3\u00a9vil": False,
}  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_request_needs_the_right_host_origin_and_token(server: AlphaServer, host: str, method: str) -> None:
    named = host.format(port=server.port)
    origins = (
        None, f"http://{named.lower()}", "null", f"https://{named}", f"http://{named}.evil", "http://evil", f"http://{named}/",
        f"http://127.0.0.1:{server.port + 1}",
    )  # fmt: skip
    tokens = {
        f"Bearer {TOKEN}": 200,
        f"bearer {TOKEN}": 200,
        "Bearer wrong": 403,
        "Bearer": 401,
        f"Basic {TOKEN}": 401,
        None: 401,
    }
    before = server.shared_alpha.state.sequence
    passed = 0
    for origin in origins:
        for authorization, status in tokens.items():
            expected = 400 if not HOSTS[host] else 403 if origin not in origins[:2] else status
            headers = {"Origin": origin, "Authorization": authorization}
            answer = ask(server, method, '{"alpha": 0.5}' if method == "PUT" else b"", host=named, **headers)
            assert answer.status == expected, (host, origin, authorization)
            assert ("www-authenticate" in answer.headers) == (expected == 401)
            passed += expected == 200
    assert server.shared_alpha.state.sequence == before + passed * (method == "PUT")


def test_a_request_of_another_site_is_refused(server: AlphaServer) -> None:
    for method in ("GET", "PUT"):
        for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
            assert ask(server, method, '{"alpha": 0.5}' if method == "PUT" else b"", Sec_Fetch_Site=site).status == status


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "NONSENSE"])
def test_other_methods_are_refused(server: AlphaServer, method: str) -> None:
    before = server.shared_alpha.state
    answer = ask(server, method, Access_Control_Request_Method="PUT")
    assert answer.status == 405
    assert {"GET", "PUT"} <= set(answer.headers["allow"].split(", "))
    assert server.shared_alpha.state == before


@pytest.mark.parametrize("path", ["/alpha/x", "/../alpha", "/alphabet", "/nothing", "alpha"])
def test_other_paths_are_not_found(server: AlphaServer, path: str) -> None:
    before = server.shared_alpha.state
    assert ask(server, "PUT", '{"alpha": 0.5}', path).status == 404
    assert server.shared_alpha.state == before


@pytest.mark.parametrize("kind", SERVERS)
def test_more_connections_than_the_limit_get_503(kind: str) -> None:
    with SERVERS[kind](max_connections=4) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S) for _ in range(6)]
        answer = ask(server)
        assert (answer.status, answer.headers["retry-after"], answer.fields["error"]["kind"]) == (503, "2", "BusyError")
        for connection in idle:
            connection.close()
        wait_until(lambda: ask(server).status == 200)
