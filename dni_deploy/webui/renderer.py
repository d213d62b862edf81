"""The thread that renders previews: only when a page asks for one and it differs from the last, and keeping only the newest."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.log import AlphaLog
from dni_deploy.alpha.timeline import AlphaSource, AlphaTimeline
from dni_deploy.control.shared_alpha import AlphaState, SharedAlpha
from dni_deploy.errors import DniError, UsageError
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.session.session import Session
from dni_deploy.webui.frame_source import FrameSource, SourceFrame
from dni_deploy.webui.message import FrameMetadata
from dni_deploy.webui.pixel_blend import PixelBlend
from dni_deploy.webui.take import ShownFramesLog, TakeRecorder

TIMELINE_SOURCE, TAKE_SOURCE = "timeline", "take"
"""Who set the alpha, where it follows the timeline that was given, or the take that was recorded last."""

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
        output: uint8 (H, W, 3), the frame itself; nobody changes the pixels.
    """

    metadata: FrameMetadata
    jpegs: dict[str, bytes]
    requested_kinds: frozenset[str]
    output: Frame


class _SetByOthersError(Exception):
    """Somebody else has set the alpha that a timeline or a take was about to set."""


class Renderer:
    """Renders previews in a thread; owns that thread and the source, but neither the session nor the shared alpha.

    Attributes:
        latest_preview: The newest preview, replaced as a whole; None before the first.
        frame_count: Number of frames that were rendered.
        recorder: Records takes.
        failure: What ended the thread, or None.
        log_failure: What ended the alpha log, or None.
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
        alpha_log: AlphaLog | None = None,
        quality: int = 80,
        fps: float = 60.0,
    ) -> None:
        """Makes a renderer that is not started.

        Args:
            session: Renders the frames.
            shared_alpha: The alpha that they are rendered with.
            source: What is shown, and shown again after another one.
            pixel_blend: Renders the kind "pixels"; None: there is none.
            timeline: Alpha over time, which is followed until somebody else sets the shared alpha.
            alpha_log: Gets a line for each frame of `source` that is shown; the caller closes it after the renderer.
            quality: JPEG quality, 1 to 95.
            fps: Largest number of frames in a second.
        """
        self.session, self.shared_alpha, self.pixel_blend, self.timeline = session, shared_alpha, pixel_blend, timeline
        self.quality, self.fps = quality, fps
        self.latest_preview: EncodedPreview | None = None
        self.frame_count = 0
        self.recorder = TakeRecorder(shared_alpha.members, records_settings=shared_alpha.slew is None)
        self.failure: BaseException | None = None
        self.log_failure: DniError | None = None
        self._shown_log = None if alpha_log is None else ShownFramesLog(alpha_log, source.is_moving)
        self.status: tuple[int, dict[str, Any]] = (0, {})
        self._source, self._old_sources = source, list[FrameSource]()
        self._first_source, self._first_position_s = source, 0.0
        self._requests: dict[int, tuple[frozenset[str], Callable[[], None]]] = {}
        self._wake_callbacks: dict[int, Callable[[], None]] = {}
        self._condition = threading.Condition()
        self._closing = False
        self._source_number = 0  # grows with each source, so that frames of two sources never have one key
        self._render_forced = True
        self._rendered_frame_key = (-1, -1)
        self._followed = TIMELINE_SOURCE if timeline is not None else ""
        self._followed_sequence = shared_alpha.state.sequence  # of the last change that was made by following
        self._take: AlphaTimeline | None = None
        self._take_started_s, self._take_loops = 0.0, False
        self._paused = False
        self._position_s, self._position_updated_at, self._last_started_at = 0.0, time.perf_counter(), -math.inf
        if pixel_blend is not None:
            pixel_blend.on_ready = self.force_render
        self._unsubscribe = shared_alpha.subscribe(self._on_alpha_set)
        self._thread = threading.Thread(target=self._run_thread, name="dni-renderer", daemon=True)
        self._update_status(
            source=source.name,
            is_moving=source.is_moving,
            first_source=source.name,
            is_first_source=True,
            paused=False,
            follows=timeline is not None,
            recording=False,
            take=None,
            playing=False,
            problem="",
            pixels="",
            controls=dict(shared_alpha.state.controls),
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
        for source in {*self._old_sources, self._source, self._first_source}:
            source.close()
        if self._shown_log is not None:
            self._write_log(self._shown_log.finish)

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
            position = self._advance_position()
            if self._source is self._first_source:
                self._first_position_s = position
            elif self._source is not source:
                self._old_sources.append(self._source)
            self.recorder.stop(position)
            self._position_s = self._first_position_s if source is self._first_source else 0.0
            self._source, self._render_forced = source, True
            self._source_number += 1
            self._condition.notify_all()
        self._update_status(
            source=source.name,
            is_moving=source.is_moving,
            is_first_source=source is self._first_source,
            **self._describe_take(),
            problem="",
        )

    def restore_source(self) -> None:
        """Shows the source again that was shown first; a video goes on where it was left."""
        if self._source is not self._first_source:
            self.replace_source(self._first_source)

    def record(self, enabled: bool) -> None:
        """Begins a take, which replaces the last one, or ends it."""
        with self._condition:
            position = self._advance_position()
            if not enabled:
                self.recorder.stop(position)
            elif not self.recorder.is_recording:
                state = self.shared_alpha.state
                self.recorder.start(self._source, position, state.sequence, state.coefficients)
            self._followed = "" if self._followed == TAKE_SOURCE else self._followed
        self._update_status(playing=False, **self._describe_take())

    def make_take(self) -> AlphaTimeline:
        """Makes the last take a timeline.

        Raises:
            UsageError: Nothing was recorded yet.
        """
        return self.recorder.make_timeline()

    def play_take(self, enabled: bool, loop: bool = False) -> None:
        """Follows the last take, or no longer: a video's by its frames, whenever they are shown; another one once, or in a loop.

        Raises:
            UsageError: Nothing was recorded yet, or it is a video's and another source is shown.
        """
        take = self.make_take() if enabled else None
        with self._condition:
            position = self._advance_position()
            if (
                take is not None
                and (self.recorder.is_video or self._source.is_moving)
                and self._source is not self.recorder.source
            ):
                raise UsageError("The take belongs to another source; record one of this.")
            self.recorder.stop(position)
            self._take, self._take_started_s, self._take_loops = take, position, loop
            if take is not None:
                self._followed, self._followed_sequence = TAKE_SOURCE, self.shared_alpha.state.sequence
            elif self._followed == TAKE_SOURCE:
                self._followed = ""
            self._condition.notify_all()
        self._update_status(playing=take is not None, follows=False, **self._describe_take())

    def _describe_take(self) -> dict[str, Any]:
        recorder = self.recorder
        if recorder.source is None:
            return {"recording": False, "take": None}
        take: dict[str, Any] = {"video": recorder.is_video}
        if not recorder.is_recording:
            times = self.make_take().times
            take |= {"keyframes": len(times), "first": float(times[0]), "last": float(times[-1])}
        return {"recording": recorder.is_recording, "take": take}

    def pause(self, paused: bool) -> None:
        """Stops the source's time, or lets it go on; alpha still changes the preview."""
        with self._condition:
            self._advance_position()
            self._paused = paused
            self._condition.notify_all()
        self._update_status(paused=paused)

    def follow_timeline(self, enabled: bool) -> None:
        """Takes alpha from the timeline again, where there is one, or no longer."""
        followed = TIMELINE_SOURCE if enabled and self.timeline is not None else ""
        with self._condition:
            self._followed, self._followed_sequence = followed, self.shared_alpha.state.sequence
            self._condition.notify_all()
        self._update_status(follows=bool(followed), playing=False)

    def force_render(self) -> None:
        """Renders a preview even if nothing has changed: something that was not ready is now."""
        with self._condition:
            self._render_forced = True
            self._condition.notify_all()

    def _on_alpha_set(self, state: AlphaState) -> None:
        with self._condition:
            self.recorder.record_setting(self._advance_position(), state.sequence, state.requested)
            was_followed = self._followed
            self._followed = was_followed if state.source == was_followed else ""
            has_left = was_followed != self._followed
            self._condition.notify_all()
        if has_left:
            self._update_status(follows=False, playing=False)

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
        if not (self._paused and self._source.is_moving):
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
            or self._followed
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
            self._last_started_at = started_at if self._followed else self._last_started_at
            return
        with self._condition:
            self.latest_preview, self.frame_count, self._last_started_at = preview, self.frame_count + 1, started_at
            requests, self._requests = self._requests, {}
        blend_problem = self.pixel_blend.problem if self.pixel_blend is not None and "pixels" in views else ""
        self._update_status(problem=blend_problem or ("" if self.log_failure is None else str(self.log_failure)))
        for _, wake in requests.values():
            wake()

    def _render_preview(
        self, source: FrameSource, source_number: int, position: float, views: frozenset[str]
    ) -> EncodedPreview | None:
        """Returns the preview; None where the source turned out to have no other frame than the last one."""
        source_frame = source.get_frame(position)
        followed = self._followed
        requested = self._alpha_to_follow(followed, position, source_frame)
        if requested is not None and requested != self.shared_alpha.state.requested:
            self._set_followed_alpha(requested, followed)
        state = self.shared_alpha.read()
        if self._is_unchanged(source_frame, source_number, state, views):
            return None
        started_at = time.perf_counter()
        old_generation = self.session.generation
        self.session.alpha, self.session.controls = state.coefficients, state.controls
        self._update_status(controls=dict(state.controls))
        rendered = self.session.render(source_frame.frame)
        rendered_at = time.perf_counter()
        jpegs = {"blend": encode_jpeg(rendered.output, self.quality)}
        if "before" in views:
            jpegs["before"] = encode_jpeg(source_frame.frame, self.quality)
        if "pixels" in views and self._is_pixel_blend_ready():
            assert self.pixel_blend is not None
            key = (source_number, source_frame.number)
            shares = rendered.coefficients.values
            blended = self.pixel_blend.blend_outputs(source_frame.frame, key, shares, state.controls)
            jpegs["pixels"] = encode_jpeg(blended, self.quality)
        self._rendered_frame_key = (source_number, source_frame.number)
        self._record_shown(source, source_frame, position, state.sequence, rendered)
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
        return EncodedPreview(metadata, jpegs, views, rendered.output)

    def _set_followed_alpha(self, requested: Coefficients, followed: str) -> None:
        """Sets the shared alpha, unless somebody else has set it since: their alpha stays, and is no longer followed over."""

        def change(_: Coefficients) -> Coefficients:
            if self.shared_alpha.state.sequence != self._followed_sequence:
                raise _SetByOthersError
            return requested

        with contextlib.suppress(_SetByOthersError):
            self._followed_sequence = self.shared_alpha.update(change, followed)

    def _alpha_to_follow(self, followed: str, position: float, source_frame: SourceFrame) -> Coefficients | None:
        """Returns the alpha of the timeline or take that is followed; None where it ends, or without one."""
        if followed == TIMELINE_SOURCE and self.timeline is not None:
            return self.timeline.at(position, source_frame.number)
        take = self._take
        if followed != TAKE_SOURCE or take is None:
            return None
        if source_frame.position is not None:
            return take.at(source_frame.position.seconds, source_frame.position.frame)
        seconds, length = position - self._take_started_s, float(take.times[-1])
        if seconds < length:
            return take.at(seconds, 0)
        if self._take_loops and length > 0:
            return take.at(seconds % length, 0)
        self.play_take(False)
        return take.at(length, 0)

    def _record_shown(
        self, source: FrameSource, source_frame: SourceFrame, position: float, sequence: int, rendered: RenderedFrame
    ) -> None:
        """Adds a frame to the take and to the alpha log."""
        was_recording = self.recorder.is_recording
        self.recorder.record_shown(source, source_frame, position, sequence, rendered.coefficients)
        if was_recording and not self.recorder.is_recording:  # the video has begun anew
            self._update_status(**self._describe_take())
        if self._shown_log is not None and source is self._first_source:
            shown_log = self._shown_log
            self._write_log(lambda: shown_log.add(source_frame, position, rendered))

    def _write_log(self, write: Callable[[], None]) -> None:
        """Writes to the alpha log; a performance goes on where that fails."""
        if self.log_failure is None:
            try:
                write()
            except DniError as error:
                self.log_failure = error
                self._update_status(problem=str(error))

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
