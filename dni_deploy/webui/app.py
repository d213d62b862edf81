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

from dni_deploy.alpha.keyframes import load_json
from dni_deploy.control.shared_alpha import AlphaCell
from dni_deploy.errors import DniError, LimitError, UsageError
from dni_deploy.webui.guard import Refusal
from dni_deploy.webui.limits import Limits
from dni_deploy.webui.renderer import Stage
from dni_deploy.webui.sources import uploaded
from dni_deploy.webui.websocket import TRY_LATER, Client, Point

PAGE = files("dni_deploy") / "webui" / "page"
STATIC = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "controls.js": "text/javascript; charset=utf-8",
    "recorder.js": "text/javascript; charset=utf-8",
}
"""The files that are served, by name; nothing else has an address, so there is no path to climb out of."""


@dataclass
class Desk:
    """What the addresses work on. facts: what a page is told at the beginning; size: that uploaded pictures are fitted into."""

    stage: Stage
    cell: AlphaCell
    plane: Point | None
    facts: dict[str, Any]
    size: tuple[int, int]
    limits: Limits
    clients: int = 0
    decoding: bool = False


def application(desk: Desk) -> Starlette:
    """The ASGI application, without its guard."""
    served = {name: (PAGE / name).read_bytes() for name in STATIC}
    page = (PAGE / "page.html").read_bytes()

    async def index(request: Request) -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in served:
            return JSONResponse({"error": "There is nothing at this address."}, 404)
        return Response(served[name], media_type=STATIC[name])

    async def alpha(request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            return JSONResponse(_state(desk))
        body = await _body(request, desk.limits.body, ("application/json",), desk.limits.request)
        try:
            wish = load_json(body.decode())
            if not isinstance(wish, dict) or set(wish) != {"alpha"}:
                raise UsageError('The body is an object such as {"alpha": 0.5}.')
            desk.cell.set(wish["alpha"], "http")
        except UnicodeDecodeError:
            return JSONResponse({"error": "The body is not UTF-8 text."}, 400)
        except DniError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(_state(desk))

    async def picture(request: Request) -> Response:
        if desk.decoding:
            return JSONResponse({"error": "Another picture is being read; try again."}, 503, {"retry-after": "2"})
        desk.decoding = True
        try:
            kinds = ("image/png", "image/jpeg", "image/webp", "image/tiff", "image/bmp", "application/octet-stream")
            body = await _body(request, desk.limits.picture, kinds, desk.limits.request)
            source = await asyncio.to_thread(uploaded, body, desk.size)
        except DniError as error:
            return JSONResponse({"error": str(error)}, 413 if isinstance(error, LimitError) else 400)
        finally:
            desk.decoding = False
        desk.stage.replace(source)
        height, width = source.at(0).frame.shape[:2]
        return JSONResponse({"source": source.name, "width": width, "height": height})

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        if desk.clients >= desk.limits.clients:
            await websocket.close(TRY_LATER, f"{desk.limits.clients} pages are watching already")
            return
        desk.clients += 1
        try:
            hello = {**desk.facts, "alpha": list(desk.cell.setting.wanted.shares)}
            await Client(websocket, desk.stage, desk.cell, desk.plane, desk.limits).serve(hello)
        finally:
            desk.clients -= 1

    async def refused(request: Request, refusal: Exception) -> Response:
        assert isinstance(refusal, Refusal)
        return JSONResponse({"error": refusal.sentence}, refusal.status, {"connection": "close"})

    return Starlette(
        routes=[
            Route("/", index),
            Route("/static/{name}", static),
            Route("/alpha", alpha, methods=["GET", "PUT"]),
            Route("/picture", picture, methods=["PUT"]),
            WebSocketRoute("/frames", socket),
        ],
        exception_handlers={Refusal: refused},
    )


def _state(desk: Desk) -> dict[str, Any]:
    """What GET /alpha tells: the members with the shares that are wanted, and the newest frame."""
    wanted, latest = desk.cell.setting.wanted, desk.stage.latest
    return {
        "alpha": dict(zip(wanted.members, wanted.shares, strict=True)),
        "generation": None if latest is None else latest.stamp.generation,
        "frames": desk.stage.made,
        "problem": desk.stage.news[1].get("problem", ""),
    }


async def _body(request: Request, limit: int, kinds: tuple[str, ...], patience: float) -> bytes:
    """The whole body, as long as it keeps coming. Raises Refusal: 408, 413, 415."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        raise Refusal(415, f"The body's Content-Type has to be {' or '.join(kinds)}.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "A compressed body is not read.")
    told = request.headers.get("content-length", "0")
    if not told.isdigit() or len(told) > 18 or int(told) > limit:
        raise Refusal(413, f"The body is too large; the limit is {limit:,} bytes.")
    parts: list[bytes] = []
    size = 0
    stream = request.stream()
    try:
        while True:
            part = await asyncio.wait_for(anext(stream), patience)
            size += len(part)
            if size > limit:
                raise Refusal(413, f"The body is too large; the limit is {limit:,} bytes.")
            parts.append(part)
    except StopAsyncIteration:
        return b"".join(parts)
    except asyncio.TimeoutError:
        raise Refusal(408, "The body did not come.") from None
    except ClientDisconnect:
        raise Refusal(400, "The body ended early.") from None
