"""Access control: every combination of Host, Origin and token, by GET, PUT and WebSocket, on a real server."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("uvicorn", reason="the page's server needs the extra `serve`")

from tests.dni_deploy.webui.page_server import TOKEN, PageFixture, serve_page


@pytest.fixture(scope="module")
def live() -> Iterator[PageFixture]:
    with serve_page() as opened:
        yield opened


HOSTS = (
    "127.0.0.1",
    "localhost",
    "[::1]",
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "192.168.1.7",
    "",
)
OURS = HOSTS[:3]


def ask(
    live: PageFixture, method: str, path: str, host: str | None, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Returns status, headers and body; host None is the server's own."""
    connection = http.client.HTTPConnection("127.0.0.1", live.page.port, timeout=5)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", live.origin[7:] if host is None else host)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body or method == "PUT":
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kind", ["GET", "PUT", "WS"])
def test_a_token_in_the_url_needs_the_right_host_and_origin(live: PageFixture, host: str, kind: str) -> None:
    port = live.page.port
    named = f"{host}:{port}"
    origins = (
        None, f"http://{named}", "null", f"https://{named}", f"http://{named}.evil.example", "http://evil.example",
        f"http://127.0.0.1:{port + 1}", f"http://{named}/",
    )  # fmt: skip
    for origin in origins:
        for token in (TOKEN, "wrong", "", None):
            headers = {} if origin is None else {"Origin": origin}
            query = "" if token is None else f"?token={token}"
            if kind == "WS":
                status, _, _ = ask(live, "GET", f"/frames{query}", named, **headers, **UPGRADE)
            elif kind == "PUT":
                body = b'{"alpha": 0.5}'
                status, _, _ = ask(live, "PUT", f"/alpha{query}", named, body, Content_Type="application/json", **headers)
            else:
                status, _, _ = ask(live, "GET", f"/alpha{query}", named, **headers)
            if host not in OURS:
                expected = 400
            elif origin not in (None, f"http://{named}"):
                expected = 403
            else:
                expected = 401 if token is None else 403 if token != TOKEN else 101 if kind == "WS" else 200
            assert status == expected, (kind, host, origin, token)


def test_a_malformed_host_is_refused(live: PageFixture) -> None:
    port = live.page.port
    malformed = (f"127.0.0.1:{port + 1}", f"127.0.0.1:{port}.", f"localhost:{port}@evil.example", "\u00c3\u00a9vil")
    for host in ("127.0.0.1", *malformed):
        assert ask(live, "GET", f"/alpha?token={TOKEN}", host)[0] == 400
    two_hosts = f"127.0.0.1:{port}\r\nHost: 127.0.0.1:{port}"
    for lines in (f"GET / HTTP/1.1\r\nHost: {two_hosts}\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.0\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), 5) as raw:
            raw.sendall(lines.encode())
            assert raw.recv(100).split()[1] == b"400"


def test_the_cookie_authenticates_but_needs_an_origin_to_change_alpha(live: PageFixture) -> None:
    status, headers, page = ask(live, "GET", f"/?token={TOKEN}", None)
    assert (status, page[:15]) == (200, b"<!doctype html>")
    cookie, *attributes = headers["set-cookie"].split("; ")
    assert set(attributes) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert f"{live.page.port}" in cookie.partition("=")[0]  # cookies do not keep ports apart
    assert ask(live, "GET", "/", None, Cookie=cookie)[0] == 200
    assert ask(live, "GET", "/", None, Cookie=f"odd[=1; {cookie}; b=2")[0] == 200
    assert ask(live, "GET", "/", None, Cookie=cookie + "x")[0] == 403
    body = b'{"alpha": 0.25}'
    put = {"Content_Type": "application/json", "Cookie": cookie}
    assert ask(live, "PUT", "/alpha", None, body, **put)[0] == 403
    assert ask(live, "PUT", "/alpha", None, body, Origin="null", **put)[0] == 403
    assert ask(live, "PUT", "/alpha", None, body, Origin=live.origin, **put)[0] == 200
    assert ask(live, "GET", "/frames", None, Cookie=cookie, **UPGRADE)[0] == 403
    assert ask(live, "GET", "/frames", None, Cookie=cookie, Origin=live.origin, **UPGRADE)[0] == 101
    assert ask(live, "GET", "/alpha", None, Authorization=f"Bearer {TOKEN}")[0] == 200
    assert ask(live, "GET", f"/alpha?token={TOKEN}&token={TOKEN}", None)[0] == 403
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # the server need not read all of it
        assert ask(live, "GET", f"/alpha?token={'x' * 1_000_000}", None)[0] in (400, 431)


def test_a_request_of_another_site_is_refused(live: PageFixture) -> None:
    query = f"?token={TOKEN}"
    for site in ("cross-site", "same-site"):
        assert ask(live, "GET", f"/alpha{query}", None, Sec_Fetch_Site=site)[0] == 403
        assert ask(live, "GET", f"/frames{query}", None, Sec_Fetch_Site=site, **UPGRADE)[0] == 403
        assert ask(live, "GET", f"/{query}", None, Sec_Fetch_Site=site)[0] == 200  # a link that was clicked
    assert ask(live, "GET", f"/alpha{query}", None, Sec_Fetch_Site="same-origin")[0] == 200
    for method in ("OPTIONS", "POST", "DELETE", "TRACE"):
        status, headers, _ = ask(live, method, f"/alpha{query}", None, Access_Control_Request_Method="PUT")
        assert status == 405
        assert not [name for name in headers if name.startswith("access-control")]


def test_every_answer_has_security_headers_and_none_shows_a_path(live: PageFixture) -> None:
    paths = ("/", "/alpha", "/static/page.css", "/static/nothing", "/nothing")
    for path in paths:
        for query in (f"?token={TOKEN}", "?token=wrong", ""):
            _, headers, body = ask(live, "GET", path + query, None)
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert "unsafe" not in headers["content-security-policy"]
            assert "server" not in headers
            assert not any(word in body for word in (b"/tmp", b"/home", b"Traceback", b"dni_deploy/"))


@pytest.mark.parametrize(
    "name",
    [
        "..%2fapp.py",
        "%2e%2e/app.py",
        "..\\app.py",
        "/etc/passwd",
        "page.css%00",
        "page/page.css",
        "page.css/",
        ".",
        "",
        "PAGE.CSS",
        "page.html",
    ],
)
def test_no_path_leads_out_of_the_page_folder(live: PageFixture, name: str) -> None:
    assert ask(live, "GET", f"/static/{name}?token={TOKEN}", None)[0] in (404, 405, 307)
    assert ask(live, "GET", f"/{name}?token={TOKEN}", None)[0] in ((200,) if name == "" else (404, 400))


def test_files_are_served_with_their_types(live: PageFixture) -> None:
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        status, headers, _ = ask(live, "GET", f"/static/{name}?token={TOKEN}", None)
        assert (status, headers["content-type"]) == (200, f"{kind}; charset=utf-8")
    status, _, body = ask(live, "GET", f"/alpha?token={TOKEN}", None)
    assert set(json.loads(body)["alpha"]) == {"bright", "dark"}
