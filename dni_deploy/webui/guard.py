"""Guard: who may talk to the page's server; everything else gets a status before any of our code sees it."""

from __future__ import annotations

import hmac
from collections.abc import Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SHORTEST_TOKEN = 16
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' ws://{host}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Refusal(Exception):
    """A request that is not let in: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Guard:
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
        self, app: ASGIApp, token: str, port: int, *, loopback: bool = True, closing: Callable[[], bool] = lambda: False
    ) -> None:
        self.app, self.token, self.port, self.loopback, self.closing = app, token, port, loopback, closing
        self.cookie = f"dni-serve-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = _Headers(scope)
        try:
            host = self._check_host(scope, headers)
            self._check_origin(scope, headers, host)
            by_url = self._check_token(scope, headers)
            if self.closing():
                raise Refusal(503, "The server is shutting down.")
        except Refusal as refusal:
            response = JSONResponse({"error": refusal.sentence}, refusal.status, _safety(""))
            if refusal.status == 503:
                response.headers["retry-after"] = "2"
            if scope["type"] == "http":
                response.headers["connection"] = "close"  # a body that nobody reads is not waited for
            await response(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = _safety(host)
                if by_url:
                    more["set-cookie"] = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                message["headers"] = [
                    *message.get("headers", []), *((name.encode(), value.encode()) for name, value in more.items())
                ]  # fmt: skip
            await send(message)

        await self.app(scope, receive, sealed)

    def _check_host(self, scope: Scope, headers: _Headers) -> str:
        hosts = headers.all("host")
        if len(hosts) != 1:
            raise Refusal(400, "A request has exactly one Host header.")
        host = hosts[0].lower()
        names = list(LOOPBACK)
        server = scope.get("server")
        if not self.loopback and server:
            names.append(f"[{server[0]}]" if ":" in server[0] else server[0])
        known = {f"{name}:{self.port}" for name in names} | (set(names) if self.port == 80 else set())
        if host not in known:
            raise Refusal(400, "This server does not go by the name in the Host header.")
        return host

    def _check_origin(self, scope: Scope, headers: _Headers, host: str) -> None:
        origins = headers.all("origin")
        if len(origins) > 1 or (origins and origins[0] != f"http://{host}"):
            raise Refusal(403, "The request comes from another origin.")
        # A link to the page, clicked on another site, is a visit; everything else that another site sends is not.
        visit = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] == "/"
        if headers.all("sec-fetch-site")[:1] not in ([], ["same-origin"], ["none"]) and not visit:
            raise Refusal(403, "The request comes from another site.")

    def _check_token(self, scope: Scope, headers: _Headers) -> bool:
        """Returns whether the token was in the URL; raises Refusal."""
        in_url = _query(scope, "token")
        bearer = [value[7:] for value in headers.all("authorization") if value[:7].lower() == "bearer "]
        for given in (in_url, bearer):
            if given:
                if len(given) != 1 or not self._right(given[0]):
                    raise Refusal(403, "The token is wrong.")
                return given is in_url
        cookies = headers.cookies(self.cookie)
        if not cookies:
            raise Refusal(401, "The token is missing; open the address that dni-deploy serve printed.")
        if not any(self._right(cookie) for cookie in cookies):
            raise Refusal(403, "The token is wrong; open the address that dni-deploy serve printed.")
        reads = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        if not reads and not headers.all("origin"):
            raise Refusal(403, "A change needs the page's Origin, or the token in the address or as Authorization: Bearer.")
        return False

    def _right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())


class _Headers:
    """The raw headers, by lower-case name; bytes that are not ASCII can never be equal to anything of ours."""

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.pairs = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]

    def all(self, name: str) -> list[str]:
        return [value for known, value in self.pairs if known == name.encode()]

    def cookies(self, name: str) -> list[str]:
        found = []
        for value in self.all("cookie"):
            for part in value.split(";"):
                jar: SimpleCookie = SimpleCookie()
                try:
                    jar.load(part.strip())
                except CookieError:  # another program's cookie on this host
                    continue
                found += [morsel.value for key, morsel in jar.items() if key == name]
        return found


def _query(scope: Scope, name: str) -> list[str]:
    try:
        return parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=32).get(name, [])
    except ValueError:
        raise Refusal(400, "The address has too many parameters.") from None


def _safety(host: str) -> dict[str, str]:
    """What every answer carries: never cached, never guessed at, never framed, and no word of it to other sites."""
    return {
        "content-security-policy": POLICY.format(host=host) if host else "default-src 'none'",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "cross-origin-resource-policy": "same-origin",
        "cross-origin-opener-policy": "same-origin",
    }
