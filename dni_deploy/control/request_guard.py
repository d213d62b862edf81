"""Decides which HTTP requests may reach the alpha of a running session: name, origin, token and size. Needs no web framework.

A page of another site in a browser on this machine can send requests to every port of it, so a port on loopback is not private.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import NamedTuple
from urllib.parse import parse_qs

from dni_deploy.errors import BusyError, DniError, LimitError, UsageError

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
MIN_TOKEN_LENGTH, MAX_TOKEN_LENGTH = 16, 256
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""Headers of every response: never cached, of no guessed type, never framed, and not to be read by other sites."""

_HEADERS_BY_STATUS = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "2"}}
_ERROR_BY_STATUS: dict[int, type[DniError]] = {413: LimitError, 500: DniError, 503: BusyError}


@dataclass(frozen=True)
class RequestLimits:
    """Limits of an HTTP server for control; tests lower them.

    Attributes:
        max_connections: Number of open connections, beyond which a request is answered with 503.
        max_body_bytes: Size of a JSON body.
        max_header_bytes: Size of all headers of one request.
        request_timeout_s: Longest time until the headers of a request are complete, and until the next part of its body.
    """

    max_connections: int = 16
    max_body_bytes: int = 1 << 16
    max_header_bytes: int = 1 << 16
    request_timeout_s: float = 10.0


