"""Shards of a video: several processes, on one machine or many, make its segments in a folder that all of them see."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dni_deploy.alpha.coefficients import Alpha
from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.api.video import IndexReplacedError, SegmentMaker, VideoReport, finish_video, open_video_job
from dni_deploy.api.video_settings import VideoRequest, VideoSettings, check_request
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, LimitError, PartialResultError, UnavailableError, UsageError, escape_name
from dni_deploy.jobs.manifest import append_row, read_rows
from dni_deploy.jobs.shard import JOIN, Shard, format_shards_to_repeat
from dni_deploy.jobs.unit import UnitResult, WorkerName, make_worker_name, run_unit
from dni_deploy.storage.staging import discard_staged, name_staged_errors
from dni_deploy.utils.address import as_local_path, is_remote
from dni_deploy.utils.format_count import format_count, format_numbers
from dni_deploy.utils.progress import OptionalProgress
from dni_deploy.video_io.frame_index import FrameIndex
from dni_deploy.video_io.reader import SizeChangeError
from dni_deploy.video_io.resume import is_stopped_job, job_folder_path
from dni_deploy.video_io.segment_units import SegmentUnit, list_units

FATAL_ERRORS = (LimitError, UnavailableError, SizeChangeError, UsageError)
"""Errors that every unit would meet, so that the shard stops at the first."""


@dataclass(frozen=True)
class ShardReport:
    """What one shard did.

    Attributes:
        source: The video that was read.
        folder: The job folder, where the segments are.
        shard: Its number and the number of shards, "1/4".
        frames: Number of frames of the shard's segments.
        resumed_frames: Number of them that were there when it began.
        segments: Number of its segments.
        video_frames: Number of frames of the whole video.
        seconds: Time for everything, without opening the engine.
        notes: How the segments were made, one phrase each.
    """

    source: str
    folder: str
    shard: str
    frames: int
    resumed_frames: int
    segments: int
    video_frames: int
    seconds: float
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return asdict(self)


def video_shard(
    bundle_path: Bundle | str | os.PathLike[str],
    source_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    alpha: Alpha | AlphaSource | str | os.PathLike[str] | None = None,
    *,
    shard: str,
    progress: OptionalProgress = None,
    **options: Any,
) -> ShardReport | VideoReport:
    """Makes one shard of a video's segments, or joins the segments of all shards.

    The shards share nothing but the folder OUTPUT.dni-part beside the output, so that each may run on a machine of its own that
    sees this folder. A shard that was stopped is given again, in any order or twice at once; its whole segments stay. The
    joined video is byte for byte that of `video`.

    Args:
        bundle_path: The bundle or its path.
        source_path: The video.
        output: The video to write.
        alpha: As for `video`; it cannot be set from outside.
        shard: "K/N", the K-th of N shards, from 1; or "join".
        progress: Called with the frames done.
        **options: As for `video`, without `fresh`.

    Returns:
        What was done: a ShardReport, or for "join" what `video` returns.

    Raises:
        UsageError: There is no such shard, the job has other settings, or, when joining, segments are missing.
        BusyError: `video` works at the output, or, when joining, a shard.
        PartialResultError: Some units of the shard failed and the others are done; or as `video`, when joining.
        DniError: As `video` raises.
    """
    if options.pop("fresh", False):
        raise UsageError(
            "--fresh would discard what other shards have done; remove the job folder before the first one begins."
        )
    if is_remote(output):
        raise UsageError(
            f"Shards meet in a folder beside the output, which all of them see, and {escape_name(output)} is an address; name a "
            "path, and upload the video when it is joined. Nothing was written."
        )
    is_join = shard.strip() == JOIN
    parsed = None if is_join else Shard.parse(shard)
    if is_join and not is_stopped_job(as_local_path(output)):
        folder = escape_name(job_folder_path(as_local_path(output)))
        raise UsageError(f"There is nothing to join: no shard has begun a job in {folder}. Nothing was written.")
    request = VideoRequest(bundle_path=bundle_path, source_path=source_path, output=output, alpha=alpha, **options)
    with name_staged_errors(source_path):
        report = _run_request(request, parsed, progress)
    discard_staged(source_path)
    return report


def _run_request(request: VideoRequest, shard: Shard | None, progress: OptionalProgress) -> ShardReport | VideoReport:
    settings = check_request(request, progress)
    return _join_shards(settings, progress) if shard is None else _make_shard(settings, shard, progress)


def _make_shard(settings: VideoSettings, shard: Shard, progress: OptionalProgress) -> ShardReport:
    if settings.is_live:
        raise UsageError("Alpha that is set from outside is not the same for all shards; give --shard alpha over time.")
    started = time.perf_counter()
    with open_video_job(settings, shared=True) as job, SegmentMaker(settings, job, progress) as maker:
        worker = _ShardWorker(maker, shard)
        maker.load_index()
        while not worker.make_units(maker.index):  # until the index with which the units were planned is the one of the job
            maker.load_index()
        worker.raise_failures()
        return ShardReport(
            source=settings.source_name,
            folder=os.fspath(job.folder),
            shard=str(shard),
            frames=job.frames,
            resumed_frames=worker.resumed_frames,
            segments=len(job.segments),
            video_frames=maker.index.frames,
            seconds=time.perf_counter() - started - maker.opening_seconds,
            notes=(*settings.source.notes, *maker.notes),
        )


class _ShardWorker:
    """Does the units of one shard, one after the other.

    Attributes:
        resumed_frames: Number of frames of its segments that were there before.
    """

    def __init__(self, maker: SegmentMaker, shard: Shard) -> None:
        self.resumed_frames = 0
        self._maker, self._shard = maker, shard
        self._name = WorkerName(make_worker_name(), str(shard))
        self._failures: list[DniError] = []
        self._unit_count = 0

    def make_units(self, index: FrameIndex) -> bool:
        """Does all units of an index; returns whether the index is still that of the job.

        Raises:
            DniError: One of FATAL_ERRORS.
        """
        maker, job = self._maker, self._maker.job
        job.stored_segments.clear()
        self._failures.clear()
        self.resumed_frames = 0
        units = self._shard.select_units(list_units(index, job.segment_frames, self._shard.count))
        self._unit_count = len(units)
        maker.total_frames = sum(unit.end_frame - unit.first_frame for unit in units)
        for unit in units:
            job.load_segments(unit.places, index)
        self.resumed_frames = job.frames
        for unit in units:
            if not unit.split_missing(job.stored_segments):
                continue
            try:
                row = run_unit(unit, self._make_unit, self._name)
            except IndexReplacedError:
                return False
            if maker.session is not None:
                machine = maker.session.describe_machine(maker.settings.session_options.device)
                append_row(job.folder, replace(row, engine=maker.session.engine.name, machine=machine))
            if self._failures and isinstance(self._failures[-1], FATAL_ERRORS):
                raise self._failures[-1]
        return job.read_index() in (index, None)

    def raise_failures(self) -> None:
        """Raises the first error where every unit failed, and PartialResultError where some did."""
        if len(self._failures) == self._unit_count and self._failures:
            raise self._failures[0]
        if self._failures:
            raise PartialResultError(
                f"{len(self._failures)} of {format_count(self._unit_count, 'unit')} of shard {self._shard} failed, and the others are "
                f"done; give the same command again for them. {self._failures[0]}"
            )

    def _make_unit(self, unit: SegmentUnit) -> UnitResult:
        notes_before = self._maker.notes
        try:
            self._maker.make_unit(unit)
        except DniError as error:
            self._failures.append(error)
            raise
        return UnitResult(tuple(note for note in self._maker.notes if note not in notes_before))


def _join_shards(settings: VideoSettings, progress: OptionalProgress) -> VideoReport:
    started = time.perf_counter()
    with open_video_job(settings) as job, SegmentMaker(settings, job, progress) as maker:
        maker.load_index()
        missing = [place.number for unit in maker.list_missing() for place in unit.places]
        if missing:
            raise _make_missing_error(maker, missing)
        return finish_video(maker, maker.collect_dropped_frames(), started)


def _make_missing_error(maker: SegmentMaker, missing: Sequence[int]) -> UsageError:
    """Names the segments that are missing, the shards that make them, and why one of them failed."""
    job, rows = maker.job, list(read_rows(maker.job.folder))
    total = len(maker.index.list_segments(job.segment_frames))

    def list_positions(count: int) -> list[int]:
        units = list_units(maker.index, job.segment_frames, count)
        return [n for n, unit in enumerate(units) if any(place.number in missing for place in unit.places)]

    shards = format_shards_to_repeat({row.shard for row in rows}, list_positions)
    errors = [f" {row.error.message}" for row in rows if row.error is not None]
    return UsageError(
        f"Segments {format_numbers(missing)} of {total} (from 0) are missing{shards}. What is done is kept in "
        f"{escape_name(job.folder)}, and nothing was joined.{errors[-1] if errors else ''}"
    )
