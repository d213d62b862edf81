"""Client: one page's WebSocket. The page asks for each frame, so a slow page never has a queue; one that takes nothing is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.alpha.simplex import with_coefficient
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import DniError, UsageError
from dni_deploy.webui.guard import ABORT_EXTENSION, PageLimits
from dni_deploy.webui.message import pack_message, parse_client_request
from dni_deploy.webui.renderer import Renderer

MAX_FRAMES_IN_FLIGHT = 2
CLOSE_UNSUPPORTED_DATA, CLOSE_POLICY_VIOLATION, CLOSE_GOING_AWAY, CLOSE_INTERNAL_ERROR, CLOSE_TRY_AGAIN_LATER = (
    1003,
    1008,
    1001,
    1011,
    1013,
)
MAX_INVALID_MESSAGES = 50
"""Messages that make no sense, after which a client is sent away."""


class PageConnection:
    """Serves one accepted WebSocket until it ends; `number` names it among the clients of this server."""

    def __init__(
        self,
        socket: WebSocket,
        renderer: Renderer,
        shared_alpha: SharedAlpha,
        plane: ControlPlane | None,
        limits: PageLimits,
    ) -> None:
        self.socket, self.renderer, self.shared_alpha, self.plane, self.limits = socket, renderer, shared_alpha, plane, limits
        self.client_id = id(self)
        self.source = f"page {self.client_id}"
        self.views: frozenset[str] = frozenset()
        self._credit = 0
        self._last_sequence = 0
        self._last_status_number = 0
        self._last_request_id = 0
        self._pending_request_ids: deque[tuple[int, int]] = deque(maxlen=1024)  # (setting, ticket), both growing
        self._applied_request_id = 0
        self._invalid_messages = 0
        self._error_replies: deque[str] = deque(maxlen=4)
        self._wake_event = asyncio.Event()
        self._ended = False

    async def serve(self, hello_fields: dict[str, Any]) -> None:
        """Say hello, then listen and send until either side ends it. Raises nothing."""
        loop = asyncio.get_running_loop()

        def wake_sender() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it this connection
                loop.call_soon_threadsafe(self._wake_event.set)

        self.renderer.add_client(self.client_id, wake_sender)
        try:
            await self._send_with_timeout(self.socket.send_json({"hello": hello_fields}))
            tasks = [asyncio.create_task(self._receive_requests()), asyncio.create_task(self._send_frames())]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                self._ended = True  # wait_for of Python 3.10 and 3.11 may lose a cancellation
                self._wake_event.set()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except _ConnectionClosedError as goodbye:
            await self._close_socket(goodbye.code, goodbye.reason)
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # gone while we were sending
        except asyncio.TimeoutError:
            self._abort_connection()
        finally:
            self.renderer.remove_client(self.client_id)

    async def _receive_requests(self) -> None:
        while True:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                raise _ConnectionClosedError(CLOSE_UNSUPPORTED_DATA, "messages to this server are text")
            try:
                if len(text) > self.limits.max_message_bytes:
                    raise _ConnectionClosedError(1009, "the message is too long")
                self._handle_request(parse_client_request(text))
            except DniError as error:
                self._invalid_messages += 1
                if self._invalid_messages > MAX_INVALID_MESSAGES:
                    raise _ConnectionClosedError(CLOSE_POLICY_VIOLATION, "too many messages that make no sense") from None
                self._error_replies.append(str(error))
                self._wake_event.set()

    def _handle_request(self, request: dict[str, Any]) -> None:
        """Do what a page wants; alphas are not queued, the newest one counts."""
        ticket = request.get("ticket")
        late = ticket is not None and ticket <= self._last_request_id
        if "hold" in request:
            self.renderer.pause(request["hold"])
        if "follow" in request:
            self.renderer.follow_timeline(request["follow"])
        if not late and not {"alpha", "point", "share"}.isdisjoint(request):
            setting = self._set_alpha(request)
            if ticket is not None:
                self._last_request_id = ticket
                self._pending_request_ids.append((setting, ticket))
        if "views" in request:
            self.views = frozenset(request["views"]) - {"blend"}
            self._wake_event.set()
        if request.get("next"):
            self._credit = min(self._credit + 1, MAX_FRAMES_IN_FLIGHT)
            self._wake_event.set()

    def _set_alpha(self, request: dict[str, Any]) -> int:
        if "alpha" in request:
            return self.shared_alpha.set_alpha(request["alpha"], self.source)
        if "point" in request:
            if self.plane is None:
                raise UsageError("This family has no control plane; it takes three or four members.")
            return self.shared_alpha.set_alpha(self.plane.at(*request["point"]), self.source)
        share = request["share"]
        return self.shared_alpha.update(lambda point: with_coefficient(point, share["member"], share["value"]), self.source)

    async def _send_frames(self) -> None:
        while not self._ended:
            self._wake_event.clear()
            while self._error_replies:
                await self._send_with_timeout(self.socket.send_json({"problem": self._error_replies.popleft()}))
            number, news = self.renderer.status
            if number != self._last_status_number:
                self._last_status_number = number
                await self._send_with_timeout(self.socket.send_json({"news": news}))
            if self.renderer.failure is not None:
                raise _ConnectionClosedError(CLOSE_INTERNAL_ERROR, "the server has failed")
            if self._credit:
                picture = self.renderer.latest_preview
                if (
                    picture is not None
                    and picture.metadata.sequence > self._last_sequence
                    and self.views <= picture.requested_kinds
                ):
                    self._credit -= 1
                    self._last_sequence = picture.metadata.sequence
                    setting, age = self.shared_alpha.state, (time.perf_counter() - picture.metadata.started_at) * 1e3
                    kinds = {kind: data for kind, data in picture.jpegs.items() if kind == "blend" or kind in self.views}
                    mine = setting.source == self.source
                    await self._send_with_timeout(
                        self.socket.send_bytes(
                            pack_message(
                                picture.metadata,
                                kinds,
                                request_id=self._find_request_id(picture.metadata.alpha_sequence),
                                set_by_page=mine,
                                age_ms=age,
                            )
                        )
                    )
                    continue
                self.renderer.request_frame(self.client_id, self.views)
                if self.renderer.latest_preview is not picture:
                    continue  # it was made between the look and the wish
            await self._wake_event.wait()

    def _find_request_id(self, alpha_sequence: int) -> int:
        """The newest ticket that a picture of that setting knows of."""
        while self._pending_request_ids and self._pending_request_ids[0][0] <= alpha_sequence:
            self._applied_request_id = self._pending_request_ids.popleft()[1]
        return self._applied_request_id

    async def _send_with_timeout(self, operation: Any) -> None:
        """What is not taken within the limit ends the connection (asyncio.TimeoutError)."""
        await asyncio.wait_for(operation, self.limits.send_timeout_s)

    async def _close_socket(self, code: int, reason: str) -> None:
        try:
            await self._send_with_timeout(self.socket.close(code, reason))
        except (asyncio.TimeoutError, WebSocketDisconnect, RuntimeError, OSError):
            self._abort_connection()

    def _abort_connection(self) -> None:
        abort = self.socket.scope.get("extensions", {}).get(ABORT_EXTENSION)
        if abort is not None:
            abort()


class _ConnectionClosedError(Exception):
    """We end the connection, with a close code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason
