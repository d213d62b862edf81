"""Guard: who may talk to the page's server; everything else gets a status before any of our code sees it."""

from __future__ import annotations

import hmac
from collections.abc import Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MIN_TOKEN_LENGTH = 16
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' ws://{host}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class RequestRefusedError(Exception):
    """A request that is not let in: an HTTP status and one sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class RequestGuard:
    """ASGI middleware around the application.

    token     what the URL carries; compared in constant time.
    port      that the server listens on; part of the Host header and of the cookie's name (cookies do not keep ports apart).
    loopback  False where the server listens to other machines: then the address that the connection came in on is a Host, too.
    closing   tells whether the server is shutting down; requests get 503 then.

    Four questions, in this order: is the Host a name of ours (a rebound DNS name is not), is the Origin exactly ours (a page of
    another site, or "null", is not), does the browser say that another site sent it, and is the token right. A cookie alone
    never changes anything: it counts for a change only together with the Origin that browsers then send.
    """

    def __init__(
        self, app: ASGIApp, token: str, port: int, *, loopback: bool = True, is_closing: Callable[[], bool] = lambda: False
    ) -> None:
        self.app, self.token, self.port, self.loopback, self.is_closing = app, token, port, loopback, is_closing
        self.cookie_name = f"dni-serve-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = _Headers(scope)
        try:
            host = self._check_host(scope, headers)
            self._check_origin(scope, headers, host)
            by_url = self._check_token(scope, headers)
            if self.is_closing():
                raise RequestRefusedError(503, "The server is shutting down.")
        except RequestRefusedError as refusal:
            response = JSONResponse({"error": refusal.message}, refusal.status, _make_security_headers(""))
            if refusal.status == 503:
                response.headers["retry-after"] = "2"
            if scope["type"] == "http":
                response.headers["connection"] = "close"  # a body that nobody reads is not waited for
            await response(scope, receive, send)
            return

        async def add_security_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = _make_security_headers(host)
                if by_url:
                    more["set-cookie"] = f"{self.cookie_name}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                message["headers"] = [
                    *message.get("headers", []), *((name.encode(), value.encode()) for name, value in more.items())
                ]  # fmt: skip
            await send(message)

        await self.app(scope, receive, add_security_headers)

    def _check_host(self, scope: Scope, headers: _Headers) -> str:
        hosts = headers.get_all("host")
        if len(hosts) != 1:
            raise RequestRefusedError(400, "A request has exactly one Host header.")
        host = hosts[0].lower()
        names = list(LOOPBACK_HOSTS)
        server = scope.get("server")
        if not self.loopback and server:
            names.append(f"[{server[0]}]" if ":" in server[0] else server[0])
        known = {f"{name}:{self.port}" for name in names} | (set(names) if self.port == 80 else set())
        if host not in known:
            raise RequestRefusedError(400, "This server does not go by the name in the Host header.")
        return host

    def _check_origin(self, scope: Scope, headers: _Headers, host: str) -> None:
        origins = headers.get_all("origin")
        if len(origins) > 1 or (origins and origins[0] != f"http://{host}"):
            raise RequestRefusedError(403, "The request comes from another origin.")
        # A link to the page, clicked on another site, is a visit; everything else that another site sends is not.
        visit = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] == "/"
        if headers.get_all("sec-fetch-site")[:1] not in ([], ["same-origin"], ["none"]) and not visit:
            raise RequestRefusedError(403, "The request comes from another site.")

    def _check_token(self, scope: Scope, headers: _Headers) -> bool:
        """Returns whether the token was in the URL; raises Refusal."""
        in_url = _get_query_values(scope, "token")
        bearer = [value[7:] for value in headers.get_all("authorization") if value[:7].lower() == "bearer "]
        for given in (in_url, bearer):
            if given:
                if len(given) != 1 or not self._is_right_token(given[0]):
                    raise RequestRefusedError(403, "The token is wrong.")
                return given is in_url
        cookies = headers.get_cookies(self.cookie_name)
        if not cookies:
            raise RequestRefusedError(401, "The token is missing; open the address that dni-deploy serve printed.")
        if not any(self._is_right_token(cookie) for cookie in cookies):
            raise RequestRefusedError(403, "The token is wrong; open the address that dni-deploy serve printed.")
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        if not reads and not headers.get_all("origin"):
            raise RequestRefusedError(
                403, "A change needs the page's Origin, or the token in the address or as Authorization: Bearer."
            )
        return False

    def _is_right_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())


class _Headers:
    """The raw headers, by lower-case name; bytes that are not ASCII can never be equal to anything of ours."""

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.pairs = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]

    def get_all(self, name: str) -> list[str]:
        return [value for known, value in self.pairs if known == name.encode()]

    def get_cookies(self, name: str) -> list[str]:
        found = []
        for value in self.get_all("cookie"):
            for part in value.split(";"):
                jar: SimpleCookie = SimpleCookie()
                try:
                    jar.load(part.strip())
                except CookieError:  # another program's cookie on this host
                    continue
                found += [morsel.value for key, morsel in jar.items() if key == name]
        return found


def _get_query_values(scope: Scope, name: str) -> list[str]:
    try:
        return parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=32).get(name, [])
    except ValueError:
        raise RequestRefusedError(400, "The address has too many parameters.") from None


def _make_security_headers(host: str) -> dict[str, str]:
    """What every answer carries: never cached, never guessed at, never framed, and no word of it to other sites."""
    return {
        "content-security-policy": CONTENT_SECURITY_POLICY.format(host=host) if host else "default-src 'none'",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
    }
