"""The WebSocket of one page.

The page asks for each frame, so a slow page never has a queue; one that takes nothing is cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.alpha.simplex import with_coefficient
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import DniError, UsageError
from dni_deploy.webui.guard import ABORT_EXTENSION, PageLimits
from dni_deploy.webui.message import ALPHA_KEYS, pack_message, parse_client_request
from dni_deploy.webui.renderer import EncodedPreview, Renderer

MAX_FRAMES_IN_FLIGHT = 2
CLOSE_UNSUPPORTED_DATA = 1003
CLOSE_POLICY_VIOLATION = 1008
CLOSE_MESSAGE_TOO_BIG = 1009
CLOSE_INTERNAL_ERROR = 1011
CLOSE_TRY_AGAIN_LATER = 1013
"""Close codes. Source: RFC 6455, section 7.4.1, and the registry of WebSocket close codes."""

MAX_INVALID_MESSAGES = 50
"""Number of messages that cannot be used, after which a client is sent away."""

MAX_PENDING_REQUEST_IDS = 1024
_CLIENT_NUMBERS = itertools.count(1)


class PageConnection:
    """Serves one accepted WebSocket until it ends.

    Attributes:
        client_id: Names the page among the clients of this server.
        source: Who sets the alpha, as SharedAlpha calls it.

    Thread safety: used by the event loop alone.
    """

    def __init__(
        self,
        socket: WebSocket,
        renderer: Renderer,
        shared_alpha: SharedAlpha,
        plane: ControlPlane | None,
        limits: PageLimits,
    ) -> None:
        """Stores what the connection works on; owns none of it.

        Args:
            socket: The WebSocket, accepted.
            renderer: Renders the frames.
            shared_alpha: What the page sets.
            plane: What a point means; None refuses points.
            limits: Sizes and times.
        """
        self.socket, self.renderer, self.shared_alpha, self.plane, self.limits = socket, renderer, shared_alpha, plane, limits
        self.client_id = next(_CLIENT_NUMBERS)
        self.source = f"page {self.client_id}"
        self._views: frozenset[str] = frozenset()
        self._credit = 0
        self._last_sequence = 0
        self._last_status_number = 0
        self._last_request_id = 0
        # Pairs of an alpha sequence and a request id, both growing.
        self._pending_request_ids: deque[tuple[int, int]] = deque(maxlen=MAX_PENDING_REQUEST_IDS)
        self._applied_request_id = 0
        self._invalid_messages = 0
        self._error_replies: deque[str] = deque(maxlen=4)
        self._wake_event = asyncio.Event()
        self._ended = False

    async def serve(self, hello_fields: dict[str, Any]) -> None:
        """Sends the first message, then receives and sends until either side ends it; raises nothing.

        Args:
            hello_fields: What a page receives first.
        """
        loop = asyncio.get_running_loop()

        def wake_sender() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it this connection
                loop.call_soon_threadsafe(self._wake_event.set)

        self.renderer.add_client(self.client_id, wake_sender)
        try:
            await self._send_with_timeout(self.socket.send_json({"hello": hello_fields}))
            tasks = [asyncio.create_task(self._receive_requests()), asyncio.create_task(self._send_messages())]
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
        except _ConnectionClosedError as error:
            await self._close_socket(error.code, error.reason)
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # the page went away while a message was sent
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
            if len(text) > self.limits.max_message_bytes:
                raise _ConnectionClosedError(CLOSE_MESSAGE_TOO_BIG, "the message is too long")
            try:
                self._handle_request(parse_client_request(text))
            except DniError as error:
                self._invalid_messages += 1
                if self._invalid_messages > MAX_INVALID_MESSAGES:
                    raise _ConnectionClosedError(CLOSE_POLICY_VIOLATION, "too many messages that make no sense") from None
                self._error_replies.append(str(error))
                self._wake_event.set()

    def _handle_request(self, request: dict[str, Any]) -> None:
        """Does what a page asks for; alphas are not queued, the newest one counts."""
        if "pause" in request:
            self.renderer.pause(request["pause"])
        if "follow" in request:
            self.renderer.follow_timeline(request["follow"])
        if request.get("restore"):
            self.renderer.restore_source()
        if "record" in request:
            self.renderer.record(request["record"])
        if "play" in request:
            self.renderer.play_take(request["play"], request.get("loop", False))
        request_id = request.get("request_id")
        is_late = request_id is not None and request_id <= self._last_request_id
        if not is_late and not ALPHA_KEYS.isdisjoint(request):
            alpha_sequence = self._set_alpha(request)
            if request_id is not None:
                self._last_request_id = request_id
                self._pending_request_ids.append((alpha_sequence, request_id))
        if "views" in request:
            self._views = frozenset(request["views"]) - {"blend"}
            self._wake_event.set()
        if request.get("next"):
            self._credit = min(self._credit + 1, MAX_FRAMES_IN_FLIGHT)
            self._wake_event.set()

    def _set_alpha(self, request: dict[str, Any]) -> int:
        """Returns the sequence number of the change."""
        if "alpha" in request:
            return self.shared_alpha.set_alpha(request["alpha"], self.source)
        if "point" in request:
            if self.plane is None:
                raise UsageError("This family has no control plane; it takes three or four members.")
            return self.shared_alpha.set_alpha(self.plane.at(*request["point"]), self.source)
        if "control" in request:
            return self.shared_alpha.set_controls({request["control"]["name"]: request["control"]["value"]}, self.source)
        member, value = request["share"]["member"], request["share"]["value"]
        return self.shared_alpha.update(lambda requested: with_coefficient(requested, member, value), self.source)

    async def _send_messages(self) -> None:
        while not self._ended:
            self._wake_event.clear()
            while self._error_replies:
                await self._send_with_timeout(self.socket.send_json({"problem": self._error_replies.popleft()}))
            number, status = self.renderer.status
            if number != self._last_status_number:
                self._last_status_number = number
                await self._send_with_timeout(self.socket.send_json({"status": status}))
            if self.renderer.failure is not None:
                raise _ConnectionClosedError(CLOSE_INTERNAL_ERROR, "the server has failed")
            if self._credit:
                preview = self.renderer.latest_preview
                if preview is not None and self._is_wanted(preview):
                    await self._send_preview(preview)
                    continue
                self.renderer.request_frame(self.client_id, self._views)
                if self.renderer.latest_preview is not preview:
                    continue  # it was rendered between the look and the request
            await self._wake_event.wait()

    def _is_wanted(self, preview: EncodedPreview) -> bool:
        return preview.metadata.sequence > self._last_sequence and self._views <= preview.requested_kinds

    async def _send_preview(self, preview: EncodedPreview) -> None:
        metadata = preview.metadata
        self._credit -= 1
        self._last_sequence = metadata.sequence
        message = pack_message(
            metadata,
            {kind: data for kind, data in preview.jpegs.items() if kind == "blend" or kind in self._views},
            request_id=self._find_request_id(metadata.alpha_sequence),
            set_by_page=self.shared_alpha.state.source == self.source,
            age_ms=(time.perf_counter() - metadata.started_at) * 1e3,
        )
        await self._send_with_timeout(self.socket.send_bytes(message))

    def _find_request_id(self, alpha_sequence: int) -> int:
        """Returns the id of the newest request that a frame with this change of alpha knows of."""
        while self._pending_request_ids and self._pending_request_ids[0][0] <= alpha_sequence:
            self._applied_request_id = self._pending_request_ids.popleft()[1]
        return self._applied_request_id

    async def _send_with_timeout(self, operation: Any) -> None:
        """Ends the connection with asyncio.TimeoutError where the page does not take a message within the limit."""
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
    """The server ends the connection, with a close code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason
