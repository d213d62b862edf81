"""Plain requests: bodies that are too large, of another type, or never end, and uploads that are not images."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("uvicorn", reason="the page's server needs the extra `serve`")

import contextlib

from websockets.sync.client import connect

from dni_deploy.webui.guard import PageLimits
from tests.dni_deploy.webui.page_server import TOKEN, PageFixture, serve_page
from tests.dni_deploy.webui.test_guard import ask
from tests.dni_deploy.webui.test_video_source import write_video

QUERY = f"?token={TOKEN}"


@pytest.fixture(scope="module")
def live() -> Iterator[PageFixture]:
    with serve_page(limits=PageLimits(max_body_bytes=1000, max_image_bytes=100_000, request_timeout_s=0.4)) as opened:
        yield opened


def put(
    live: PageFixture, body: bytes, kind: str = "application/json", path: str = "/alpha", **headers: str
) -> tuple[int, str]:
    status, _, answer = ask(live, "PUT", path + QUERY, None, body, Content_Type=kind, **headers)
    return status, json.loads(answer).get("error", {}).get("message", "")


def raw(live: PageFixture, *parts: bytes, wait: float = 0.0) -> int:
    """Sends raw bytes and returns the status of the response, or 0 if the connection ended without one."""
    with socket.create_connection(("127.0.0.1", live.page.port), 5) as opened:
        try:
            for part in parts:
                opened.sendall(part.replace(b"HOST", f"127.0.0.1:{live.page.port}".encode()))
                time.sleep(wait)
            answer = opened.recv(100)
        except (ConnectionResetError, BrokenPipeError):
            return 0
        return int(answer.split()[1]) if answer else 0


def test_a_body_of_another_type_or_size_is_refused(live: PageFixture) -> None:
    good = make_image()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert put(live, good, kind, "/image")[0] == 415
    assert put(live, good, "image/png", "/image", Content_Encoding="gzip")[0] == 415
    head = f"PUT /image{QUERY} HTTP/1.1\r\nHost: HOST\r\nContent-Type: image/png\r\n".encode()
    assert raw(live, head + b"Content-Length: x\r\n\r\n") == 400
    assert raw(live, head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345") == 400
    chunk = b"9c40\r\n" + b" " * 40_000 + b"\r\n"
    assert raw(live, head + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 4) == 413
    assert raw(live, head + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n") == 400
    for target in (head, head.replace(b"/image", b"/alpha").replace(b"image/png", b"application/json")):
        assert raw(live, target + b"Content-Length: 99999999999\r\n\r\n") == 413
        assert raw(live, target + b"Content-Length: 50\r\n\r\n{", wait=0.0) == 408


def test_headers_that_never_end_are_cut_off(live: PageFixture) -> None:
    started = time.monotonic()
    assert raw(live, b"GET / HTTP/1.1\r\n", *[b"X: y\r\n"] * 8, wait=0.1) == 0
    assert time.monotonic() - started < 3
    slow = [socket.create_connection(("127.0.0.1", live.page.port), 5) for _ in range(40)]
    for opened in slow:
        opened.sendall(b"GET / HTTP/1.1\r\nHost:")
    assert ask(live, "GET", f"/alpha{QUERY}", None)[0] == 200
    for opened in slow:
        with contextlib.suppress(ConnectionResetError):
            assert opened.recv(10) == b""
        opened.close()


def make_image(kind: str = "PNG", size: tuple[int, int] = (80, 40), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 120 if mode in ("L", "I;16") else (250, 120, 10)).save(buffer, kind)
    return buffer.getvalue()


def test_an_uploaded_image_is_shown(live: PageFixture) -> None:
    for kind, result in (
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("WEBP", "application/octet-stream"),
        ("BMP", "image/png"),
    ):
        status, _, answer = ask(live, "PUT", f"/image{QUERY}", None, make_image(kind), Content_Type=result)
        assert (status, json.loads(answer)) == (200, {"source": "your image", "width": 64, "height": 32})
    assert live.renderer.status[1]["source"] == "your image"
    assert live.renderer.status[1]["is_moving"] is False


def test_a_video_is_streamed_to_a_file_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="videos need the extra `video`")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    write_video(tmp_path / "film.mkv", 5)
    film = (tmp_path / "film.mkv").read_bytes()
    with serve_page(limits=PageLimits(max_image_bytes=100, max_video_bytes=len(film))) as live:
        head = f"PUT /video{QUERY} HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/octet-stream\r\n".encode()
        assert raw(live, head + f"Content-Length: {len(film)}\r\n\r\n".encode(), film[:200], film[200:], wait=0.05) == 200
        assert live.renderer.status[1]["source"] == "your video"
        assert len(list(tmp_path.iterdir())) == 2
        assert put(live, film + b"x", "application/octet-stream", "/video")[0] == 413
        status, sentence = put(live, b"no film " * 50, "application/octet-stream", "/video")
        assert status == 400
        assert str(tmp_path) not in sentence
        assert put(live, film, "image/png", "/video")[0] == 415
        assert len(list(tmp_path.iterdir())) == 2
    assert len(list(tmp_path.iterdir())) == 1  # of the upload nothing is left


def test_picture_take_and_commands(live: PageFixture) -> None:
    with serve_page(3) as fresh:
        assert ask(fresh, "GET", f"/picture{QUERY}", None)[0] == 404
        assert ask(fresh, "GET", f"/take{QUERY}", None)[0] == 404
        with connect(fresh.frames) as page:
            page.send(json.dumps({"next": True}))
            while isinstance(page.recv(5), str):
                pass
        status, _, answer = ask(fresh, "GET", f"/picture{QUERY}", None)
        assert status == 200
        assert answer[1:4] == b"PNG"
        fresh.shared_alpha.set_alpha([0.1, 0.2, 0.7])
        commands = json.loads(ask(fresh, "GET", f"/commands{QUERY}", None)[2])
        assert commands == {
            "setting": "dni-deploy run dimmer.dni in.png -o in-dni.png --alpha bright=0.1,dark=0.2,middle=0.7",
            "take": None,
            "timeline": None,
        }


def test_bytes_that_are_not_an_image_are_refused(live: PageFixture) -> None:
    bad = {
        "empty": b"", "text": b"hello", "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "cut": make_image()[:60],
        "html": b"<!doctype html><script>alert(1)</script>", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "polyglot": b"GIF89a" + make_image(),
    }  # fmt: skip
    before = live.renderer.status[1]["source"]
    for name, data in bad.items():
        status, sentence = put(live, data, "image/png", "/image")
        assert status == 400, name
        assert "tmp" not in sentence
        assert "/" not in sentence.replace("https://", ""), sentence
        assert len(sentence) < 300
    assert put(live, make_image(), "image/svg+xml", "/image")[0] == 415
    assert put(live, make_image(), "text/html", "/image")[0] == 415
    assert put(live, b"x" * 100_001, "image/png", "/image")[0] == 413
    assert put(live, bomb(), "image/png", "/image")[0] == 413
    assert live.renderer.status[1]["source"] == before
    assert not live.state.is_decoding


def bomb() -> bytes:
    """Returns a PNG whose header declares 400 megapixels."""
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_one_image_is_decoded_at_a_time(live: PageFixture) -> None:
    live.state.is_decoding = True
    try:
        status, headers, _ = ask(live, "PUT", f"/image{QUERY}", None, make_image(), Content_Type="image/png")
        assert (status, headers["retry-after"]) == (503, "2")
    finally:
        live.state.is_decoding = False
