"""A video on a Ray cluster: its workers make the segments, and this process joins them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

from dni_deploy.alpha.coefficients import Alpha
from dni_deploy.alpha.timeline import AlphaSource
from dni_deploy.api.cluster_workers import (
    adapt_session_options,
    make_bundle_absolute,
    make_path_absolute,
    open_ray_workers,
    require_ray,
)
from dni_deploy.api.video import IndexReplacedError, SegmentMaker, VideoReport, open_video_job
from dni_deploy.api.video_settings import VideoRequest, VideoSettings, check_request
from dni_deploy.api.video_shards import FATAL_ERRORS, join_segments
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import PartialResultError, UsageError
from dni_deploy.jobs.manifest import RowWriter
from dni_deploy.jobs.ray_options import RayOptions
from dni_deploy.jobs.unit import UnitError, UnitResult, UnitRow, WorkerName, make_worker_name, run_unit
from dni_deploy.session.options import SessionOptions
from dni_deploy.spatial.alpha_map import AlphaMapOptions
from dni_deploy.utils.format_count import format_count
from dni_deploy.utils.hardware import cpu_name
from dni_deploy.utils.progress import OptionalProgress, report_progress
from dni_deploy.video_io.frame_index import FrameIndex
from dni_deploy.video_io.resume import VideoJob, is_stopped_job
from dni_deploy.video_io.segment_units import SegmentUnit, list_units

INDEX_REPLACED_KIND = "IndexReplaced"
"""The kind of the error of a unit that was planned by an index which turned out to be wrong."""


def video_on_cluster(
    bundle_path: Bundle | str | os.PathLike[str],
    source_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    alpha: Alpha | AlphaSource | str | os.PathLike[str] | None = None,
    *,
    ray_options: RayOptions,
    fresh: bool = False,
    progress: OptionalProgress = None,
    **options: Any,
) -> VideoReport:
    """Processes a video on a Ray cluster; the result is byte for byte that of `video`.

    Each worker makes runs of segments in the folder OUTPUT.dni-part beside the output, which all machines have to see, as they
    see the video and the bundle. A job that was stopped goes on when it is called again, here, by `video`, or by shards.

    Args:
        bundle_path: The bundle or its path.
        source_path: The video.
        output: The video to write.
        alpha: As for `video`; it cannot be set from outside.
        ray_options: The cluster, and what each worker takes.
        fresh: Start again.
        progress: Called with the frames done.
        **options: As for `video`.

    Returns:
        What was done.

    Raises:
        UsageError: The job has other settings, or alpha is set from outside.
        UnavailableError: There is no cluster, it has not the room, or a worker cannot do anything there.
        PartialResultError: Some runs of segments failed and the others are done; or as `video`.
        DniError: As `video` raises.
    """
    require_ray()
    request = _make_request(bundle_path, source_path, output, alpha, ray_options, options)
    settings = check_request(request, progress)
    if settings.is_live:
        raise UsageError("Alpha that is set from outside is not the same for all workers; give --ray alpha over time.")
    started = time.perf_counter()
    if fresh:
        with open_video_job(settings, fresh=True) as job:
            job.remove()
    resumed_frames, notes = _make_segments(settings, ray_options, progress)
    report = join_segments(settings, progress)
    seconds = time.perf_counter() - started
    return replace(report, resumed_frames=resumed_frames, seconds=seconds, notes=(*report.notes, *notes))


def _make_request(
    bundle_path: Bundle | str | os.PathLike[str],
    source_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    alpha: Any,
    ray_options: RayOptions,
    options: dict[str, Any],
) -> VideoRequest:
    """Makes a request whose paths mean the same in every folder."""
    alpha_map = options.pop("alpha_map", None)
    if isinstance(alpha_map, str | os.PathLike):
        alpha_map = AlphaMapOptions(alpha_map)
    if alpha_map is not None:
        alpha_map = replace(alpha_map, mask=make_path_absolute(alpha_map.mask))
    session_options = adapt_session_options(options.pop("options", None) or SessionOptions(), ray_options)
    return VideoRequest(
        bundle_path=make_bundle_absolute(Bundle.ensure_open(bundle_path)),
        source_path=make_path_absolute(source_path),
        output=make_path_absolute(output),
        alpha=alpha,
        alpha_map=alpha_map,
        options=session_options,
        **options,
    )


def _make_segments(settings: VideoSettings, ray_options: RayOptions, progress: OptionalProgress) -> tuple[int, list[str]]:
    """Makes the segments that are missing; returns the frames that were there before, and notes."""
    notes: dict[str, None] = {}
    with open_video_job(settings, shared=True) as job, SegmentMaker(settings, job, progress) as maker:
        try:
            maker.load_index()
            while True:  # until the index with which the units were planned is the one of the job
                index = maker.index
                job.load_segments(index.list_segments(job.segment_frames), index)
                resumed_frames = job.frames
                rows = _run_units(settings, job, index, ray_options, progress)
                if rows is not None:
                    break
                maker.load_index()
        except BaseException:
            if not is_stopped_job(settings.output_path):  # nothing was begun
                job.remove()
            raise
    failures = [row.error for row in rows if row.error is not None]
    if failures and len(failures) == len(rows):
        raise failures[0].to_error()
    if failures:
        raise PartialResultError(
            f"{len(failures)} of {format_count(len(rows), 'unit')} failed, and the others are done; give the same command again for "
            f"them. {failures[0].message}"
        )
    for row in rows:
        notes.update(dict.fromkeys(row.notes))
    return resumed_frames, list(notes)


def _run_units(
    settings: VideoSettings, job: VideoJob, index: FrameIndex, ray_options: RayOptions, progress: OptionalProgress
) -> list[UnitRow] | None:
    """Makes what is missing; returns the rows, or None where the index was replaced meanwhile."""
    if not SegmentUnit(tuple(index.list_segments(job.segment_frames))).split_missing(job.stored_segments):
        return []
    alpha_map = settings.request.alpha_map
    mask = [alpha_map.mask] if isinstance(alpha_map, AlphaMapOptions) else []
    with closing(
        open_ray_workers(
            SegmentWorkerFactory(_detach_request(settings), index),
            ray_options,
            bundle=settings.bundle,
            engine=settings.session_options.engine,
            job_folder=job.folder,
            other_paths=[settings.source.path, *mask],
            progress=progress,
        )
    ) as workers:
        listed = list_units(index, job.segment_frames, workers.worker_count)
        units = {unit.id: unit for unit in listed if unit.split_missing(job.stored_segments)}
        done, rows = job.frames, []

        def report(_: int, __: int, what: str) -> None:
            report_progress(progress, done, index.frames, what)

        with closing(workers.run_units(list(units.values()), report)) as ended:
            for row in ended:
                if row.error is not None and row.error.kind == INDEX_REPLACED_KIND:
                    return None
                rows.append(row)
                unit = units[row.unit]
                done += sum(place.frames for part in unit.split_missing(job.stored_segments) for place in part.places)
        return rows


def _detach_request(settings: VideoSettings) -> VideoRequest:
    """Makes the request of a worker: its alpha is read already, and it writes no log and no output."""
    request, map_settings = settings.request, settings.map_settings
    alpha: Any = settings.alphas if request.alpha is not None else None
    alpha_map = request.alpha_map
    if map_settings is not None and isinstance(alpha_map, AlphaMapOptions) and alpha_map.white is not None:
        alpha_map = replace(alpha_map, white=map_settings.white_source)
    return replace(request, alpha=alpha, alpha_map=alpha_map, alpha_log=None, force=True)


@dataclass(frozen=True)
class SegmentWorkerFactory:
    """Paths and options of a process that makes segments.

    Attributes:
        request: What was asked for.
        index: The frames of the video.
    """

    request: VideoRequest
    index: FrameIndex

    def open_worker(self) -> SegmentWorker:
        """Opens a worker in this process; errors are those of `video`."""
        return SegmentWorker(check_request(self.request), self.index)


class SegmentWorker:
    """Makes runs of segments.

    Thread safety: one thread at a time.
    """

    def __init__(self, settings: VideoSettings, index: FrameIndex) -> None:
        """Opens the job and the network.

        Raises:
            DniError: As `video` raises.
        """
        with ExitStack() as stack:
            self._job = stack.enter_context(open_video_job(settings, shared=True))
            self._maker = stack.enter_context(SegmentMaker(settings, self._job))
            self._maker.use_index(index)
            session = self._maker.open_network()
            self._name = WorkerName(make_worker_name(), engine=session.engine.name, machine=cpu_name())
            self._rows = stack.enter_context(closing(RowWriter(self._job.folder, self._name.worker)))
            self._closing = stack.pop_all()
        self._index = index

    def run_units(self, units: Iterable[SegmentUnit]) -> Iterator[UnitRow]:
        """Makes runs of segments, and yields a row for each.

        Raises:
            DniError: One of FATAL_ERRORS.
        """
        for unit in units:
            self._job.load_segments(unit.places, self._index)  # another worker may have made them
            try:
                row = run_unit(unit, self._make_unit, self._name)
            except IndexReplacedError as error:
                yield UnitRow(unit.id, self._name.worker, error=UnitError(INDEX_REPLACED_KIND, str(error), 3))
                continue
            if row.error is not None and isinstance(row.error.exception, FATAL_ERRORS):
                raise row.error.exception
            self._rows.append(row)
            yield row

    def close(self) -> None:
        """Closes the network and the job."""
        self._closing.close()

    def _make_unit(self, unit: SegmentUnit) -> UnitResult:
        if self._maker.index != self._index:
            raise IndexReplacedError("The video has other frames than its packets promise.")
        notes_before = self._maker.notes
        self._maker.make_unit(unit)
        return UnitResult(tuple(note for note in self._maker.notes if note not in notes_before))