class RequestRefusedError(Exception):
    """A request is refused.

    Attributes:
        status: HTTP status of the response.
        error: The error that the response describes; its kind follows from the status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.error = status, _ERROR_BY_STATUS.get(status, UsageError)(message)


@dataclass(frozen=True)
class RequestHead:
    """All that is known of a request before its body is read.

    Attributes:
        method: HTTP method, in upper case; GET for a WebSocket.
        path: Path, without the query.
        headers: Pairs of a name in lower case and a value, in the order in which they came. Bytes are decoded as Latin-1, so
            that one that is not ASCII equals nothing that is expected.
        query: What follows the question mark.
        is_websocket: Whether a WebSocket is to be opened.
        local_host: Address of this machine at which the connection came in, where that counts as a name of the server;
            else None.
    """

    method: str
    path: str
    headers: Sequence[tuple[str, str]]
    query: str = ""
    is_websocket: bool = False
    local_host: str | None = None

    def get_all(self, name: str) -> list[str]:
        """Returns all values of a header, whose name is given in lower case."""
        return [value for header, value in self.headers if header == name]

    @property
    def is_read(self) -> bool:
        """Whether the request changes nothing."""
        return self.method in ("GET", "HEAD") and not self.is_websocket


class Admission(NamedTuple):
    """What the guard found out about a request that it let in.

    Attributes:
        host: The Host header, in lower case: one of the names of this server.
        has_token_in_url: Whether the request proved itself by the token in its URL.
    """

    host: str
    has_token_in_url: bool


class RequestGuard:
    """Checks the head of every request before any other code sees it.

    Four questions, in this order: Is the Host a name of this server? (A rebound DNS name is not.) Is the Origin exactly this
    server? (A page of another site, or "null", is not.) Does the browser say that another site sent the request? Is the token
    right? A cookie alone never changes anything: it counts for a change only together with the Origin that browsers then send.

    Thread safety: immutable, except that `port` may be set before the first request; any thread may call `admit`.
    """

    def __init__(
        self, token: str | None, port: int, *, extra_hosts: Sequence[str] = (), cookie_name: str | None = None
    ) -> None:
        """Creates a guard.

        Args:
            token: The secret that a request has to carry; None where none is required.
            port: TCP port of the server, which is part of the Host header.
            extra_hosts: Names of the server besides those of loopback; an IPv6 address in brackets.
            cookie_name: Name of the cookie that may carry the token; the token may then be in the URL, too. None: only the
                header `Authorization: Bearer` counts, for a server that has no page.
        """
        self.port, self.cookie_name = port, cookie_name
        self._token = token
        self._hosts = {name.lower() for name in (*LOOPBACK_NAMES, *extra_hosts)}

    def admit(self, head: RequestHead) -> Admission:
        """Decides on a request.

        Raises:
            RequestRefusedError: 400 for a wrong Host, 401 without a token, 403 for a wrong token or another origin.
        """
        host = self._check_host(head)
        self._check_origin(head, host)
        return Admission(host, self._token is not None and self._check_token(head, self._token))

    def _check_host(self, head: RequestHead) -> str:
        hosts = head.get_all("host")
        if len(hosts) != 1:
            raise RequestRefusedError(400, "A request has exactly one Host header.")
        host = hosts[0].lower()
        names = self._hosts if head.local_host is None else {*self._hosts, bracket_host(head.local_host)}
        if host not in {f"{name}:{self.port}" for name in names} and not (self.port == 80 and host in names):
            raise RequestRefusedError(400, "The Host header is not a name of this server.")
        return host

    def _check_origin(self, head: RequestHead, host: str) -> None:
        origins = head.get_all("origin")
        if len(origins) > 1 or (origins and origins[0] != f"http://{host}"):
            raise RequestRefusedError(403, "The request comes from another origin.")
        # A link to the page that is clicked on another site is a visit; nothing else that another site sends is let in.
        is_visit = head.is_read and head.path == "/"
        if not is_visit and not set(head.get_all("sec-fetch-site")) <= {"same-origin", "none"}:
            raise RequestRefusedError(403, "The request comes from another site.")

    def _check_token(self, head: RequestHead, token: str) -> bool:
        """Returns whether the token was in the URL."""
        in_url = [] if self.cookie_name is None else _get_query_values(head, "token")
        bearer = [value[7:] for value in head.get_all("authorization") if value[:7].lower() == "bearer "]
        for candidates in (in_url, bearer):
            if candidates:
                if len(candidates) != 1 or not _is_equal(candidates[0], token):
                    raise RequestRefusedError(403, "The token is wrong.")
                return candidates is in_url
        cookies = [] if self.cookie_name is None else _get_cookies(head, self.cookie_name)
        if not cookies:
            raise RequestRefusedError(
                401, "The token is missing; send the one that was printed with the address, as Authorization: Bearer TOKEN."
            )
        if not any(_is_equal(cookie, token) for cookie in cookies):
            raise RequestRefusedError(403, "The token is wrong; open the address that was printed.")
        if not head.is_read and not head.get_all("origin"):
            raise RequestRefusedError(
                403, "A change needs the page's Origin, or the token in the address or as Authorization: Bearer."
            )
        return False


def check_body_head(
    head: RequestHead, content_types: Sequence[str], max_bytes: int, *, requires_length: bool = True
) -> int | None:
    """Checks what the headers say about a body, before any of it is read.

    Args:
        head: The request.
        content_types: Allowed media types, in lower case.
        max_bytes: Largest size of the body.
        requires_length: Whether the size has to be stated; without it a body may come in chunks.

    Returns:
        The size of the body in bytes; None where it is not stated.

    Raises:
        RequestRefusedError: 411 without one Content-Length, 415 for another type or a compressed body, 413 for one that is too
            large.
    """
    lengths = head.get_all("content-length")
    stated = len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit()
    if (lengths and not stated) or (requires_length and (not stated or head.get_all("transfer-encoding"))):
        raise RequestRefusedError(411, "The request needs one Content-Length, and no Transfer-Encoding.")
    types = [value.partition(";")[0].strip().lower() for value in head.get_all("content-type")]
    if len(types) != 1 or types[0] not in content_types:
        raise RequestRefusedError(415, f"The Content-Type of the body has to be {' or '.join(content_types)}.")
    if any(charset not in ("utf-8", "us-ascii") for charset in _get_charsets(head)):
        raise RequestRefusedError(415, "The charset of the body has to be utf-8.")
    if [value.lower() for value in head.get_all("content-encoding")] not in ([], ["identity"]):
        raise RequestRefusedError(415, "A compressed body is not accepted.")
    if stated and (len(lengths[0]) > 18 or int(lengths[0]) > max_bytes):
        raise body_too_large_error(max_bytes)
    return int(lengths[0]) if stated else None


def _get_charsets(head: RequestHead) -> list[str]:
    parameters = [part.partition("=") for value in head.get_all("content-type") for part in value.split(";")[1:]]
    return [value.strip().strip('"').lower() for name, _, value in parameters if name.strip().lower() == "charset"]


def body_too_large_error(max_bytes: int) -> RequestRefusedError:
    """Makes the error for a body of more than `max_bytes`."""
    return RequestRefusedError(413, f"The body is too large; the limit is {max_bytes:,} bytes.")


def make_response_headers(status: int) -> dict[str, str]:
    """Makes the headers that a response of this status carries besides those of its body."""
    return {**SECURITY_HEADERS, **_HEADERS_BY_STATUS.get(status, {})}


def make_token() -> str:
    """Makes a random token of 256 bits."""
    return secrets.token_urlsafe(32)


def validate_token(token: str) -> str:
    """Returns the token.

    Raises:
        UsageError: It is too short to be secret, or has characters that a URL would change.
    """
    if not MIN_TOKEN_LENGTH <= len(token) <= MAX_TOKEN_LENGTH or not all(
        character.isascii() and (character.isalnum() or character in "-_") for character in token
    ):
        raise UsageError(f"A token has {MIN_TOKEN_LENGTH} to {MAX_TOKEN_LENGTH} letters, digits, - or _.")
    return token


def is_loopback_host(host: str) -> bool:
    """Returns whether only this machine can reach the address."""
    return host in ("localhost", "::1") or host.startswith("127.")


def bracket_host(host: str) -> str:
    """Returns a name or address as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def _is_equal(candidate: str, token: str) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(candidate.encode("utf-8", "replace"), token.encode())


def _get_query_values(head: RequestHead, name: str) -> list[str]:
    try:
        return parse_qs(head.query, keep_blank_values=True, max_num_fields=32).get(name, [])
    except ValueError:
        raise RequestRefusedError(400, "The address has too many parameters.") from None


def _get_cookies(head: RequestHead, name: str) -> list[str]:
    values = []
    for part in ";".join(head.get_all("cookie")).split(";"):
        jar: SimpleCookie = SimpleCookie()
        try:
            jar.load(part.strip())
        except CookieError:  # a cookie of another program on this host
            continue
        values += [morsel.value for key, morsel in jar.items() if key == name]
    return values
