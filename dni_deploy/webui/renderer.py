"""Stage: the thread that makes the pictures. It makes one when a page wants one that differs from the last, and keeps only the newest."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.control.shared_alpha import AlphaCell, Setting
from dni_deploy.errors import DniError
from dni_deploy.session.session import Session
from dni_deploy.webui.message import Stamp
from dni_deploy.webui.pixel_blend import PixelBlend
from dni_deploy.webui.sources import Shot, Source, jpeg

TIMELINE = "timeline"
PAUSE_AFTER_ERROR = 1.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """What one round made: JPEG files by kind. wanted: the kinds that were asked for, also those that could not be made yet."""

    stamp: Stamp
    jpegs: dict[str, bytes]
    wanted: frozenset[str]


class Stage:
    """Owns its thread and the source, not the session and not the cell. `ask`, `join`, ... may be called from any thread.

    `latest` is the newest picture, replaced as a whole; `news` what pages are told in words, with a number that grows.
    """

    def __init__(
        self,
        session: Session,
        cell: AlphaCell,
        source: Source,
        *,
        pixels: PixelBlend | None = None,
        timeline: AlphaSource | None = None,
        quality: int = 80,
        fps: float = 60.0,
    ) -> None:
        """timeline: is followed until somebody else sets the cell. fps: the most pictures in a second."""
        self.session, self.cell, self.pixels, self.timeline = session, cell, pixels, timeline
        self.quality, self.fps = quality, fps
        self.latest: Picture | None = None
        self.made = 0
        self.failure: BaseException | None = None
        self.news: tuple[int, dict[str, Any]] = (0, {})
        self._source, self._old_sources = source, list[Source]()
        self._asks: dict[int, tuple[frozenset[str], Callable[[], None]]] = {}
        self._wakes: dict[int, Callable[[], None]] = {}
        self._condition = threading.Condition()
        self._closing = False
        self._round = 0  # grows with each source, so that frames of two sources never have one key
        self._force = True
        self._made_of = (-1, -1)
        self._follow = timeline is not None
        self._hold = False
        self._position, self._mark, self._started = 0.0, time.perf_counter(), -math.inf
        if pixels is not None:
            pixels.when_ready = self.again
        self._unsubscribe = cell.subscribe(self._set)
        self._thread = threading.Thread(target=self._run, name="dni-stage", daemon=True)
        self._tell(source=source.name, moves=source.moves, hold=False, follow=self._follow, problem="", pixels="")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread and close the source; within the time of one frame."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._unsubscribe()
        if self._thread.ident is not None:
            self._thread.join()
        for source in (*self._old_sources, self._source):
            source.close()

    def join(self, client: int, wake: Callable[[], None]) -> None:
        """`wake` is called, in any thread, when there is a newer picture that was asked for, or news."""
        with self._condition:
            self._wakes[client] = wake

    def leave(self, client: int) -> None:
        with self._condition:
            self._wakes.pop(client, None)
            self._asks.pop(client, None)

    def ask(self, client: int, views: frozenset[str]) -> None:
        """Want a picture newer than `latest`, with these kinds beside the blend."""
        with self._condition:
            if client in self._wakes:
                self._asks[client] = (views, self._wakes[client])
                self._condition.notify_all()

    def replace(self, source: Source) -> None:
        """Show another source from now on; the stage owns it."""
        with self._condition:
            self._old_sources.append(self._source)
            self._source, self._force = source, True
            self._round += 1
            self._position = 0.0
            self._condition.notify_all()
        self._tell(source=source.name, moves=source.moves, problem="")

    def hold(self, hold: bool) -> None:
        """Stop the source's time, or let it run on; alpha still changes the picture."""
        with self._condition:
            self._now()
            self._hold = hold
            self._condition.notify_all()
        self._tell(hold=hold)

    def follow(self, follow: bool) -> None:
        """Take alpha from the timeline again, where there is one."""
        with self._condition:
            self._follow = follow and self.timeline is not None
            self._condition.notify_all()
        self._tell(follow=self._follow)

    def _set(self, setting: Setting) -> None:
        with self._condition:
            ended = self._follow and setting.source != TIMELINE
            self._follow = self._follow and not ended
            self._condition.notify_all()
        if ended:
            self._tell(follow=False)

    def _tell(self, **facts: Any) -> None:
        with self._condition:
            number, known = self.news
            if all(known.get(name) == fact for name, fact in facts.items()) and number:
                return
            self.news = (number + 1, {**known, **facts})
            wakes = list(self._wakes.values())
        for wake in wakes:
            wake()

    def _now(self) -> float:
        """The source's time in seconds; the condition is held."""
        now = time.perf_counter()
        if not self._hold:
            self._position += now - self._mark
        self._mark = now
        return self._position

    def _delay(self) -> float:
        """Seconds until the next picture is due: 0 now, infinity not before something changes. The condition is held."""
        position = self._now()
        if not self._asks:
            return math.inf
        gap = self._started + 1 / self.fps - time.perf_counter()
        last, setting = self.latest, self.cell.setting
        due = (
            last is None
            or self._force
            or self._follow
            or last.stamp.moving
            or last.stamp.setting != setting.sequence
            or not self._views() <= last.wanted
        )
        if due:
            return gap
        return math.inf if self._hold else max(gap, self._source.wait(position))

    def _views(self) -> frozenset[str]:
        return frozenset[str]().union(*(views for views, _ in self._asks.values()))

    def _run(self) -> None:
        try:
            while True:
                with self._condition:
                    while not self._closing and (delay := self._delay()) > 0:
                        self._condition.wait(None if delay == math.inf else delay)
                    if self._closing:
                        return
                    views, position, source, key = self._views(), self._now(), self._source, self._round
                    old, self._old_sources = self._old_sources, []
                    self._force, started = False, time.perf_counter()
                for unused in old:
                    unused.close()
                try:
                    picture = self._make(source, key, position, views)
                except DniError as error:
                    self._tell(problem=str(error))
                    with self._condition:
                        self._condition.wait_for(lambda: self._closing, PAUSE_AFTER_ERROR)
                    continue
                if picture is None:
                    continue
                with self._condition:
                    self.latest, self.made, self._started = picture, self.made + 1, started
                    asks, self._asks = self._asks, {}
                self._tell(problem=self.pixels.problem if self.pixels is not None and "pixels" in views else "")
                for _, wake in asks.values():
                    wake()
        except BaseException as error:
            # The server ends with it: a page without pictures that looks alive helps nobody.
            log.exception("the thread that makes the pictures has failed")
            self.failure = error
            self._tell(problem="The server has failed; its terminal tells more.")

    def _make(self, source: Source, key: int, position: float, views: frozenset[str]) -> Picture | None:
        """One picture; None where the source turned out to have no other frame than the last one."""
        shot, last = source.at(position), self.latest
        if self._follow and self.timeline is not None:
            wanted = self.timeline.at(position, shot.number)
            if wanted != self.cell.setting.wanted:
                self.cell.set(wanted, TIMELINE)
        setting = self.cell.read()
        if self._same(last, shot, key, setting, views):
            return None
        began = time.perf_counter()
        before = self.session.generation
        self.session.alpha = setting.coefficients
        stamped = self.session.render(shot.frame)
        rendered = time.perf_counter()
        jpegs = {"blend": jpeg(stamped.output, self.quality)}
        if "before" in views:
            jpegs["before"] = jpeg(shot.frame, self.quality)
        if "pixels" in views and self._pixels_ready():
            assert self.pixels is not None
            mixed = self.pixels.mix(shot.frame, (key, shot.number), stamped.coefficients.shares)
            jpegs["pixels"] = jpeg(mixed, self.quality)
        self._made_of = (key, shot.number)
        return Picture(
            Stamp(
                sequence=self.made + 1,
                generation=stamped.generation,
                frame=shot.number,
                setting=setting.sequence,
                shares=stamped.coefficients.shares,
                moving=setting.coefficients != setting.wanted,
                network=(rendered - began) * 1e3,
                change=self.session.change_seconds * 1e3 if stamped.generation != before else 0.0,
                encode=(time.perf_counter() - rendered) * 1e3,
                began=began,
            ),
            jpegs,
            views,
        )

    def _same(self, last: Picture | None, shot: Shot, key: int, setting: Setting, views: frozenset[str]) -> bool:
        return (
            last is not None
            and self._made_of == (key, shot.number)
            and last.stamp.setting == setting.sequence
            and not last.stamp.moving
            and views <= last.wanted
            and not ("pixels" in views and "pixels" not in last.jpegs and self._pixels_ready())
        )

    def _pixels_ready(self) -> bool:
        if self.pixels is None:
            return False
        ready = self.pixels.ready
        self._tell(pixels="ready" if ready else "opening")
        return ready

    def again(self) -> None:
        """Make a picture even if nothing has changed: something that was not ready is."""
        with self._condition:
            self._force = True
            self._condition.notify_all()
