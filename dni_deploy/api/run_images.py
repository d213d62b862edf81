"""Images through a session, one after another or several at once: each is read, rendered, encoded and written."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

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
from dni_deploy.imaging.image_tasks import FALLBACK_SUFFIX, ImageFileOptions, ImagePlan, ImageTask
from dni_deploy.imaging.metadata import NO_METADATA
from dni_deploy.imaging.resize import resize_frame
from dni_deploy.imaging.tiling import count_tiles, run_tiled
from dni_deploy.session.session import Session
from dni_deploy.spatial.render import AlphaMapRenderer, AlphaMapStats
from dni_deploy.storage.files import make_folders, write_whole
from dni_deploy.storage.staging import StagedFile, stage_ahead
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


@dataclass(frozen=True)
class ImageResult:
    """One processed image.

    Attributes:
        source: The image that was read.
        output: The file that was written.
        width: Width of the output in pixels.
        height: Height of the output in pixels.
        tiles: Number of tiles; with an alpha map the number of its pieces.
        seconds: Time in the network; images that are in it at the same time share it.
        notes: One sentence for each thing that was converted or left out when the image was read or written.
        alpha_map: Statistics of the alpha map; None without one.
    """

    source: str
    output: str
    width: int
    height: int
    tiles: int
    seconds: float
    notes: tuple[str, ...]
    alpha_map: AlphaMapStats | None = None


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


class ImageRenderer:
    """Processes the images of a plan.

    Thread safety: one thread at a time; it uses threads of its own.
    """

    def __init__(
        self,
        session: Session,
        plan: ImagePlan,
        options: ImageFileOptions,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        map_renderer: AlphaMapRenderer | None = None,
        force: bool = False,
    ) -> None:
        """Keeps the arguments.

        Args:
            session: Renders the images.
            plan: The images.
            options: How outputs are sized and encoded.
            tile: Side of the tiles in input pixels; None: tiles of at most 512 output pixels.
            overlap: Number of input pixels that tiles share; None: the network's radius.
            map_renderer: Renders the images with an alpha map.
            force: Replace outputs that exist.
        """
        self._done = 0
        self._session, self._plan, self._options, self._force = session, plan, options, force
        self._tile, self._overlap, self._map_renderer = tile, overlap, map_renderer
        self._stopping = threading.Event()
        self._progress_lock, self._map_lock = threading.Lock(), threading.Lock()

    def process_all(self, progress: OptionalProgress = None) -> Generator[ImageResult | ImageFailure, None, None]:
        """Processes the images of the plan, several at once, so that reading, the network and writing overlap.

        An error belongs to its image, and the others are processed. Ctrl-C leaves only whole files.

        Args:
            progress: Called with the number of images that are done or have failed, from any thread, one at a time.

        Yields:
            What became of each image, in their order.
        """
        tasks = self._plan.tasks
        self._report(progress, tasks[0].source_name)
        with stage_ahead(tasks, lambda task: task.source) as staged_tasks:
            if len(tasks) == 1:  # in the caller's thread, which Ctrl-C interrupts
                for task, staged in staged_tasks:
                    yield self._process_or_fail(task, staged, progress)
                return
            futures = run_overlapped(
                lambda pair: self._process_or_fail(*pair, progress),
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
        report_progress(progress, self._done, len(self._plan.tasks), what)

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

    def _process_or_fail(self, task: ImageTask, staged: StagedFile, progress: OptionalProgress) -> ImageResult | ImageFailure:
        result: ImageResult | ImageFailure
        try:
            with staged.reading() as path:
                result = self._process(task, path, progress)
        except DniError as error:
            result = ImageFailure(task.source, error)
        except OSError as error:
            reason = InputError(f"{escape_name(error.filename or task.output)}: {error.strerror}.")
            result = ImageFailure(task.source, reason)
        except MemoryError:
            name = escape_name(task.source)
            result = ImageFailure(
                task.source, LimitError(f"{name} needs more memory than is free; smaller tiles need less (--tile).")
            )
        with self._progress_lock:
            self._done += 1
            self._report(progress, task.source_name)
        return result

    def _process(self, task: ImageTask, path: Path, progress: OptionalProgress) -> ImageResult:
        self._check_running()
        make_folders(task.output_folder)
        limit = self._options.max_pixels
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
        output, image_format, image = self._choose_format(task, image.with_pixels(pixels))
        encodable = _Encodable(output, image_format, fit_to_format(image, image_format))
        self._check_running()
        data = encode_image(encodable.image, encodable.image_format, self._make_encoder_options(encodable.image_format))
        self._check_running()
        write_whole(encodable.path, data, force=self._force)
        log.debug("%s: %d tiles in %.3f s", task.source, rendered.tiles, rendered.seconds)
        return ImageResult(
            source=task.source,
            output=encodable.path,
            width=pixels.shape[1],
            height=pixels.shape[0],
            tiles=rendered.tiles,
            seconds=rendered.seconds,
            notes=encodable.image.notes,
            alpha_map=rendered.map_stats,
        )

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
        if self._plan.folder is not None and self._options.image_format is None and suffix != source_suffix.lower():
            image = add_note(image, f"written as {suffix}, since {source_suffix or 'a name without a suffix'} is not written")
        fallback = self._plan.find_fallback(task)
        try:
            return _Encodable(task.output, require_format(task.output, image), image)
        except (UsageError, LimitError) as error:
            if fallback is None:
                raise
            if self._plan.has_output(fallback):
                raise type(error)(f"{error} {escape_name(fallback)} is the output of another image.") from None
        misses_transparency = image.alpha is not None and not own_format.has_transparency
        lack = "has no transparency" if misses_transparency else f"holds at most {own_format.max_side_px} pixels a side"
        image = add_note(image, f"written as {FALLBACK_SUFFIX}, since a {own_format.name} file {lack}")
        return _Encodable(fallback, require_format(fallback, image), image)

    def _make_encoder_options(self, image_format: ImageFormat) -> dict[str, object]:
        if self._options.quality is None or image_format.lossy_options is None:
            return {}
        return {**image_format.lossy_options, "quality": self._options.quality}


def add_note(image: ImageFile, note: str) -> ImageFile:
    """Returns an image with one more note."""
    return replace(image, notes=(*image.notes, note))
