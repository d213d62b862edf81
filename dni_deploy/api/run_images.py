"""Images through a session, one after another or several at once: each is read, rendered, encoded and written."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.blending.group_rules import AppliedRule, Rule
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, InputError, LimitError, UsageError, escape_name
from dni_deploy.imaging.frames import WHITE_LEVELS, AnyFrame
from dni_deploy.imaging.image_file import (
    ImageFile,
    encode_image,
    fit_to_format,
    read_frame_kind,
    read_image,
    require_format,
)
from dni_deploy.imaging.image_formats import FORMAT_BY_SUFFIX, ImageFormat
from dni_deploy.imaging.image_limits import BYTES_PER_OUTPUT_PIXEL, check_image_size
from dni_deploy.imaging.image_tasks import FALLBACK_SUFFIX, ImageFileOptions, ImageTask, make_unit_id
from dni_deploy.imaging.metadata import NO_METADATA
from dni_deploy.imaging.resize import resize_frame
from dni_deploy.imaging.tiling import count_tiles, run_tiled
from dni_deploy.jobs.job_folder import JobFolder
from dni_deploy.jobs.manifest import RowWriter
from dni_deploy.jobs.unit import UnitOutput, UnitResult, UnitRow, WorkerName, make_worker_name, run_unit
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session
from dni_deploy.spatial.alpha_map import AlphaMap, AlphaMapOptions
from dni_deploy.spatial.render import AlphaMapRange, AlphaMapRenderer, AlphaMapStats
from dni_deploy.storage.files import SourceStates, make_folders, write_whole
from dni_deploy.storage.staging import StagedFile, stage_ahead
from dni_deploy.utils.address import join_location
from dni_deploy.utils.atomic_write import DiskFullError
from dni_deploy.utils.hardware import available_memory_bytes, count_cores
from dni_deploy.utils.overlap import run_overlapped
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.interface import FRAMES_IN_FLIGHT

log = logging.getLogger(__name__)

MAX_THREADS = 32
MEMORY_FRACTION = 4
"""Images that are processed at once take at most one part in this many of the memory that is free."""

ASSUMED_MEMORY_BYTES = 8 << 30
"""Where the system does not tell."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """One processed image.

    Attributes:
        task: The image, and where it was to be written.
        output_name: Name of the file that was written, in the task's folder.
        width: Width of the output in pixels.
        height: Height of the output in pixels.
        tiles: Number of tiles; with an alpha map the number of its pieces.
        seconds: Time in the network; images that are in it at the same time share it.
        notes: One sentence for each thing that was converted or left out when the image was read or written.
        alpha_map: Statistics of the alpha map; None without one.
    """

    task: ImageTask  # and no paths: of 100,000 results, these would take most of the memory
    output_name: str
    width: int
    height: int
    tiles: int
    seconds: float
    notes: tuple[str, ...]
    alpha_map: AlphaMapStats | None = None

    @classmethod
    def from_row(cls, row: UnitRow, task: ImageTask) -> ImageResult:
        """Reads the result of a unit that is done."""
        details = row.details
        stats = details.get("alpha_map")
        name = task.output_name if row.output is None else row.output.path.rpartition("/")[2]
        return cls(
            task=task,
            output_name=task.output_name if name == task.output_name else name,
            width=details["width"],
            height=details["height"],
            tiles=details["tiles"],
            seconds=details["network_seconds"],
            notes=row.notes,
            alpha_map=None if stats is None else AlphaMapStats(**stats),
        )

    @property
    def source(self) -> str:
        """The image that was read."""
        return self.task.source

    @property
    def output(self) -> str:
        """The file that was written."""
        return join_location(self.task.output_folder, self.output_name)

    def to_json(self) -> dict[str, Any]:
        """Returns the result as `--json` prints it."""
        fields = asdict(self)
        del fields["task"], fields["output_name"]
        return {"source": self.source, "output": self.output, **fields}


@dataclass(frozen=True)
class ImageFailure:
    """An image that was not processed.

    Attributes:
        source: The image.
        error: Why.
    """

    source: str
    error: DniError

    def to_json(self) -> dict[str, str]:
        """Returns the failure as `--json` prints it."""
        return {"source": self.source, "kind": self.error.kind, "message": str(self.error)}


class _Rendered(NamedTuple):
    pixels: NDArray[Any]
    tiles: int
    seconds: float
    map_stats: AlphaMapStats | None = None


class _Encodable(NamedTuple):
    path: str
    image_format: ImageFormat
    image: ImageFile


class _StoppedError(Exception):
    """The run ends before this image is done."""


@dataclass(frozen=True)
class ImageWorkerDescription:
    """What an image worker is. It can be pickled.

    Attributes:
        engine: Name of the engine.
        engine_reason: Why this engine was chosen.
        alpha: The alpha; with an alpha map, where the map is black.
        alpha_white: The alpha where the alpha map is white; None without a map.
        rules: The rules for groups of weights.
        applied_rules: The same, with the number of weights that each applies to.
        notes: Sentences for the user.
    """

    engine: str
    engine_reason: str
    alpha: Coefficients
    alpha_white: Coefficients | None = None
    rules: tuple[Rule, ...] = ()
    applied_rules: tuple[AppliedRule, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageWorkerFactory:
    """Paths and options of a process that does images.

    Attributes:
        bundle: The bundle.
        alpha: The alpha; with an alpha map, that of black.
        map_options: The alpha map; None without one.
        session_options: Options of the session.
        file_options: How outputs are sized and encoded.
        tile: Side of the tiles in input pixels; None: tiles of at most 512 output pixels.
        overlap: Number of input pixels that tiles share; None: the network's radius.
        in_folder: The outputs have chosen their names themselves, and may become another format.
        force: Replace outputs that exist.
        job: The job, in whose folder rows are written, and whose own outputs are replaced; None without a job.
        shard: As Shard formats itself; "" without shards.
    """

    bundle: Bundle
    alpha: Any = None
    map_options: AlphaMapOptions | None = None
    session_options: SessionOptions = field(default_factory=SessionOptions)
    file_options: ImageFileOptions = field(default_factory=ImageFileOptions)
    tile: int | None = None
    overlap: int | None = None
    in_folder: bool = True
    force: bool = False
    job: JobFolder | None = None
    shard: str = ""

    def open_worker(self) -> ImageWorker:
        """Opens a worker in this process.

        Raises:
            UsageError: The job was begun with another engine.
            DniError: As `open_session` and `AlphaMap.read` raise.
        """
        options = self.map_options
        mask = None if options is None else AlphaMap.read(options.mask)
        plan = None if self.job is None else self.job.read_engine().get("plan")
        session_options = replace(self.session_options, plan=plan) if plan else self.session_options
        session = open_session(self.bundle, session_options, alpha=self.alpha)
        try:
            if self.job is not None:
                engine = {"engine": [session.engine.name, self.session_options.precision]}
                self.job.check_engine(engine | ({"plan": session.plan_digest} if session.plan_digest else {}))
            if options is None or mask is None:
                return ImageWorker(session, self)
            ends = AlphaMapRange.from_options(session, self.alpha, options.white)
            return ImageWorker(session, self, AlphaMapRenderer(session, options, mask, ends), ends)
        except BaseException:
            session.close()
            raise


class ImageWorker:
    """Does images: each is read, rendered, encoded and written, several at once, so that these overlap.

    Attributes:
        description: What the worker is.

    Thread safety: one thread at a time; it uses threads of its own.
    """

    def __init__(
        self,
        session: Session,
        factory: ImageWorkerFactory,
        map_renderer: AlphaMapRenderer | None = None,
        map_range: AlphaMapRange | None = None,
    ) -> None:
        """Keeps the arguments.

        Args:
            session: Renders the images; the worker closes it.
            factory: The options.
            map_renderer: Renders the images with an alpha map.
            map_range: The alphas where that is black and white.
        """
        self._session, self._factory, self._options = session, factory, factory.file_options
        self._tile, self._overlap, self._map_renderer = factory.tile, factory.overlap, map_renderer
        self._stopping = threading.Event()
        self._progress_lock, self._map_lock = threading.Lock(), threading.Lock()
        self._source_states = SourceStates()
        self._done = self._total = 0
        self.description = _describe(session, map_range)
        machine = session.describe_machine(factory.session_options.device)
        self._name = WorkerName(make_worker_name(), factory.shard, session.engine.name, machine)
        self._rows = None if factory.job is None else RowWriter(factory.job.path, self._name.worker)

    def close(self) -> None:
        """Closes the session and the file of rows."""
        if self._rows is not None:
            self._rows.close()
        self._session.close()

    def run_units(self, units: Iterable[ImageTask], progress: OptionalProgress = None) -> Generator[UnitRow, None, None]:
        """Does images, several at once.

        An error belongs to its image, and the others are processed. Ctrl-C leaves only whole files.

        Args:
            units: The images.
            progress: Called with the number of images that are done or have failed, from any thread, one at a time; also within
                an image with an alpha map.

        Yields:
            A row for each image, in their order.

        Raises:
            DiskFullError: There is no room.
            InputError: The rows cannot be written.
        """
        tasks = units if isinstance(units, Sequence) else list(units)
        if not tasks:
            return
        self._done, self._total = 0, len(tasks)
        self._stopping.clear()
        self._report(progress, tasks[0].source_name)
        with stage_ahead(tasks, lambda task: task.source) as staged_tasks:
            if len(tasks) == 1:  # in the caller's thread, which Ctrl-C interrupts
                for task, staged in staged_tasks:
                    yield self._run_unit(task, staged, progress)
                return
            futures = run_overlapped(
                lambda pair: self._run_unit(*pair, progress),
                staged_tasks,
                threads=min(FRAMES_IN_FLIGHT + count_cores(), MAX_THREADS),
                measure_bytes=self._estimate_bytes,
                max_bytes=(available_memory_bytes() or ASSUMED_MEMORY_BYTES) // MEMORY_FRACTION,
                stopping=self._stopping,
            )
            # Threads that silence warnings each for itself, as reading an image does, would restore each other's filters.
            with warnings.catch_warnings(), closing(futures):
                for future in futures:
                    yield future.result()

    def _report(self, progress: OptionalProgress, what: str) -> None:
        report_progress(progress, self._done, self._total, what)

    def _estimate_bytes(self, pair: tuple[ImageTask, StagedFile]) -> int:
        """Estimates what an image takes from its header; 0 for one that cannot be read, whose error comes later."""
        try:
            width, height, dtype = read_frame_kind(pair[1].path)
        except DniError:
            return 0
        scale = self._session.signature.scale
        target = self._options.compute_output_size(width, height) or (0, 0)
        output_pixels = max(width * height * scale * scale, target[0] * target[1])
        return (width * height + output_pixels) * BYTES_PER_OUTPUT_PIXEL[dtype]

    def _run_unit(self, task: ImageTask, staged: StagedFile, progress: OptionalProgress) -> UnitRow:
        row = run_unit(task, lambda unit: self._process_readably(unit, staged, progress), self._name)
        if row.error is not None:
            if isinstance(row.error.exception, DiskFullError):
                raise row.error.exception
            row = replace(row, details={"source": task.source})
        if self._rows is not None:
            self._rows.append(row)
        with self._progress_lock:
            self._done += 1
            self._report(progress, task.source_name)
        return row

    def _process_readably(self, task: ImageTask, staged: StagedFile, progress: OptionalProgress) -> UnitResult:
        try:
            with staged.reading() as path:
                return self._process(task, path, progress)
        except OSError as error:
            raise InputError(f"{escape_name(error.filename or task.output)}: {error.strerror}.") from error
        except MemoryError as error:
            name = escape_name(task.source)
            raise LimitError(f"{name} needs more memory than is free; smaller tiles need less (--tile).") from error

    def _process(self, task: ImageTask, path: Path, progress: OptionalProgress) -> UnitResult:
        self._check_running()
        make_folders(task.output_folder)
        limit = self._options.max_pixels
        source_state = self._source_states.read(task.source_folder, task.source_name)
        image = read_image(path, scale=self._session.signature.scale, max_pixels=limit)
        if self._options.strip:
            image = replace(image, metadata=NO_METADATA)
        height, width = image.rgb.shape[:2]
        target = self._options.compute_output_size(width, height)
        if target is not None:
            check_image_size(task.source, *target, dtype=image.rgb.dtype, max_pixels=limit)
        self._check_running()
        rendered = self._render(image.rgb, task.source_name, progress)
        pixels = rendered.pixels if target is None else resize_frame(rendered.pixels, *target)
        output_path, image_format, image = self._choose_format(task, image.with_pixels(pixels))
        encodable = _Encodable(output_path, image_format, fit_to_format(image, image_format))
        self._check_running()
        data = encode_image(encodable.image, encodable.image_format, self._make_encoder_options(encodable.image_format))
        self._check_running()
        write_whole(encodable.path, data, force=self._may_replace(encodable.path))
        log.debug("%s: %d tiles in %.3f s", task.source, rendered.tiles, rendered.seconds)
        details: dict[str, Any] = {
            "source": task.source,
            "source_state": source_state,
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "tiles": rendered.tiles,
            "network_seconds": round(rendered.seconds, 6),
        }
        if rendered.map_stats is not None:
            details["alpha_map"] = asdict(rendered.map_stats)
        unit_path = make_unit_id(task.relative_folder, os.path.basename(encodable.path))
        output = UnitOutput(unit_path, len(data), sha256(data).hexdigest())
        return UnitResult(encodable.image.notes, output, details)

    def _may_replace(self, path: str) -> bool:
        """Tells whether what may be at a path is replaced: where that was asked for, and what this job has made."""
        if self._factory.force or self._factory.job is None:
            return self._factory.force
        return is_own_output(path, self._factory.job.started_ns)

    def _check_running(self) -> None:
        if self._stopping.is_set():
            raise _StoppedError

    def _render(self, frame: AnyFrame, name: str, progress: OptionalProgress) -> _Rendered:
        if self._map_renderer is not None:
            with self._map_lock:
                started = time.perf_counter()
                pixels, stats = self._map_renderer.render(
                    frame, self._tile, self._overlap, self._make_map_progress(name, progress)
                )
                return _Rendered(pixels, stats.tiles, time.perf_counter() - started, stats)
        signature = self._session.signature
        started = time.perf_counter()
        tiles = count_tiles(frame.shape[0], frame.shape[1], signature, self._tile, self._overlap)
        pixels = run_tiled(self._render_tiles, frame, signature, self._tile, self._overlap)
        return _Rendered(pixels, tiles, time.perf_counter() - started)

    def _render_tiles(self, tiles: Iterable[AnyFrame]) -> Iterator[NDArray[Any]]:
        for rendered in self._session.stream(tiles):
            self._check_running()
            yield rendered.output

    def _make_map_progress(self, name: str, progress: OptionalProgress) -> OptionalProgress:
        """Makes the progress within one image: it counts the runs of the network and leaves the number of images as it is."""

        def report(run: int, runs: int, what: str) -> None:
            self._check_running()
            self._report(progress, f"{name}: run {run + 1} of {runs}, {what}")

        return report

    def _choose_format(self, task: ImageTask, image: ImageFile) -> _Encodable:
        """Chooses the format of an output: its name's own, or in a folder one that can hold the image."""
        suffix = os.path.splitext(task.output_name)[1].lower()
        own_format = FORMAT_BY_SUFFIX[suffix]
        if (
            image.alpha is not None
            and not own_format.has_transparency
            and (image.alpha == WHITE_LEVELS[image.alpha.dtype]).all()
        ):
            image = replace(image, alpha=None)  # opaque everywhere
        source_suffix = os.path.splitext(task.source_name)[1]
        if self._factory.in_folder and self._options.image_format is None and suffix != source_suffix.lower():
            image = add_note(image, f"written as {suffix}, since {source_suffix or 'a name without a suffix'} is not written")
        fallback = task.fallback if self._factory.in_folder else None
        try:
            return _Encodable(task.output, require_format(task.output, image), image)
        except (UsageError, LimitError) as error:
            if fallback is None:
                raise
            if task.is_fallback_taken:
                raise type(error)(f"{error} {escape_name(fallback)} is the output of another image.") from None
        misses_transparency = image.alpha is not None and not own_format.has_transparency
        lack = "has no transparency" if misses_transparency else f"holds at most {own_format.max_side_px} pixels a side"
        image = add_note(image, f"written as {FALLBACK_SUFFIX}, since a {own_format.name} file {lack}")
        return _Encodable(fallback, require_format(fallback, image), image)

    def _make_encoder_options(self, image_format: ImageFormat) -> dict[str, object]:
        if self._options.quality is None or image_format.lossy_options is None:
            return {}
        return {**image_format.lossy_options, "quality": self._options.quality}


def _describe(session: Session, map_range: AlphaMapRange | None) -> ImageWorkerDescription:
    rules = session.rules
    return ImageWorkerDescription(
        session.engine.name,
        session.engine_reason,
        alpha=session.alpha if map_range is None else map_range.black,
        alpha_white=None if map_range is None else map_range.white,
        rules=() if rules is None else tuple(rules.rules),
        applied_rules=() if rules is None else rules.describe_rules(),
        notes=() if rules is None else rules.describe_split_norms(),
    )


def is_own_output(path: str, job_started_ns: int) -> bool:
    """Tells whether nothing is at a path, or what this job has made: nothing else may appear there after it began."""
    try:
        return os.lstat(path).st_mtime_ns >= job_started_ns
    except OSError:
        return True


def add_note(image: ImageFile, note: str) -> ImageFile:
    """Returns an image with one more note."""
    return replace(image, notes=(*image.notes, note))
