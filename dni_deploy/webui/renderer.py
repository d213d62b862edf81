"""The thread that renders previews: only when a page asks for one and it differs from the last, and keeping only the newest."""

from __future__ import annotations

import io
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.control.shared_alpha import AlphaState, SharedAlpha
from dni_deploy.errors import DniError
from dni_deploy.imaging.frames import Frame
from dni_deploy.session.session import Session
from dni_deploy.webui.frame_source import FrameSource, SourceFrame
from dni_deploy.webui.message import FrameMetadata
from dni_deploy.webui.pixel_blend import PixelBlend

TIMELINE_SOURCE = "timeline"
"""Who set the alpha, where it follows a timeline."""

ERROR_PAUSE_S = 1.0
"""Seconds until a frame that could not be rendered is tried again."""

MIN_FULL_CHROMA_QUALITY = 90
"""JPEG quality from which on color is stored at full resolution."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedPreview:
    """One rendered frame, encoded for the pages.

    Attributes:
        metadata: How it was rendered.
        jpegs: JPEG files by kind.
        requested_kinds: The kinds that were asked for, also those that could not be made yet.
    """

    metadata: FrameMetadata
    jpegs: dict[str, bytes]
    requested_kinds: frozenset[str]


class Renderer:
    """Renders previews in a thread; owns that thread and the source, but neither the session nor the shared alpha.

    Attributes:
        latest_preview: The newest preview, replaced as a whole; None before the first.
        frame_count: Number of frames that were rendered.
        failure: What ended the thread, or None.
        status: A number that grows with each change, and what pages receive besides frames.

    Thread safety: any thread may call any method.
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
        """Makes a renderer that is not started.

        Args:
            session: Renders the frames.
            shared_alpha: The alpha that they are rendered with.
            source: What is shown.
            pixel_blend: Renders the kind "pixels"; None: there is none.
            timeline: Alpha over time, which is followed until somebody else sets the shared alpha.
            quality: JPEG quality, 1 to 95.
            fps: Largest number of frames in a second.
        """
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
        self._thread = threading.Thread(target=self._run_thread, name="dni-renderer", daemon=True)
        self._update_status(
            source=source.name, is_moving=source.is_moving, paused=False, follows=self._timeline_followed, problem="", pixels=""
        )

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and closes the source; takes at most the time of one frame."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()
        self._unsubscribe()
        if self._thread.ident is not None:
            self._thread.join()
        for source in (*self._old_sources, self._source):
            source.close()

    def add_client(self, client: int, wake: Callable[[], None]) -> None:
        """Adds a page.

        Args:
            client: Number of the page.
            wake: Called, in any thread, when there is a newer preview that it asked for, or a new status.
        """
        with self._condition:
            self._wake_callbacks[client] = wake

    def remove_client(self, client: int) -> None:
        """Removes a page, and what it asked for."""
        with self._condition:
            self._wake_callbacks.pop(client, None)
            self._requests.pop(client, None)

    def request_frame(self, client: int, views: frozenset[str]) -> None:
        """Asks for a preview that is newer than `latest_preview`, with these kinds beside the blend."""
        with self._condition:
            if client in self._wake_callbacks:
                self._requests[client] = (views, self._wake_callbacks[client])
                self._condition.notify_all()

    def replace_source(self, source: FrameSource) -> None:
        """Shows another source, which the renderer owns from now on."""
        with self._condition:
            self._old_sources.append(self._source)
            self._source, self._render_forced = source, True
            self._source_number += 1
            self._position_s = 0.0
            self._condition.notify_all()
        self._update_status(source=source.name, is_moving=source.is_moving, problem="")

    def pause(self, paused: bool) -> None:
        """Stops the source's time, or lets it go on; alpha still changes the preview."""
        with self._condition:
            self._advance_position()
            self._paused = paused
            self._condition.notify_all()
        self._update_status(paused=paused)

    def follow_timeline(self, enabled: bool) -> None:
        """Takes alpha from the timeline again, where there is one, or no longer."""
        with self._condition:
            self._timeline_followed = enabled and self.timeline is not None
            self._condition.notify_all()
        self._update_status(follows=self._timeline_followed)

    def force_render(self) -> None:
        """Renders a preview even if nothing has changed: something that was not ready is now."""
        with self._condition:
            self._render_forced = True
            self._condition.notify_all()

    def _on_alpha_set(self, state: AlphaState) -> None:
        with self._condition:
            was_followed = self._timeline_followed
            self._timeline_followed = was_followed and state.source == TIMELINE_SOURCE
            left_timeline = was_followed and not self._timeline_followed
            self._condition.notify_all()
        if left_timeline:
            self._update_status(follows=False)

    def _update_status(self, **fields: Any) -> None:
        with self._condition:
            number, old = self.status
            if number and all(old.get(name) == value for name, value in fields.items()):
                return
            self.status = (number + 1, {**old, **fields})
            wake_callbacks = list(self._wake_callbacks.values())
        for wake in wake_callbacks:
            wake()

    def _advance_position(self) -> float:
        """Returns the source's time in seconds; the condition is held."""
        now = time.perf_counter()
        if not self._paused:
            self._position_s += now - self._position_updated_at
        self._position_updated_at = now
        return self._position_s

    def _seconds_until_due(self) -> float:
        """Returns the seconds until the next preview is due: 0 for now, infinity for not before something changes.

        The condition is held.
        """
        position = self._advance_position()
        if not self._requests:
            return math.inf
        until_allowed = self._last_started_at + 1 / self.fps - time.perf_counter()
        last, state = self.latest_preview, self.shared_alpha.state
        if (
            last is None
            or self._render_forced
            or self._timeline_followed
            or last.metadata.is_alpha_moving
            or last.metadata.alpha_sequence != state.sequence
            or not self._requested_views() <= last.requested_kinds
        ):
            return until_allowed
        return math.inf if self._paused else max(until_allowed, self._source.seconds_until_next(position))

    def _requested_views(self) -> frozenset[str]:
        return frozenset[str]().union(*(views for views, _ in self._requests.values()))

    def _run_thread(self) -> None:
        try:
            while self._wait_until_due():
                self._render_next()
        except BaseException as error:
            # The server ends with it: a page without frames that looks alive helps nobody.
            log.exception("the thread that renders the previews has failed")
            self.failure = error
            self._update_status(problem="The server has failed; see its terminal.")

    def _wait_until_due(self) -> bool:
        """Returns False where the renderer is to end."""
        with self._condition:
            while not self._closing and (delay := self._seconds_until_due()) > 0:
                self._condition.wait(None if delay == math.inf else delay)
            return not self._closing

    def _render_next(self) -> None:
        with self._condition:
            views, position = self._requested_views(), self._advance_position()
            source, source_number = self._source, self._source_number
            old_sources, self._old_sources = self._old_sources, []
            self._render_forced, started_at = False, time.perf_counter()
        for old_source in old_sources:
            old_source.close()
        try:
            preview = self._render_preview(source, source_number, position, views)
        except DniError as error:
            self._update_status(problem=str(error))
            with self._condition:
                self._condition.wait_for(lambda: self._closing, ERROR_PAUSE_S)
            return
        if preview is None:
            return
        with self._condition:
            self.latest_preview, self.frame_count, self._last_started_at = preview, self.frame_count + 1, started_at
            requests, self._requests = self._requests, {}
        self._update_status(problem=self.pixel_blend.problem if self.pixel_blend is not None and "pixels" in views else "")
        for _, wake in requests.values():
            wake()

    def _render_preview(
        self, source: FrameSource, source_number: int, position: float, views: frozenset[str]
    ) -> EncodedPreview | None:
        """Returns the preview; None where the source turned out to have no other frame than the last one."""
        source_frame = source.get_frame(position)
        if self._timeline_followed and self.timeline is not None:
            requested = self.timeline.at(position, source_frame.number)
            if requested != self.shared_alpha.state.requested:
                self.shared_alpha.set_alpha(requested, TIMELINE_SOURCE)
        state = self.shared_alpha.read()
        if self._is_unchanged(source_frame, source_number, state, views):
            return None
        started_at = time.perf_counter()
        old_generation = self.session.generation
        self.session.alpha = state.coefficients
        rendered = self.session.render(source_frame.frame)
        rendered_at = time.perf_counter()
        jpegs = {"blend": encode_jpeg(rendered.output, self.quality)}
        if "before" in views:
            jpegs["before"] = encode_jpeg(source_frame.frame, self.quality)
        if "pixels" in views and self._is_pixel_blend_ready():
            assert self.pixel_blend is not None
            key = (source_number, source_frame.number)
            blended = self.pixel_blend.blend_outputs(source_frame.frame, key, rendered.coefficients.values)
            jpegs["pixels"] = encode_jpeg(blended, self.quality)
        self._rendered_frame_key = (source_number, source_frame.number)
        metadata = FrameMetadata(
            sequence=self.frame_count + 1,
            generation=rendered.generation,
            frame_number=source_frame.number,
            alpha_sequence=state.sequence,
            coefficients=rendered.coefficients.values,
            is_alpha_moving=state.coefficients != state.requested,
            network_ms=(rendered_at - started_at) * 1e3,
            change_ms=self.session.change_seconds * 1e3 if rendered.generation != old_generation else 0.0,
            encode_ms=(time.perf_counter() - rendered_at) * 1e3,
            started_at=started_at,
        )
        return EncodedPreview(metadata, jpegs, views)

    def _is_unchanged(self, source_frame: SourceFrame, source_number: int, state: AlphaState, views: frozenset[str]) -> bool:
        last = self.latest_preview
        return (
            last is not None
            and self._rendered_frame_key == (source_number, source_frame.number)
            and last.metadata.alpha_sequence == state.sequence
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


def encode_jpeg(frame: Frame, quality: int) -> bytes:
    """Encodes a frame.

    Args:
        frame: uint8 (H, W, 3), RGB.
        quality: JPEG quality, 1 to 95; from MIN_FULL_CHROMA_QUALITY on color is stored at full resolution.

    Returns:
        The content of a JPEG file.
    """
    buffer = io.BytesIO()
    subsampling = 0 if quality >= MIN_FULL_CHROMA_QUALITY else 2  # Pillow's numbers: 0 is 4:4:4, 2 is 4:2:0
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()
