"""Records what is played on the live page: the alpha of each frame of the video, or of each moment of a still image."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.log import AlphaLog
from dni_deploy.alpha.timeline import AlphaTimeline, make_read_only_array
from dni_deploy.errors import UsageError
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.webui.frame_source import FrameSource, SourceFrame, VideoPosition


class _Setting(NamedTuple):
    """An alpha that was set, whose place in the video is not known yet."""

    source_seconds: float
    sequence: int
    values: tuple[float, ...]


class _Row(NamedTuple):
    """What a take has at a frame or moment, and the number of the change of alpha that it is."""

    sequence: int
    values: tuple[float, ...]


@dataclass
class TakeRecorder:
    """Records one take at a time; the last one is kept until the next one begins.

    Of a video, a take has a row for each frame at which alpha changes, by the frame's number in the file: what was shown has
    exactly the alpha that it was shown with, and what was set while the network was busy stands at the frame that the video
    had reached at that moment. It ends where the video begins anew. Of a still image or a camera, rows are in seconds from the
    start.

    Attributes:
        members: Names of the family's members, in family order.
        records_settings: Whether what is set counts by itself. False with a slew limit: alpha is then on the way to what was
            set, and only what was shown is recorded.

    Thread safety: any thread may call any method.
    """

    members: tuple[str, ...]
    records_settings: bool = True

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._source: FrameSource | None = None
        self._is_video = False
        self._started_at: float | None = None
        self._stopped_at: float | None = None
        self._pass: int | None = None
        self._rows: dict[float, _Row] = {}
        self._rows_ahead: set[float] = set()  # of settings on frames that were not shown yet
        self._pending: list[_Setting] = []
        self._last_shown: tuple[float, int] | None = None

    @property
    def is_video(self) -> bool:
        """Whether the last take is of a video."""
        return self._is_video

    @property
    def source(self) -> FrameSource | None:
        """What the last take was recorded on; None before the first one."""
        return self._source

    @property
    def is_recording(self) -> bool:
        """Whether a take has begun and not ended."""
        return self._started_at is not None and self._stopped_at is None

    def start(self, source: FrameSource, source_seconds: float, sequence: int, coefficients: Coefficients) -> None:
        """Begins a take with the alpha that is set now; it replaces the last one.

        Args:
            source: What is shown.
            source_seconds: Its time.
            sequence: Number of the last change of alpha.
            coefficients: The alpha.
        """
        with self._lock:
            self._source, self._is_video = source, source.locate(source_seconds) is not None
            self._started_at, self._stopped_at, self._pass = source_seconds, None, None
            self._rows, self._rows_ahead, self._last_shown = {}, set(), None
            self._pending = [_Setting(source_seconds, sequence, coefficients.values)]

    def stop(self, source_seconds: float) -> None:
        """Ends the take; frames that were begun before may still come."""
        with self._lock:
            if self.is_recording:
                self._stopped_at = source_seconds

    def record_setting(self, source_seconds: float, sequence: int, coefficients: Coefficients) -> None:
        """Records an alpha at the moment at which it is set."""
        with self._lock:
            if self.is_recording and self.records_settings:
                self._pending.append(_Setting(source_seconds, sequence, coefficients.values))

    def record_shown(
        self, source: FrameSource, source_frame: SourceFrame, source_seconds: float, sequence: int, coefficients: Coefficients
    ) -> None:
        """Records a frame that was rendered.

        Args:
            source: What it is from.
            source_frame: The frame.
            source_seconds: Time of the source at which it began.
            sequence: Number of the change of alpha that it has.
            coefficients: What it was rendered with.
        """
        position = source_frame.position
        with self._lock:
            if source is not self._source:
                return
            for setting in self._pending:
                if setting.source_seconds <= source_seconds:
                    self._rows_ahead |= self._place_setting(setting, self._rows)
            self._pending = [one for one in self._pending if one.source_seconds > source_seconds and one.sequence > sequence]
            if not self._is_in_take(source_seconds):
                return
            if position is not None and position.pass_number != self._find_pass(position):
                self._stopped_at = source_seconds if self._stopped_at is None else self._stopped_at
                return
            row = self._to_row(source_seconds, position)
            self._rows_ahead = {ahead for ahead in self._rows_ahead if ahead > row}
            for ahead in [ahead for ahead in self._rows_ahead if self._rows[ahead].sequence < sequence]:
                self._rows_ahead.remove(ahead)
                del self._rows[ahead]
            self._rows[row] = _Row(sequence, coefficients.values)
            self._last_shown = row, sequence

    def make_timeline(self) -> AlphaTimeline:
        """Makes the last take a timeline, whose numbers are those that were shown, bit for bit.

        Raises:
            UsageError: Nothing was recorded yet.
        """
        with self._lock:
            placed = dict(self._rows)
            for setting in self._pending:
                self._place_setting(setting, placed)
            if not placed:
                raise UsageError("Nothing has been recorded yet.")
            end = self._find_end()
            rows = [(row, placed[row].values) for row in sorted(placed)]
            rows = _drop_repeated_rows(rows, keeps_ends=not self.records_settings)
            if end is not None and end > rows[-1][0]:
                rows.append((end, rows[-1][1]))
            times, values = zip(*rows, strict=True)
        return AlphaTimeline(
            self.members,
            "frames" if self._is_video else "seconds",
            make_read_only_array(times),
            make_read_only_array(values),
            "hold" if self.records_settings else "linear",
        )

    def _place_setting(self, setting: _Setting, rows: dict[float, _Row]) -> set[float]:
        """Puts a setting at the frame of its moment, or behind what was shown before it; the newest on a frame counts.

        Returns:
            Its row; none where a newer one was shown already, or the video has begun anew.
        """
        position = None if self._source is None else self._source.locate(setting.source_seconds)
        if position is not None and position.pass_number != self._find_pass(position):
            return set()
        row = self._to_row(setting.source_seconds, position)
        if self._last_shown is not None:
            last_row, last_sequence = self._last_shown
            if setting.sequence <= last_sequence:
                return set()
            row = max(row, last_row + 1) if self._is_video else row
        if row in rows and rows[row].sequence > setting.sequence:
            return set()
        rows[row] = _Row(setting.sequence, setting.values)
        return {row}

    def _find_pass(self, position: VideoPosition) -> int:
        """Returns the pass of the take, which is that of its first frame."""
        self._pass = position.pass_number if self._pass is None else self._pass
        return self._pass

    def _is_in_take(self, source_seconds: float) -> bool:
        return self._started_at is not None and (
            self._started_at <= source_seconds and (self._stopped_at is None or source_seconds <= self._stopped_at)
        )

    def _to_row(self, source_seconds: float, position: VideoPosition | None) -> float:
        return position.frame if position is not None else max(0.0, source_seconds - (self._started_at or 0.0))

    def _find_end(self) -> float | None:
        if self._stopped_at is None or self._started_at is None or self._source is None:
            return None
        position = self._source.locate(self._stopped_at)
        if position is None:
            return self._stopped_at - self._started_at
        return position.frame if position.pass_number == self._pass else None


def _drop_repeated_rows(
    rows: Sequence[tuple[float, tuple[float, ...]]], *, keeps_ends: bool
) -> list[tuple[float, tuple[float, ...]]]:
    """Leaves out rows that change nothing: those equal to the row before, and of straight lines those equal to both neighbors."""
    kept = []
    for index, (row, values) in enumerate(rows):
        repeats = index > 0 and rows[index - 1][1] == values
        if repeats and (not keeps_ends or (index + 1 < len(rows) and rows[index + 1][1] == values)):
            continue
        kept.append((row, values))
    return kept


class ShownFramesLog:
    """Writes an alpha log of the frames that were shown: one line for each frame of a video, with what it was shown with last.

    The numbers of a video are those of its first pass and go on in the next ones; a still image's are counted.
    """

    def __init__(self, log: AlphaLog, is_moving: bool) -> None:
        """Stores the log, which the caller closes."""
        self._log, self._is_moving = log, is_moving
        self._count = 0
        self._last: tuple[int, float, int, Coefficients] | None = None

    def add(self, source_frame: SourceFrame, source_seconds: float, rendered: RenderedFrame) -> None:
        """Writes the line of the frame before, unless this is the same frame with another alpha.

        Raises:
            LimitError: There is no room for it.
            InputError: The disk fails.
        """
        position = source_frame.position
        number = source_frame.number if self._is_moving else self._count
        is_first_pass = position is not None and position.pass_number == 0
        seconds = position.seconds if position is not None and is_first_pass else source_seconds
        if self._last is not None and self._last[0] < number:
            self._log.write(*self._last)
        self._last = number, seconds, rendered.generation, rendered.coefficients
        self._count += 1

    def finish(self) -> None:
        """Writes the last line; raises as `add` does."""
        if self._last is not None:
            self._log.write(*self._last)
            self._last = None
