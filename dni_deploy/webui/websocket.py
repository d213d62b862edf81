"""Client: one page's WebSocket. The page asks for each frame, so a slow page never has a queue; one that takes nothing is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.simplex import with_share
from dni_deploy.control.shared_alpha import AlphaCell
from dni_deploy.errors import DniError, UsageError
from dni_deploy.webui.connection import ABORT
from dni_deploy.webui.limits import Limits
from dni_deploy.webui.message import pack, read_wish
from dni_deploy.webui.renderer import Stage

IN_FLIGHT = 2
WRONG_TYPE, POLICY, GOING_AWAY, FAILED, TRY_LATER = 1003, 1008, 1001, 1011, 1013
Point = Callable[[float, float], Coefficients]
"""A point of the control plane, as coefficients."""

MOST_PROBLEMS = 50
"""Messages that make no sense, after which a client is sent away."""


class Client:
    """Serves one accepted WebSocket until it ends; `number` names it among the clients of this server."""

    def __init__(self, socket: WebSocket, stage: Stage, cell: AlphaCell, plane: Point | None, limits: Limits) -> None:
        self.socket, self.stage, self.cell, self.plane, self.limits = socket, stage, cell, plane, limits
        self.number = id(self)
        self.source = f"page {self.number}"
        self.views: frozenset[str] = frozenset()
        self._credit = 0
        self._seen = 0
        self._news = 0
        self._ticket = 0
        self._tickets: deque[tuple[int, int]] = deque(maxlen=1024)  # (setting, ticket), both growing
        self._told = 0
        self._problems = 0
        self._replies: deque[str] = deque(maxlen=4)
        self._wake = asyncio.Event()
        self._ended = False

    async def serve(self, hello: dict[str, Any]) -> None:
        """Say hello, then listen and send until either side ends it. Raises nothing."""
        loop = asyncio.get_running_loop()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it this connection
                loop.call_soon_threadsafe(self._wake.set)

        self.stage.join(self.number, wake)
        try:
            await self._timed(self.socket.send_json({"hello": hello}))
            tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._send())]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                self._ended = True  # wait_for of Python 3.10 and 3.11 may lose a cancellation
                self._wake.set()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        except _Goodbye as goodbye:
            await self._close(goodbye.code, goodbye.reason)
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # gone while we were sending
        except asyncio.TimeoutError:
            self._abort()
        finally:
            self.stage.leave(self.number)

    async def _listen(self) -> None:
        while True:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None:
                raise _Goodbye(WRONG_TYPE, "messages to this server are text")
            try:
                if len(text) > self.limits.message:
                    raise _Goodbye(1009, "the message is too long")
                self._heed(read_wish(text))
            except DniError as error:
                self._problems += 1
                if self._problems > MOST_PROBLEMS:
                    raise _Goodbye(POLICY, "too many messages that make no sense") from None
                self._replies.append(str(error))
                self._wake.set()

    def _heed(self, wish: dict[str, Any]) -> None:
        """Do what a page wants; alphas are not queued, the newest one counts."""
        ticket = wish.get("ticket")
        late = ticket is not None and ticket <= self._ticket
        if "hold" in wish:
            self.stage.hold(wish["hold"])
        if "follow" in wish:
            self.stage.follow(wish["follow"])
        if not late and not {"alpha", "point", "share"}.isdisjoint(wish):
            setting = self._set(wish)
            if ticket is not None:
                self._ticket = ticket
                self._tickets.append((setting, ticket))
        if "views" in wish:
            self.views = frozenset(wish["views"]) - {"blend"}
            self._wake.set()
        if wish.get("next"):
            self._credit = min(self._credit + 1, IN_FLIGHT)
            self._wake.set()

    def _set(self, wish: dict[str, Any]) -> int:
        if "alpha" in wish:
            return self.cell.set(wish["alpha"], self.source)
        if "point" in wish:
            if self.plane is None:
                raise UsageError("This family has no control plane; it takes three or four members.")
            return self.cell.set(self.plane(*wish["point"]), self.source)
        share = wish["share"]
        return self.cell.update(lambda point: with_share(point, share["member"], share["value"]), self.source)

    async def _send(self) -> None:
        while not self._ended:
            self._wake.clear()
            while self._replies:
                await self._timed(self.socket.send_json({"problem": self._replies.popleft()}))
            number, news = self.stage.news
            if number != self._news:
                self._news = number
                await self._timed(self.socket.send_json({"news": news}))
            if self.stage.failure is not None:
                raise _Goodbye(FAILED, "the server has failed")
            if self._credit:
                picture = self.stage.latest
                if picture is not None and picture.stamp.sequence > self._seen and self.views <= picture.wanted:
                    self._credit -= 1
                    self._seen = picture.stamp.sequence
                    setting, age = self.cell.setting, (time.perf_counter() - picture.stamp.began) * 1e3
                    kinds = {kind: data for kind, data in picture.jpegs.items() if kind == "blend" or kind in self.views}
                    mine = setting.source == self.source
                    await self._timed(
                        self.socket.send_bytes(
                            pack(picture.stamp, kinds, ticket=self._known(picture.stamp.setting), mine=mine, age=age)
                        )
                    )
                    continue
                self.stage.ask(self.number, self.views)
                if self.stage.latest is not picture:
                    continue  # it was made between the look and the wish
            await self._wake.wait()

    def _known(self, setting: int) -> int:
        """The newest ticket that a picture of that setting knows of."""
        while self._tickets and self._tickets[0][0] <= setting:
            self._told = self._tickets.popleft()[1]
        return self._told

    async def _timed(self, sending: Any) -> None:
        """What is not taken within the limit ends the connection (asyncio.TimeoutError)."""
        await asyncio.wait_for(sending, self.limits.send)

    async def _close(self, code: int, reason: str) -> None:
        try:
            await self._timed(self.socket.close(code, reason))
        except (asyncio.TimeoutError, WebSocketDisconnect, RuntimeError, OSError):
            self._abort()

    def _abort(self) -> None:
        abort = self.socket.scope.get("extensions", {}).get(ABORT)
        if abort is not None:
            abort()


class _Goodbye(Exception):
    """We end the connection, with a close code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason
