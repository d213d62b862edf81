"""The decisions of the request guard without a server; tests/end_to_end/test_alpha_http.py uses one."""

from __future__ import annotations

import pytest

from dni_deploy.control.request_guard import (
    RequestGuard,
    RequestHead,
    RequestRefusedError,
    check_body_head,
    is_loopback_host,
    make_response_headers,
    make_token,
    validate_token,
)
from dni_deploy.errors import BusyError, LimitError, UsageError

TOKEN = "a-token-of-the-tests"
PORT = 8765
HOST = f"127.0.0.1:{PORT}"
COOKIE_NAME = f"dni-serve-{PORT}"


def make_head(method: str = "GET", path: str = "/alpha", query: str = "", **headers: str) -> RequestHead:
    pairs = {"host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return RequestHead(method, path, tuple(pairs.items()), query)


def status_of(guard: RequestGuard, head: RequestHead) -> int:
    try:
        guard.admit(head)
    except RequestRefusedError as refusal:
        return refusal.status
    return 200


@pytest.fixture
def page_guard() -> RequestGuard:
    return RequestGuard(TOKEN, PORT, cookie_name=COOKIE_NAME)


def test_port_80_may_be_left_out_of_the_host() -> None:
    guard = RequestGuard(None, 80, extra_hosts=("Studio.local",))
    for host, status in (("localhost", 200), ("localhost:80", 200), ("studio.local", 200), ("localhost:8080", 400)):
        assert status_of(guard, make_head(host=host)) == status
    assert status_of(RequestGuard(None, PORT), make_head(host="localhost")) == 400


def test_an_address_of_this_machine_is_a_host_only_where_the_connection_came_in_at_it() -> None:
    guard = RequestGuard(None, PORT)
    for local_host, host in (("192.168.0.7", f"192.168.0.7:{PORT}"), ("fe80::1", f"[fe80::1]:{PORT}")):
        head = make_head(host=host)
        assert status_of(guard, head) == 400
        assert status_of(guard, RequestHead(head.method, head.path, head.headers, local_host=local_host)) == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        f"http://{HOST}.evil.example",
        f"https://{HOST}",
        f"http://{HOST}/",
        "null",
        "",
        HOST,
        "http://127.0.0.1",
    ],
)
def test_only_exactly_this_server_is_an_origin(origin: str) -> None:
    assert status_of(RequestGuard(None, PORT), make_head("PUT", origin=origin)) == 403
    assert status_of(RequestGuard(None, PORT), make_head("PUT", origin=f"http://{HOST}")) == 200


def test_a_duplicate_host_or_origin_is_refused() -> None:
    guard = RequestGuard(None, PORT)
    for name, value, status in (("host", HOST, 400), ("origin", f"http://{HOST}", 403)):
        pairs = (*make_head().headers, (name, value))
        twice = (*pairs, (name, value))
        assert status_of(guard, RequestHead("GET", "/alpha", twice if name == "origin" else pairs)) == status
    assert status_of(guard, RequestHead("GET", "/alpha", ())) == 400


def test_a_link_on_another_site_may_open_the_page_and_nothing_else(page_guard: RequestGuard) -> None:
    query = f"token={TOKEN}"
    assert status_of(page_guard, make_head(path="/", query=query, sec_fetch_site="cross-site")) == 200
    assert status_of(page_guard, make_head(path="/alpha", query=query, sec_fetch_site="cross-site")) == 403
    assert status_of(page_guard, make_head("PUT", "/", query, sec_fetch_site="cross-site")) == 403
    websocket = RequestHead("GET", "/", make_head(sec_fetch_site="cross-site").headers, query, is_websocket=True)
    assert status_of(page_guard, websocket) == 403


def test_a_token_in_the_url_or_a_cookie_counts_only_where_there_is_a_page(page_guard: RequestGuard) -> None:
    listener_guard = RequestGuard(TOKEN, PORT)
    cookie = f"other=1; odd[=2; {COOKIE_NAME}={TOKEN}"
    for head, status in ((make_head(query=f"token={TOKEN}"), 401), (make_head(cookie=cookie), 401)):
        assert status_of(page_guard, head) == 200
        assert status_of(listener_guard, head) == status
    assert page_guard.admit(make_head(query=f"token={TOKEN}")).has_token_in_url
    assert not page_guard.admit(make_head(authorization=f"Bearer {TOKEN}")).has_token_in_url
    assert status_of(page_guard, make_head(query=f"token={TOKEN}&token={TOKEN}")) == 403
    assert status_of(page_guard, make_head(query="&".join(["x=1"] * 40))) == 400
    assert status_of(page_guard, make_head(query="token=wrong", authorization=f"Bearer {TOKEN}")) == 403


def test_a_cookie_changes_something_only_together_with_the_origin(page_guard: RequestGuard) -> None:
    cookie = f"{COOKIE_NAME}={TOKEN}"
    assert status_of(page_guard, make_head("PUT", cookie=cookie)) == 403
    assert status_of(page_guard, make_head("PUT", cookie=cookie, origin=f"http://{HOST}")) == 200
    assert status_of(page_guard, RequestHead("GET", "/frames", make_head(cookie=cookie).headers, is_websocket=True)) == 403
    assert status_of(page_guard, make_head(cookie=f"{COOKIE_NAME}=wrong")) == 403


def test_the_error_of_a_refusal_follows_from_its_status() -> None:
    for status, kind in ((400, UsageError), (401, UsageError), (413, LimitError), (503, BusyError)):
        assert type(RequestRefusedError(status, "No.").error) is kind


BODY = {"content_length": "20", "content_type": "application/json"}


@pytest.mark.parametrize(
    ("changes", "with_length", "without_length"),
    [
        ({}, 20, 20),
        ({"content_length": "1000"}, 1000, 1000),
        ({"content_type": "Application/JSON; charset=utf-8"}, 20, 20),
        ({"content_encoding": "identity"}, 20, 20),
        ({"content_length": None}, "411", None),
        ({"content_length": "-1"}, "411", "411"),
        ({"content_length": "\u0663"}, "411", "411"),
        ({"content_length": "2_0"}, "411", "411"),
        ({"transfer_encoding": "chunked"}, "411", 20),
        ({"content_length": None, "transfer_encoding": "chunked"}, "411", None),
        ({"content_length": "1001"}, "413", "413"),
        ({"content_length": "9" * 5000}, "413", "413"),
        ({"content_type": None}, "415", "415"),
        ({"content_type": "text/plain"}, "415", "415"),
        ({"content_encoding": "gzip"}, "415", "415"),
    ],
)
def test_the_head_of_a_body(changes: dict[str, str | None], with_length: object, without_length: object) -> None:
    head = make_head("PUT", **{name: value for name, value in {**BODY, **changes}.items() if value is not None})
    for requires_length, expected in ((True, with_length), (False, without_length)):
        try:
            result: object = check_body_head(head, ("application/json",), 1000, requires_length=requires_length)
        except RequestRefusedError as refusal:
            result = str(refusal.status)
        assert result == expected


def test_a_token_is_long_and_survives_a_url() -> None:
    assert validate_token(make_token()) != make_token()
    assert len(make_token()) >= 43  # 256 bits
    for token in ("x" * 15, "x" * 257, "sixteen letters !", "sixteen-letters-\u00e9", ""):
        with pytest.raises(UsageError, match="16 to 256"):
            validate_token(token)


def test_only_loopback_is_loopback() -> None:
    assert all(is_loopback_host(host) for host in ("127.0.0.1", "127.8.8.8", "localhost", "::1"))
    assert not any(is_loopback_host(host) for host in ("0.0.0.0", "::", "", "192.168.0.7", "example.org"))


def test_headers_of_a_status() -> None:
    assert make_response_headers(401)["www-authenticate"] == "Bearer"
    assert make_response_headers(503)["retry-after"] == "2"
    assert make_response_headers(200)["cache-control"] == "no-store"
