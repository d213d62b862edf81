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
from dni_deploy.control.shared_alpha import AlphaState, SharedAlpha
from dni_deploy.errors import DniError
from dni_deploy.session.session import Session
from dni_deploy.webui.frame_source import FrameSource, SourceFrame
from dni_deploy.webui.message import FrameMetadata
from dni_deploy.webui.pixel_blend import PixelBlend
from dni_deploy.webui.sources import encode_jpeg

TIMELINE_SOURCE = "timeline"
ERROR_PAUSE_S = 1.0
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedPreview:
    """What one round made: JPEG files by kind. wanted: the kinds that were asked for, also those that could not be made yet."""

    metadata: FrameMetadata
    jpegs: dict[str, bytes]
    requested_kinds: frozenset[str]


class Renderer:
    """Owns its thread and the source, not the session and not the cell. `request_frame`, `join`, ... may be called from any thread.

    `latest_preview` is the newest picture, replaced as a whole; `status` what pages are told in words, with a number that grows.
    """

    def __init__(
        self,
        session: Session,
        shared_alpha: SharedAlpha,
        source: FrameSource,
        *,
        pixel_blend: PixelBlend | None = None,
        timeline: AlphaSource | None = None,
        quality: int = 80,
        fps: float = 60.0,
    ) -> None:
        """timeline: is followed until somebody else sets the cell. fps: the most pictures in a second."""
        self.session, self.shared_alpha, self.pixel_blend, self.timeline = session, shared_alpha, pixel_blend, timeline
        self.quality, self.fps = quality, fps
        self.latest_preview: EncodedPreview | None = None
        self.frame_count = 0
        self.failure: BaseException | None = None
        self.status: tuple[int, dict[str, Any]] = (0, {})
        self._source, self._old_sources = source, list[FrameSource]()
        self._requests: dict[int, tuple[frozenset[str], Callable[[], None]]] = {}
        self._wake_callbacks: dict[int, Callable[[], None]] = {}
        self._condition = threading.Condition()
        self._closing = False
        self._source_number = 0  # grows with each source, so that frames of two sources never have one key
        self._render_forced = True
        self._rendered_frame_key = (-1, -1)
        self._timeline_followed = timeline is not None
        self._paused = False
        self._position_s, self._position_updated_at, self._last_started_at = 0.0, time.perf_counter(), -math.inf
        if pixel_blend is not None:
            pixel_blend.on_ready = self.force_render
        self._unsubscribe = shared_alpha.subscribe(self._on_alpha_set)
        self._thread = threading.Thread(target=self._run_thread, name="dni-stage", daemon=True)
        self._update_status(
            source=source.name, moves=source.is_moving, hold=False, follow=self._timeline_followed, problem="", pixels=""
        )

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

    def add_client(self, client: int, wake: Callable[[], None]) -> None:
        """`wake` is called, in any thread, when there is a newer picture that was asked for, or news."""
        with self._condition:
            self._wake_callbacks[client] = wake

    def remove_client(self, client: int) -> None:
        with self._condition:
            self._wake_callbacks.pop(client, None)
            self._requests.pop(client, None)

    def request_frame(self, client: int, views: frozenset[str]) -> None:
        """Want a picture newer than `latest_preview`, with these kinds beside the blend."""
        with self._condition:
            if client in self._wake_callbacks:
                self._requests[client] = (views, self._wake_callbacks[client])
                self._condition.notify_all()

    def replace_source(self, source: FrameSource) -> None:
        """Show another source from now on; the stage owns it."""
        with self._condition:
            self._old_sources.append(self._source)
            self._source, self._render_forced = source, True
            self._source_number += 1
            self._position_s = 0.0
            self._condition.notify_all()
        self._update_status(source=source.name, moves=source.is_moving, problem="")

    def pause(self, paused: bool) -> None:
        """Stop the source's time, or let it run on; alpha still changes the picture."""
        with self._condition:
            self._advance_position()
            self._paused = paused
            self._condition.notify_all()
        self._update_status(hold=paused)

    def follow_timeline(self, enabled: bool) -> None:
        """Take alpha from the timeline again, where there is one."""
        with self._condition:
            self._timeline_followed = enabled and self.timeline is not None
            self._condition.notify_all()
        self._update_status(follow=self._timeline_followed)

    def _on_alpha_set(self, setting: AlphaState) -> None:
        with self._condition:
            ended = self._timeline_followed and setting.source != TIMELINE_SOURCE
            self._timeline_followed = self._timeline_followed and not ended
            self._condition.notify_all()
        if ended:
            self._update_status(follow=False)

    def _update_status(self, **fields: Any) -> None:
        with self._condition:
            number, known = self.status
            if all(known.get(name) == fact for name, fact in fields.items()) and number:
                return
            self.status = (number + 1, {**known, **fields})
            wakes = list(self._wake_callbacks.values())
        for wake in wakes:
            wake()

    def _advance_position(self) -> float:
        """The source's time in seconds; the condition is held."""
        now = time.perf_counter()
        if not self._paused:
            self._position_s += now - self._position_updated_at
        self._position_updated_at = now
        return self._position_s

    def _seconds_until_due(self) -> float:
        """Seconds until the next picture is due: 0 now, infinity not before something changes. The condition is held."""
        position = self._advance_position()
        if not self._requests:
            return math.inf
        gap = self._last_started_at + 1 / self.fps - time.perf_counter()
        last, setting = self.latest_preview, self.shared_alpha.state
        due = (
            last is None
            or self._render_forced
            or self._timeline_followed
            or last.metadata.is_alpha_moving
            or last.metadata.alpha_sequence != setting.sequence
            or not self._requested_views() <= last.requested_kinds
        )
        if due:
            return gap
        return math.inf if self._paused else max(gap, self._source.seconds_until_next(position))

    def _requested_views(self) -> frozenset[str]:
        return frozenset[str]().union(*(views for views, _ in self._requests.values()))

    def _run_thread(self) -> None:
        try:
            while True:
                with self._condition:
                    while not self._closing and (delay := self._seconds_until_due()) > 0:
                        self._condition.wait(None if delay == math.inf else delay)
                    if self._closing:
                        return
                    views, position, source, key = (
                        self._requested_views(),
                        self._advance_position(),
                        self._source,
                        self._source_number,
                    )
                    old, self._old_sources = self._old_sources, []
                    self._render_forced, started = False, time.perf_counter()
                for unused in old:
                    unused.close()
                try:
                    picture = self._render_preview(source, key, position, views)
                except DniError as error:
                    self._update_status(problem=str(error))
                    with self._condition:
                        self._condition.wait_for(lambda: self._closing, ERROR_PAUSE_S)
                    continue
                if picture is None:
                    continue
                with self._condition:
                    self.latest_preview, self.frame_count, self._last_started_at = picture, self.frame_count + 1, started
                    asks, self._requests = self._requests, {}
                self._update_status(
                    problem=self.pixel_blend.problem if self.pixel_blend is not None and "pixels" in views else ""
                )
                for _, wake in asks.values():
                    wake()
        except BaseException as error:
            # The server ends with it: a page without pictures that looks alive helps nobody.
            LOG.exception("the thread that makes the pictures has failed")
            self.failure = error
            self._update_status(problem="The server has failed; its terminal tells more.")

    def _render_preview(
        self, source: FrameSource, source_number: int, position: float, views: frozenset[str]
    ) -> EncodedPreview | None:
        """One picture; None where the source turned out to have no other frame than the last one."""
        shot, last = source.get_frame(position), self.latest_preview
        if self._timeline_followed and self.timeline is not None:
            wanted = self.timeline.at(position, shot.number)
            if wanted != self.shared_alpha.state.requested:
                self.shared_alpha.set_alpha(wanted, TIMELINE_SOURCE)
        setting = self.shared_alpha.read()
        if self._is_unchanged(last, shot, source_number, setting, views):
            return None
        began = time.perf_counter()
        before = self.session.generation
        self.session.alpha = setting.coefficients
        stamped = self.session.render(shot.frame)
        rendered = time.perf_counter()
        jpegs = {"blend": encode_jpeg(stamped.output, self.quality)}
        if "before" in views:
            jpegs["before"] = encode_jpeg(shot.frame, self.quality)
        if "pixels" in views and self._is_pixel_blend_ready():
            assert self.pixel_blend is not None
            mixed = self.pixel_blend.blend_outputs(shot.frame, (source_number, shot.number), stamped.coefficients.values)
            jpegs["pixels"] = encode_jpeg(mixed, self.quality)
        self._rendered_frame_key = (source_number, shot.number)
        return EncodedPreview(
            FrameMetadata(
                sequence=self.frame_count + 1,
                generation=stamped.generation,
                frame_number=shot.number,
                alpha_sequence=setting.sequence,
                coefficients=stamped.coefficients.values,
                is_alpha_moving=setting.coefficients != setting.requested,
                network_ms=(rendered - began) * 1e3,
                change_ms=self.session.change_seconds * 1e3 if stamped.generation != before else 0.0,
                encode_ms=(time.perf_counter() - rendered) * 1e3,
                started_at=began,
            ),
            jpegs,
            views,
        )

    def _is_unchanged(
        self,
        last: EncodedPreview | None,
        source_frame: SourceFrame,
        source_number: int,
        setting: AlphaState,
        views: frozenset[str],
    ) -> bool:
        return (
            last is not None
            and self._rendered_frame_key == (source_number, source_frame.number)
            and last.metadata.alpha_sequence == setting.sequence
            and not last.metadata.is_alpha_moving
            and views <= last.requested_kinds
            and not ("pixels" in views and "pixels" not in last.jpegs and self._is_pixel_blend_ready())
        )

    def _is_pixel_blend_ready(self) -> bool:
        if self.pixel_blend is None:
            return False
        ready = self.pixel_blend.is_ready
        self._update_status(pixels="ready" if ready else "opening")
        return ready

    def force_render(self) -> None:
        """Make a picture even if nothing has changed: something that was not ready is."""
        with self._condition:
            self._render_forced = True
            self._condition.notify_all()
