"""An S3 server on this machine for tests: moto behind a log of requests, with PUTs that fail on demand. Run as a script.

It prints its port, and appends a line to the file of its first argument for each request. A PUT of a key in a folder "refused"
gives 503, one in a folder "once" only the first time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any


def main(log_path: str) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app  # type: ignore[import-not-found]
    from werkzeug.serving import WSGIRequestHandler, make_server  # type: ignore[import-not-found]

    class Handler(WSGIRequestHandler):  # type: ignore[misc]
        protocol_version = "HTTP/1.1"

        def log_request(self, *arguments: object) -> None:
            """Keeps stderr empty."""

    backend = DomainDispatcherApplication(create_backend_app)
    failed: set[str] = set()

    def application(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        with open(log_path, "a", encoding="utf-8") as log:
            log.write(f"{method} {path} {environment.get('QUERY_STRING', '')}\n")
        if method == "PUT" and ("/refused/" in path or ("/once/" in path and path not in failed)):
            failed.add(path)
            environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
            body = b"<Error><Code>ServiceUnavailable</Code><Message>Reduce your hopes</Message></Error>"
            start_response("503 Service Unavailable", [("Content-Length", str(len(body)))])
            return [body]
        answer: Iterable[bytes] = backend(environment, start_response)
        return answer

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
