"""The addresses of the web UI's server, and what each of them does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.alpha.timeline import AlphaTimeline
from dni_deploy.control.alpha_http import HTTP_SOURCE, JSON_CONTENT_TYPE, error_to_json, put_alpha, state_to_json
from dni_deploy.control.message_handler import AlphaMessageHandler
from dni_deploy.control.request_guard import RequestRefusedError, body_too_large_error, check_body_head
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import DniError, LimitError, UsageError
from dni_deploy.imaging.frame_encoding import encode_png
from dni_deploy.webui.commands import CommandLines, format_timeline
from dni_deploy.webui.frame_source import FrameSource
from dni_deploy.webui.guard import PageLimits, make_refusal_response, make_request_head
from dni_deploy.webui.renderer import Renderer
from dni_deploy.webui.sources import UploadedFile, decode_upload
from dni_deploy.webui.websocket import CLOSE_TRY_AGAIN_LATER, PageConnection

PAGE_FOLDER = files("dni_deploy") / "webui" / "page"
STATIC_FILE_TYPES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "controls.js": "text/javascript; charset=utf-8",
}
"""The files that are served, by name; nothing else has an address, so no path can lead out of the folder."""

IMAGE_CONTENT_TYPES = ("image/png", "image/jpeg", "image/webp", "image/tiff", "image/bmp", "application/octet-stream")
VIDEO_CONTENT_TYPE = "application/octet-stream"
"""Type of an uploaded video: what it is, its content tells."""

HTTP_ERROR_MESSAGES = {404: "There is nothing at this address.", 405: "There is no such method at this address."}
log = logging.getLogger(__name__)


@dataclass
class AppState:
    """What the addresses work on.

    Attributes:
        renderer: Renders the frames.
        shared_alpha: What a page or a request sets.
        plane: What a point means; None refuses points.
        hello_fields: What a page receives first.
        max_size: Largest width and height of what is uploaded, in pixels; it is scaled down to fit.
        limits: Sizes and times.
        commands: Makes the command lines that the page offers.
        client_count: Number of pages that watch.
        is_decoding: Whether an upload is being read; only one is at a time.
    """

    renderer: Renderer
    shared_alpha: SharedAlpha
    plane: ControlPlane | None
    hello_fields: dict[str, Any]
    max_size: tuple[int, int]
    limits: PageLimits
    commands: CommandLines
    client_count: int = 0
    is_decoding: bool = False


def make_app(state: AppState) -> Starlette:
    """Makes the ASGI application, without the request guard."""
    handler = AlphaMessageHandler(state.shared_alpha, HTTP_SOURCE, state.plane, log.debug)
    served = {name: (PAGE_FOLDER / name).read_bytes() for name in STATIC_FILE_TYPES}
    page = (PAGE_FOLDER / "page.html").read_bytes()

    async def serve_index(request: Request) -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    async def serve_static_file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in served:
            raise HTTPException(404)
        return Response(served[name], media_type=STATIC_FILE_TYPES[name])

    async def handle_alpha(request: Request) -> Response:
        if request.method != "PUT":
            return JSONResponse(alpha_to_json())
        check_body_head(make_request_head(request.scope), (JSON_CONTENT_TYPE,), state.limits.max_body_bytes)
        body = await _read_body(request, state.limits.max_body_bytes, state.limits.request_timeout_s)
        status, fields = put_alpha(handler, body)
        return JSONResponse(alpha_to_json() if status == 200 else fields, status)

    def alpha_to_json() -> dict[str, Any]:
        """Returns the answer of the contract, with the newest frame."""
        latest = state.renderer.latest_preview
        frame = {
            "generation": None if latest is None else latest.metadata.generation,
            "count": state.renderer.frame_count,
            "problem": state.renderer.status[1].get("problem", ""),
        }
        return {**state_to_json(state.shared_alpha.state), "frame": frame}

    async def receive_image(request: Request) -> FrameSource:
        max_bytes = state.limits.max_image_bytes
        check_body_head(make_request_head(request.scope), IMAGE_CONTENT_TYPES, max_bytes, requires_length=False)
        body = await _read_body(request, max_bytes, state.limits.request_timeout_s)
        return await asyncio.to_thread(decode_upload, body, state.max_size)

    async def receive_video(request: Request) -> FrameSource:
        max_bytes = state.limits.max_video_bytes
        check_body_head(make_request_head(request.scope), (VIDEO_CONTENT_TYPE,), max_bytes, requires_length=False)
        with UploadedFile() as file:
            async for part in _read_parts(request, max_bytes, state.limits.request_timeout_s):
                await asyncio.to_thread(file.write, part)
            return await asyncio.to_thread(file.open_as_video, state.max_size)

    async def handle_upload(request: Request, receive: Callable[[Request], Awaitable[FrameSource]]) -> Response:
        if state.is_decoding:
            raise RequestRefusedError(503, "Another file is being read; try again.")
        state.is_decoding = True
        try:
            source = await receive(request)
        except DniError as error:
            return JSONResponse(error_to_json(error), 413 if isinstance(error, LimitError) else 400)
        finally:
            state.is_decoding = False
        height, width = source.get_frame(0).frame.shape[:2]
        state.renderer.replace_source(source)
        return JSONResponse({"source": source.name, "width": width, "height": height})

    async def handle_image(request: Request) -> Response:
        return await handle_upload(request, receive_image)

    async def handle_video(request: Request) -> Response:
        return await handle_upload(request, receive_video)

    async def serve_take(request: Request) -> Response:
        return JSONResponse(_make_take(state.renderer).to_json())

    async def serve_commands(request: Request) -> Response:
        status = state.renderer.status[1]
        shows_source, is_video = status["is_first_source"], status["is_moving"]
        take = None if state.renderer.recorder.source is None else _make_take(state.renderer)
        alpha = state.shared_alpha.state
        fields = {
            "setting": state.commands.format_setting(
                alpha.requested, shows_source=shows_source, is_video=is_video, controls=alpha.controls
            ),
            "take": None
            if take is None
            else state.commands.format_take(take, shows_source=shows_source, controls=alpha.controls),
            "timeline": None if take is None else format_timeline(take),
        }
        return JSONResponse(fields)

    async def serve_picture(request: Request) -> Response:
        latest = state.renderer.latest_preview
        if latest is None:
            raise RequestRefusedError(404, "There is no picture yet.")
        return Response(await asyncio.to_thread(encode_png, latest.output, compress_level=1), media_type="image/png")

    async def serve_websocket(websocket: WebSocket) -> None:
        await websocket.accept()
        if state.client_count >= state.limits.max_clients:
            await websocket.close(CLOSE_TRY_AGAIN_LATER, f"{state.limits.max_clients} pages are watching already")
            return
        state.client_count += 1
        try:
            hello = {
                **state.hello_fields,
                "alpha": list(state.shared_alpha.state.requested.values),
                "controls": [asdict(control) for control in state.shared_alpha.controls],
            }
            await PageConnection(websocket, state.renderer, state.shared_alpha, state.plane, state.limits).serve(hello)
        finally:
            state.client_count -= 1

    async def respond_refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestRefusedError)
        return make_refusal_response(error)

    async def respond_error(request: Request, error: Exception) -> Response:
        """Gives what Starlette refuses by itself the form of all errors."""
        assert isinstance(error, HTTPException)
        message = HTTP_ERROR_MESSAGES.get(error.status_code, error.detail)
        return JSONResponse(error_to_json(UsageError(message)), error.status_code, dict(error.headers or {}))

    return Starlette(
        routes=[
            Route("/", serve_index),
            Route("/static/{name}", serve_static_file),
            Route("/alpha", handle_alpha, methods=["GET", "PUT"]),
            Route("/image", handle_image, methods=["PUT"]),
            Route("/video", handle_video, methods=["PUT"]),
            Route("/take", serve_take),
            Route("/commands", serve_commands),
            Route("/picture", serve_picture),
            WebSocketRoute("/frames", serve_websocket),
        ],
        exception_handlers={RequestRefusedError: respond_refused, HTTPException: respond_error},
    )


def _make_take(renderer: Renderer) -> AlphaTimeline:
    try:
        return renderer.make_take()
    except UsageError as error:
        raise RequestRefusedError(404, str(error)) from None


async def _read_body(request: Request, max_bytes: int, timeout_s: float) -> bytes:
    """Reads a whole body; the errors are those of `_read_parts`."""
    return b"".join([part async for part in _read_parts(request, max_bytes, timeout_s)])


async def _read_parts(request: Request, max_bytes: int, timeout_s: float) -> AsyncIterator[bytes]:
    """Reads a body part by part, as long as it keeps coming.

    Raises:
        RequestRefusedError: 408 where no next part comes in time, 413 where it is too large, 400 where it ends early.
    """
    size = 0
    stream = request.stream()
    try:
        while True:
            part = await asyncio.wait_for(anext(stream), timeout_s)
            size += len(part)
            if size > max_bytes:
                raise body_too_large_error(max_bytes)
            yield part
    except StopAsyncIteration:
        return
    except asyncio.TimeoutError:
        raise RequestRefusedError(408, "The body did not come.") from None
    except ClientDisconnect:
        raise RequestRefusedError(400, "The body ended early.") from None
