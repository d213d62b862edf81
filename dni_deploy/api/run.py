"""Processes images at one alpha, or with an alpha for each pixel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.api.cluster_workers import (
    adapt_session_options,
    make_bundle_absolute,
    make_path_absolute,
    open_ray_workers,
    require_ray,
)
from dni_deploy.api.run_images import ImageFailure, ImageResult, ImageWorkerFactory
from dni_deploy.api.run_job import check_all_done, check_requested_engine, describe_job, read_encoder_versions, select_tasks
from dni_deploy.blending.group_rules import AppliedRule
from dni_deploy.blending.preset import Preset
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import BusyError, DniError, InputError, PartialResultError, UsageError, escape_name
from dni_deploy.imaging.image_paths import Paths, as_path_list
from dni_deploy.imaging.image_tasks import ImageFileOptions, ImagePlan, ImageTask, plan_image_tasks
from dni_deploy.jobs.failures import FailureGuard, MaxFailures
from dni_deploy.jobs.job_folder import JobFolder, has_job, open_job_folder
from dni_deploy.jobs.shard import JOIN, JobOptions, Shard
from dni_deploy.jobs.unit import UnitRow
from dni_deploy.session.options import SessionOptions
from dni_deploy.spatial.alpha_map import AlphaMapOptions
from dni_deploy.utils.atomic_write import DiskFullError
from dni_deploy.utils.progress import OptionalProgress

MAX_CHECKED_FOLDERS = 8
"""Of the input folders, those that each worker on a cluster has to see before it begins."""


@dataclass(frozen=True)
class RunReport:
    """What `run` did.

    Attributes:
        alpha: Alpha by member name; with an alpha map, where the map is black.
        engine: Name of the engine.
        engine_reason: Why this engine was chosen.
        images: One row for each image that was processed, in their order.
        failed: The images that were not.
        skipped: What was left out of the input folders, by reason (a key of SKIP_REASONS).
        seconds: Time for all images, without opening the engine.
        alpha_white: Alpha where the alpha map is white, by member name; None without a map.
        rules: The rules for groups of weights, with the number of weights that each applies to.
        notes: Sentences for the user.
    """

    alpha: dict[str, float]
    engine: str
    engine_reason: str
    images: tuple[ImageResult, ...]
    failed: tuple[ImageFailure, ...]
    skipped: Mapping[str, tuple[str, ...]]
    seconds: float
    alpha_white: dict[str, float] | None = None
    rules: tuple[AppliedRule, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return {
            **asdict(replace(self, images=(), failed=())),
            "images": [result.to_json() for result in self.images],
            "failed": [failure.to_json() for failure in self.failed],
        }


def run(
    bundle_path: Bundle | str | os.PathLike[str],
    inputs: Paths,
    output: str | os.PathLike[str],
    alpha: Alpha | None = None,
    *,
    alpha_map: AlphaMapOptions | str | os.PathLike[str] | None = None,
    options: SessionOptions | None = None,
    file_options: ImageFileOptions | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    save_preset: str | os.PathLike[str] | None = None,
    force: bool = False,
    job: JobOptions | None = None,
    progress: OptionalProgress = None,
    report_failure: Callable[[ImageFailure], None] | None = None,
) -> RunReport:
    """Processes images at one alpha, or with an alpha for each pixel; the engine is opened once.

    Several images are processed at once, so that reading, the network and writing overlap. Ctrl-C leaves only whole files.

    A run of several images into a folder is a job: OUTPUT/.dni-job says what it is and has a row for each image that is done
    or has failed, so that it is resumed, shared by several processes, and shown by `status`.

    Args:
        bundle_path: The bundle or its path.
        inputs: A file, a folder, or several. Of a folder: the images in it, in the order of their names.
        output: For a single file, the image to write (its suffix is the format). Otherwise, and where such a folder exists or the
            name ends in a separator or has no suffix, a folder that is created and gets each image under its own name.
        alpha: The alpha; required unless there is an alpha map between two members.
        alpha_map: A gray image: each pixel gets an alpha between `alpha` (black; None: the second of two members alone) and
            that of its white (the first member alone unless AlphaMapOptions says otherwise), see render_map.
        options: Options of the session, its rules among them.
        file_options: Which images of folders, and how outputs are named, sized and encoded.
        tile: Side of the tiles in input pixels; None: tiles of at most 512 output pixels.
        overlap: Number of input pixels that tiles share; None: the network's radius.
        save_preset: A file to save alpha and rules to, before the first image is processed.
        force: Replace outputs that exist; an input is never replaced.
        job: Whether to resume the job in the folder: what rows and disk agree on is kept, the rest is done anew. Which shard of
            it to do; "join" only checks that all images are there. How many images may fail. Whether workers on a Ray cluster
            do it. None: a new job, and all of it, here.
        progress: Called with the number of images that are done or have failed, from any thread, one at a time.
        report_failure: Called for each image that failed, when it is known.

    Returns:
        What was done.

    Raises:
        UsageError: Outputs exist, coincide or have no known format; or the job in the folder has other settings, or images
            are missing where shards are joined. Nothing was written.
        InputError: An input is missing, or a folder holds no image.
        LimitError: There is no room; images that are done are kept, and the job can be resumed.
        BusyError: Where shards are joined: one is running.
        PartialResultError: Some of several images failed, and the others were processed; its `report` is the RunReport. If all
            fail, the first one's error, with a `report`, too.
        DniError: As open_session raises.
    """
    if alpha is None and alpha_map is None:
        raise UsageError("Which alpha? Give one (--alpha), or a map of alphas (--alpha-map). Nothing was written.")
    job = job or JobOptions(resume=False)
    is_join = job.shard is not None and job.shard.strip() == JOIN
    shard = None if job.shard is None or is_join else Shard.parse(job.shard)
    max_failures = None if job.max_failures is None else MaxFailures.parse(job.max_failures)
    is_resumed = job.resume or job.shard is not None
    if job.ray is not None and job.shard is not None:
        raise UsageError("--ray and --shard both share the work out; give one of them. Nothing was written.")
    options, file_options = options or SessionOptions(), file_options or ImageFileOptions()
    map_options = AlphaMapOptions(alpha_map) if isinstance(alpha_map, str | os.PathLike) else alpha_map
    if job.ray is not None:  # paths travel, and have to mean the same in every folder
        require_ray()
        options, output = adapt_session_options(options, job), make_path_absolute(output)
        inputs = [make_path_absolute(path) for path in as_path_list(inputs)]
        map_options = map_options and replace(map_options, mask=make_path_absolute(map_options.mask))
    masks = [] if map_options is None else [map_options.mask]
    plan = plan_image_tasks(inputs, output, file_options, force=force, resume=is_resumed, other_inputs=masks)
    if not plan.tasks:
        return RunReport({}, "", "", (), (), plan.skipped, 0.0)
    if (is_resumed or job.ray is not None) and plan.folder is None:
        raise UsageError(f"{escape_name(output)} names the file to write; a job is of a folder. Nothing was written.")
    bundle = make_bundle_absolute(Bundle.ensure_open(bundle_path))
    factory = ImageWorkerFactory(
        bundle=bundle,
        alpha=alpha,
        map_options=map_options,
        session_options=options,
        file_options=file_options,
        tile=tile,
        overlap=overlap,
        in_folder=plan.folder is not None,
        force=force,
        shard="" if shard is None else str(shard),
    )
    runner = _Runner(factory, plan, save_preset, max_failures, job, progress, report_failure)
    if plan.folder is None or (len(plan.tasks) == 1 and not is_resumed and job.ray is None):
        return runner.run(list(plan.tasks))
    description = describe_job(bundle, alpha, map_options, options, file_options, (tile, overlap))
    if is_join:
        return _join_shards(plan, plan.folder, description)
    with _open_job(plan.folder, description, is_resumed, is_needed=is_resumed or job.ray is not None) as folder:
        if isinstance(folder, str):
            return runner.run(list(plan.tasks), note=folder)
        check_requested_engine(folder, options)
        selection = select_tasks(plan.tasks, plan.folder, folder, shard=shard, force=force)
        if selection.unit_count:
            folder.write_plan(selection.unit_count)
        return runner.run(selection.tasks, selection.kept, folder)


@contextmanager
def _open_job(output: str, description: Mapping[str, Any], is_resumed: bool, *, is_needed: bool) -> Iterator[JobFolder | str]:
    """Opens the job of a run; where a new one cannot have a folder, it does without, and the reason is what is given."""
    with ExitStack() as stack:
        folder: JobFolder | str
        try:
            folder = stack.enter_context(open_job_folder(output, description, resume=is_resumed))
        except (BusyError, InputError, UsageError) as error:
            if is_needed:
                raise
            folder = f"this run cannot be resumed: {error}"
        yield folder


def _join_shards(plan: ImagePlan, output: str, description: Mapping[str, Any]) -> RunReport:
    if not has_job(output):
        raise UsageError(f"There is nothing to join: no shard has begun a job in {escape_name(output)}. Nothing was written.")
    with open_job_folder(output, description, resume=True, alone=True) as folder:
        outputs = check_all_done(plan.tasks, output, folder)
        engine = folder.read_engine().get("engine") or [""]
        return RunReport({}, str(engine[0]), "", (), (), {**plan.skipped, "done": tuple(outputs)}, 0.0)


@dataclass(frozen=True)
class _Runner:
    """Does images in a worker and reports what became of them."""

    factory: ImageWorkerFactory
    plan: ImagePlan
    save_preset: str | os.PathLike[str] | None
    max_failures: MaxFailures | None
    job_options: JobOptions
    progress: OptionalProgress
    report_failure: Callable[[ImageFailure], None] | None

    def run(
        self, tasks: Sequence[ImageTask], kept: Sequence[str] = (), job: JobFolder | None = None, note: str | None = None
    ) -> RunReport:
        """Does images of the plan.

        Args:
            tasks: The images.
            kept: Outputs of those that are done.
            job: The job; None where there is none.
            note: Why there is none.

        Returns:
            What was done; errors are those of `run`.
        """
        skipped = {**self.plan.skipped, **({"done": tuple(kept)} if kept else {})}
        if not tasks:
            return RunReport({}, "", "", (), (), skipped, 0.0)
        factory = replace(self.factory, job=job)
        with closing(self._open_worker(factory)) as worker:
            description = worker.description
            if self.save_preset is not None:
                preset = Preset(description.alpha.members, description.alpha, description.rules)
                preset.write(self.save_preset, force=factory.force)
            results = _Results()
            started = time.perf_counter()
            try:
                with closing(worker.run_units(tasks, _shift_progress(self.progress, len(kept)))) as rows:
                    self._collect(rows, tasks, results, FailureGuard(self.max_failures, len(tasks), is_resumed=bool(kept)))
            except DiskFullError as error:
                results.error = error
            self._sort(results, tasks)
            white, notes = description.alpha_white, (*description.notes, *([] if note is None else [note]))
            report = RunReport(
                _to_dict(description.alpha),
                description.engine,
                description.engine_reason,
                tuple(results.images),
                tuple(results.failures),
                skipped,
                time.perf_counter() - started,
                None if white is None else _to_dict(white),
                description.applied_rules,
                notes,
            )
        if results.error is not None or results.failures:
            raise _make_error(report, self.plan, len(tasks), results)
        return report

    def _open_worker(self, factory: ImageWorkerFactory) -> Any:
        """Opens the worker: an ImageWorker, or many of them on a cluster, which has the same methods."""
        if self.job_options.ray is None or factory.job is None:
            return factory.open_worker()
        mask = [] if factory.map_options is None else [factory.map_options.mask]
        folders = sorted({task.source_folder for task in self.plan.tasks})[:MAX_CHECKED_FOLDERS]
        return open_ray_workers(
            factory,
            self.job_options,
            bundle=factory.bundle,
            engine=factory.session_options.engine,
            job_folder=factory.job.path,
            other_paths=[*mask, *folders],
            versions=read_encoder_versions(),
            progress=self.progress,
        )

    def _sort(self, results: _Results, tasks: Sequence[ImageTask]) -> None:
        """Brings what was done into the order of the tasks, where it came in another one."""
        if self.job_options.ray is not None:
            positions = {task.source: position for position, task in enumerate(tasks)}
            results.images.sort(key=lambda image: positions[image.source])

    def _collect(self, rows: Iterable[UnitRow], tasks: Sequence[ImageTask], results: _Results, guard: FailureGuard) -> None:
        for row, task in find_tasks(rows, tasks):
            if row.error is None:
                results.images.append(ImageResult.from_row(row, task))
                continue
            failure = ImageFailure(task.source, row.error.to_error())
            results.failures.append(failure)
            if self.report_failure is not None and self.plan.folder is not None:
                self.report_failure(failure)
            results.stop_reason = guard.count(row, failure.source)
            if results.stop_reason is not None:
                return


@dataclass
class _Results:
    """What has become of the images so far, and why the run stopped before its end."""

    images: list[ImageResult] = field(default_factory=list)
    failures: list[ImageFailure] = field(default_factory=list)
    stop_reason: str | None = None
    error: DniError | None = None


def find_tasks(rows: Iterable[UnitRow], tasks: Sequence[ImageTask]) -> Iterator[tuple[UnitRow, ImageTask]]:
    """Finds the image of each row; a table of them takes memory and is made where rows come out of order."""
    expected, task_by_id = iter(tasks), None
    for row in rows:
        task = next(expected, None) if task_by_id is None else task_by_id[row.unit]
        if task is None or task.id != row.unit:
            task_by_id = task_by_id or {task.id: task for task in tasks}
            task = task_by_id[row.unit]
        yield row, task


def _shift_progress(progress: OptionalProgress, kept: int) -> OptionalProgress:
    """Lets progress begin with the images that are done."""
    if progress is None or not kept:
        return progress
    return lambda done, total, what: progress(done + kept, total + kept, what)


def _make_error(report: RunReport, plan: ImagePlan, count: int, results: _Results) -> DniError:
    """Makes the error of a run that failed in part; that of a single file is its own."""
    first = results.error or report.failed[0].error
    error, done = first, len(report.images)
    kept = len(report.skipped.get("done", ()))
    if plan.folder is None:
        return error
    if results.error is not None or results.stop_reason is not None:
        stop = f"{len(report.failed)} failed, {results.stop_reason}. First: {first}" if results.stop_reason else str(first)
        counts = f"{done + kept} of {count + kept} images are done, and the same command with --resume does the others"
        kind = type(first) if results.error is not None or not done + kept else PartialResultError
        error = kind(f"The run stopped: {stop} {counts}.")
    elif done + kept:
        before = f", {kept} by a run before" if kept else ""
        error = PartialResultError(
            f"{done + kept} of {count + kept} images were processed and are in {escape_name(plan.folder)}{before}, "
            f"{len(report.failed)} failed. First: {first}"
        )
    elif count > 1:
        error = type(first)(f"None of {count} images was processed. First: {first}")
    error.report = report
    return error


def _to_dict(coefficients: Coefficients) -> dict[str, float]:
    return dict(zip(coefficients.members, coefficients.values, strict=True))
