"""A site of `web` on a plain static server, and a browser page on it."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


def find_runtime() -> Path:
    """The folder of ONNX Runtime Web, made by `npm install --prefix FOLDER onnxruntime-web@1.30.0`; skips without one."""
    folder = os.environ.get("DNI_ONNXRUNTIME_WEB", "")
    if not folder:
        pytest.skip("DNI_ONNXRUNTIME_WEB names no folder")
    return Path(folder)


@contextmanager
def serve_folder(folder: Path, *, isolated: bool = False) -> Iterator[str]:
    """Serves a folder as any static host does; `isolated` sends the headers that threads need. Yields its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            if isolated:
                self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class SiteTab:
    """A page of a site, which records every message of its console and every request beyond the site."""

    def __init__(
        self, browser: Any, address: str, link: str = "", *, width: int = 1280, scheme: str = "light", init_script: str = ""
    ) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, accept_downloads=True)
        self.page = self.context.new_page()
        if init_script:
            self.page.add_init_script(init_script)
        self.problems: list[str] = []
        self.outside: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.context.on("request", lambda request: self._note_request(request.url, address))
        self.page.goto(f"{address}{link}")

    def _note_request(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.outside.append(url)

    def evaluate(self, expression: str, argument: object = None) -> Any:
        return self.page.evaluate(expression, argument)

    def until(self, expression: str, seconds: float = 90.0) -> None:
        """Waits by polling; the page's content security policy forbids playwright's wait_for_function."""
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            shown = self.evaluate("document.body.innerText")
            assert time.monotonic() < end, (
                f"{expression}: {self.evaluate('JSON.stringify(window.dni)')} {self.problems} {shown}"
            )
            self.page.wait_for_timeout(20)

    def wait_for_picture(self, after: str = "0", seconds: float = 90.0) -> None:
        """Waits for a whole picture with the newest settings."""
        self.until(f"window.dni && dni.frames > {after} && document.getElementById('progress').hidden", seconds)

    def read_pixels(self) -> NDArray[np.uint8]:
        """Reads the picture after the network, uint8 (H, W, 3)."""
        png = base64.b64decode(self.evaluate("document.getElementById('picture').toDataURL()").partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def get_text(self, name: str) -> str:
        text: str = self.evaluate(f"document.getElementById('{name}').textContent")
        return text

    def close(self) -> None:
        assert self.problems == []
        assert self.outside == []
        self.context.close()
