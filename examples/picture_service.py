"""Serves a picture over HTTP at the alpha of each request: GET /?alpha=0.3, or /?alpha=psnr=0.3,gan=0.7.

python examples/picture_service.py sr.dni in.png --port 8000

One session serves all requests: every frame has exactly its own alpha. It listens on this machine alone.
"""

import argparse
import io
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

import dni_deploy as dni


def make_server(session: dni.Session, frame: np.ndarray, port: int) -> ThreadingHTTPServer:
    """Makes the server; `serve_forever` runs it.

    Args:
        session: Stays open while the server runs.
        frame: uint8 (H, W, 3), RGB.
        port: 0 takes a free one.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            try:
                picture = session(frame, alpha=query.get("alpha", ["0.5"])[0])
            except dni.CoefficientsError as error:
                self.reply(400, "text/plain; charset=utf-8", str(error).encode())
                return
            png = io.BytesIO()
            Image.fromarray(picture).save(png, "PNG")
            self.reply(200, "image/png", png.getvalue())

        def reply(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle")
    parser.add_argument("picture")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    frame = np.asarray(Image.open(arguments.picture).convert("RGB"))
    with dni.open_session(arguments.bundle) as session, make_server(session, frame, arguments.port) as server:
        print(f"http://127.0.0.1:{server.server_port}/?alpha=0.3", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
