"""App: the page's addresses, and what each of them does."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import DniError, LimitError, UsageError
from dni_deploy.utils.text_file import load_json
from dni_deploy.webui.guard import RequestLimits, RequestRefusedError
from dni_deploy.webui.renderer import Renderer
from dni_deploy.webui.sources import decode_upload
from dni_deploy.webui.websocket import CLOSE_TRY_AGAIN_LATER, PageConnection, PlaneFunction

PAGE_FOLDER = files("dni_deploy") / "webui" / "page"
STATIC_FILE_TYPES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "controls.js": "text/javascript; charset=utf-8",
    "recorder.js": "text/javascript; charset=utf-8",
}
"""The files that are served, by name; nothing else has an address, so there is no path to climb out of."""


@dataclass
class AppState:
    """What the addresses work on. facts: what a page is told at the beginning; size: that uploaded pictures are fitted into."""

    renderer: Renderer
    shared_alpha: SharedAlpha
    plane: PlaneFunction | None
    hello_fields: dict[str, Any]
    max_size: tuple[int, int]
    limits: RequestLimits
    client_count: int = 0
    is_decoding: bool = False


def make_app(state: AppState) -> Starlette:
    """The ASGI application, without its guard."""
    served = {name: (PAGE_FOLDER / name).read_bytes() for name in STATIC_FILE_TYPES}
    page = (PAGE_FOLDER / "page.html").read_bytes()

    async def serve_index(request: Request) -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    async def serve_static_file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in served:
            return JSONResponse({"error": "There is nothing at this address."}, 404)
        return Response(served[name], media_type=STATIC_FILE_TYPES[name])

    async def handle_alpha(request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            return JSONResponse(_state_to_json(state))
        body = await _read_body(request, state.limits.max_body_bytes, ("application/json",), state.limits.request_timeout_s)
        try:
            wish = load_json(body.decode())
            if not isinstance(wish, dict) or set(wish) != {"alpha"}:
                raise UsageError('The body is an object such as {"alpha": 0.5}.')
            state.shared_alpha.set_alpha(wish["alpha"], "http")
        except UnicodeDecodeError:
            return JSONResponse({"error": "The body is not UTF-8 text."}, 400)
        except DniError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(_state_to_json(state))

    async def handle_upload(request: Request) -> Response:
        if state.is_decoding:
            return JSONResponse({"error": "Another picture is being read; try again."}, 503, {"retry-after": "2"})
        state.is_decoding = True
        try:
            kinds = ("image/png", "image/jpeg", "image/webp", "image/tiff", "image/bmp", "application/octet-stream")
            body = await _read_body(request, state.limits.max_image_bytes, kinds, state.limits.request_timeout_s)
            source = await asyncio.to_thread(decode_upload, body, state.max_size)
        except DniError as error:
            return JSONResponse({"error": str(error)}, 413 if isinstance(error, LimitError) else 400)
        finally:
            state.is_decoding = False
        state.renderer.replace_source(source)
        height, width = source.get_frame(0).frame.shape[:2]
        return JSONResponse({"source": source.name, "width": width, "height": height})

    async def serve_websocket(websocket: WebSocket) -> None:
        await websocket.accept()
        if state.client_count >= state.limits.max_clients:
            await websocket.close(CLOSE_TRY_AGAIN_LATER, f"{state.limits.max_clients} pages are watching already")
            return
        state.client_count += 1
        try:
            hello = {**state.hello_fields, "alpha": list(state.shared_alpha.state.requested.values)}
            await PageConnection(websocket, state.renderer, state.shared_alpha, state.plane, state.limits).serve(hello)
        finally:
            state.client_count -= 1

    async def respond_refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestRefusedError)
        return JSONResponse({"error": error.message}, error.status, {"connection": "close"})

    return Starlette(
        routes=[
            Route("/", serve_index),
            Route("/static/{name}", serve_static_file),
            Route("/alpha", handle_alpha, methods=["GET", "PUT"]),
            Route("/picture", handle_upload, methods=["PUT"]),
            WebSocketRoute("/frames", serve_websocket),
        ],
        exception_handlers={RequestRefusedError: respond_refused},
    )


def _state_to_json(state: AppState) -> dict[str, Any]:
    """What GET /alpha tells: the members with the shares that are wanted, and the newest frame."""
    wanted, latest = state.shared_alpha.state.requested, state.renderer.latest_preview
    return {
        "alpha": dict(zip(wanted.members, wanted.values, strict=True)),
        "generation": None if latest is None else latest.metadata.generation,
        "frames": state.renderer.frame_count,
        "problem": state.renderer.status[1].get("problem", ""),
    }


async def _read_body(request: Request, max_bytes: int, content_types: tuple[str, ...], timeout_s: float) -> bytes:
    """The whole body, as long as it keeps coming. Raises Refusal: 408, 413, 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in content_types:
        raise RequestRefusedError(415, f"The body's Content-Type has to be {' or '.join(content_types)}.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestRefusedError(415, "A compressed body is not read.")
    told = request.headers.get("content-length", "0")
    if not told.isdigit() or len(told) > 18 or int(told) > max_bytes:
        raise RequestRefusedError(413, f"The body is too large; the limit is {max_bytes:,} bytes.")
    parts: list[bytes] = []
    size = 0
    stream = request.stream()
    try:
        while True:
            part = await asyncio.wait_for(anext(stream), timeout_s)
            size += len(part)
            if size > max_bytes:
                raise RequestRefusedError(413, f"The body is too large; the limit is {max_bytes:,} bytes.")
            parts.append(part)
    except StopAsyncIteration:
        return b"".join(parts)
    except asyncio.TimeoutError:
        raise RequestRefusedError(408, "The body did not come.") from None
    except ClientDisconnect:
        raise RequestRefusedError(400, "The body ended early.") from None
