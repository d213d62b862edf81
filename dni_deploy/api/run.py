"""Processes images at one alpha, or with an alpha for each pixel."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.blending.group_rules import AppliedRule
from dni_deploy.blending.preset import Preset
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, InputError, PartialResultError, UsageError, escape_name
from dni_deploy.imaging.image_file import read_image, write_image
from dni_deploy.imaging.image_formats import output_format
from dni_deploy.imaging.image_paths import Paths, as_path_list, list_folder_images
from dni_deploy.imaging.tiling import count_tiles
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session
from dni_deploy.session.tiles import render_tiled
from dni_deploy.spatial.alpha_map import AlphaMap, AlphaMapOptions
from dni_deploy.spatial.render import AlphaMapRange, AlphaMapRenderer, AlphaMapStats
from dni_deploy.utils.progress import OptionalProgress, report_progress

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageTask:
    """One image to read and the file that its output goes to."""

    source_path: Path
    output_path: Path


@dataclass(frozen=True)
class ImageResult:
    """One processed image.

    Attributes:
        source: The image that was read.
        output: The file that was written.
        width: Width of the output in pixels.
        height: Height of the output in pixels.
        tiles: Number of tiles; with an alpha map the number of its pieces.
        seconds: Time in the network.
        notes: What was converted when the image was read or written.
        alpha_map: Statistics of the alpha map; None without one.
    """

    source: str
    output: str
    width: int
    height: int
    tiles: int
    seconds: float
    notes: str
    alpha_map: AlphaMapStats | None = None


@dataclass(frozen=True)
class RunReport:
    """What `run` did.

    Attributes:
        alpha: Alpha by member name; with an alpha map, where the map is black.
        engine: Name of the engine.
        engine_reason: Why this engine was chosen.
        images: One row for each image, in their order.
        skipped: Number of files of the input folders that are not images, by their suffix.
        seconds: Time for all images, without opening the engine.
        alpha_white: Alpha where the alpha map is white, by member name; None without a map.
        rules: The rules for groups of weights, with the number of weights that each applies to.
        notes: Sentences for the user.
    """

    alpha: dict[str, float]
    engine: str
    engine_reason: str
    images: tuple[ImageResult, ...]
    skipped: int
    seconds: float
    alpha_white: dict[str, float] | None = None
    rules: tuple[AppliedRule, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return asdict(self)


def run(
    bundle_path: Bundle | str | os.PathLike[str],
    inputs: Paths,
    output: str | os.PathLike[str],
    alpha: Alpha | None = None,
    *,
    alpha_map: AlphaMapOptions | str | os.PathLike[str] | None = None,
    options: SessionOptions | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    save_preset: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: OptionalProgress = None,
) -> RunReport:
    """Processes images at one alpha, or with an alpha for each pixel; the engine is opened once.

    Args:
        bundle_path: The bundle or its path.
        inputs: A file, a folder, or several. Of a folder: the images directly in it, in the order of their names.
        output: For a single file, the image to write (its suffix is the format). Otherwise, or if such a folder exists, a
            folder that is created and gets each image under its own name.
        alpha: The alpha; required unless there is an alpha map between two members.
        alpha_map: A gray image: each pixel gets an alpha between `alpha` (black; None: the second of two members alone) and
            that of its white (the first member alone unless AlphaMapOptions says otherwise), see render_map.
        tile: Side of the tiles in input pixels; None: tiles of at most 512 output pixels.
        overlap: Number of input pixels that tiles share; None: the network's radius.
        options: Options of the session, its rules among them.
        save_preset: A file to save alpha and rules to, before the first image is processed.
        force: Replace outputs that exist; an input is never replaced.
        progress: Called with the number of images done.

    Returns:
        What was done.

    Raises:
        UsageError: Outputs exist, coincide or have no known format. Nothing was written.
        InputError: An input is missing, or a folder holds no image.
        PartialResultError: Some of several images failed, and the others were processed. If all fail, the first one's error.
        DniError: As open_session raises.
    """
    if alpha is None and alpha_map is None:
        raise UsageError("Which alpha? Give one (--alpha), or a map of alphas (--alpha-map). Nothing was written.")
    map_options = AlphaMapOptions(alpha_map) if isinstance(alpha_map, str | os.PathLike) else alpha_map
    tasks, skipped = plan_image_tasks(inputs, output, force, None if map_options is None else map_options.mask)
    mask = None if map_options is None else AlphaMap.read(map_options.mask)
    with open_session(bundle_path, options, alpha=alpha) as session:
        rules = session.rules
        if save_preset is not None:
            Preset(session.members, session.alpha, () if rules is None else rules.rules).write(save_preset, force=force)
        ends = None if map_options is None else AlphaMapRange.from_options(session, alpha, map_options.white)
        spatial = (
            None if map_options is None or mask is None or ends is None else AlphaMapRenderer(session, map_options, mask, ends)
        )
        started = time.perf_counter()
        rows: list[ImageResult] = []
        failures: list[DniError] = []
        for done, task in enumerate(tasks):
            report_progress(progress, done, len(tasks), task.source_path.name)
            try:
                task.output_path.parent.mkdir(parents=True, exist_ok=True)
                image_progress = _make_image_progress(progress, done, len(tasks), task.source_path.name)
                rows.append(_process_image(session, task, tile, overlap, force, spatial, image_progress))
            except DniError as error:
                failures.append(error)
            except OSError as error:
                failures.append(InputError(f"{escape_name(error.filename or task.output_path)}: {error.strerror}."))
        report_progress(progress, len(tasks), len(tasks), "done")
        report = RunReport(
            _to_dict(session.alpha if ends is None else ends.black),
            session.engine.name,
            session.engine_reason,
            tuple(rows),
            skipped,
            time.perf_counter() - started,
            None if ends is None else _to_dict(ends.white),
            () if rules is None else rules.describe_rules(),
            () if rules is None else rules.describe_split_norms(),
        )
    if failures and len(failures) == len(tasks):
        raise (
            failures[0]
            if len(tasks) == 1
            else type(failures[0])(f"None of {len(tasks)} images was processed. First: {failures[0]}")
        )
    if failures:
        raise PartialResultError(
            f"{len(rows)} of {len(tasks)} images were processed and are in {escape_name(tasks[0].output_path.parent)}, "
            f"{len(failures)} failed. First: {failures[0]}"
        )
    return report


def _make_image_progress(progress: OptionalProgress, done: int, total: int, name: str) -> OptionalProgress:
    """Makes the progress within one image: it counts the runs of the network and leaves the number of images as it is."""
    return progress and (
        lambda run, runs, what: report_progress(progress, done, total, f"{name}: run {run + 1} of {runs}, {what}")
    )


def _to_dict(coefficients: Coefficients) -> dict[str, float]:
    return dict(zip(coefficients.members, coefficients.values, strict=True))


def plan_image_tasks(
    inputs: Paths, output: str | os.PathLike[str], force: bool = False, mask: str | os.PathLike[str] | None = None
) -> tuple[list[ImageTask], int]:
    """Plans which image is written where. Touches nothing.

    Args:
        inputs: As for `run`.
        output: As for `run`.
        force: Outputs may exist.
        mask: The alpha map, which is an input, too.

    Returns:
        The tasks, and the number of files of folders that are not images.

    Raises:
        UsageError: As `run` raises before it begins.
        InputError: As `run` raises before it begins.
    """
    input_paths = as_path_list(inputs)
    if not input_paths:
        raise UsageError("There is no input; name an image or a folder.")
    output_path = Path(output)
    if len(input_paths) == 1 and not input_paths[0].is_dir() and not output_path.is_dir() and output_path.suffix:
        output_format(output_path)
        if not output_path.parent.is_dir():
            raise UsageError(f"The folder {escape_name(output_path.parent)} does not exist. Nothing was written.")
        tasks, skipped = [ImageTask(input_paths[0], output_path)], 0
    else:
        if output_path.exists() and not output_path.is_dir():
            raise UsageError(f"{escape_name(output_path)} is a file; several images need a folder. Nothing was written.")
        sources, skipped = _list_sources(input_paths)
        tasks = [ImageTask(source, output_path / source.name) for source in sources]
    _check_tasks(tasks, force, [] if mask is None else [mask])
    return tasks, skipped


def _list_sources(input_paths: Iterable[Path]) -> tuple[list[Path], int]:
    sources: list[Path] = []
    skipped = 0
    for path in input_paths:
        if not path.is_dir():
            output_format(path)  # it keeps its name, so its suffix is the output's format
            sources.append(path)
            continue
        images, others = list_folder_images(path)
        sources += images
        skipped += others
    return sources, skipped


def _check_tasks(tasks: Sequence[ImageTask], force: bool, other_inputs: Sequence[str | os.PathLike[str]]) -> None:
    missing = [task.source_path for task in tasks if not os.path.lexists(task.source_path)]
    if missing:
        raise InputError(f"{escape_name(missing[0])} does not exist{_format_others(len(missing))}. Nothing was written.")
    inputs = {os.path.realpath(path) for path in (*other_inputs, *(task.source_path for task in tasks))}
    source_by_output: dict[str, Path] = {}
    for task in tasks:
        if os.path.realpath(task.output_path) in inputs:
            raise UsageError(f"{escape_name(task.output_path)} is an input, too; choose another output. Nothing was written.")
        # Two names that differ only in case are one file on some disks.
        twin = source_by_output.setdefault(str(task.output_path).casefold(), task.source_path)
        if twin is not task.source_path:
            raise UsageError(
                f"{escape_name(twin)} and {escape_name(task.source_path)} would both be written to "
                f"{escape_name(task.output_path)}. Nothing was written."
            )
    existing = [task.output_path for task in tasks if os.path.lexists(task.output_path)]
    if existing and not force:
        raise UsageError(
            f"{escape_name(existing[0])} exists{_format_others(len(existing))}; give --force to replace it. Nothing was written."
        )


def _format_others(count: int) -> str:
    return "" if count == 1 else f", and {count - 1} more"


def _process_image(
    session: Session,
    task: ImageTask,
    tile: int | None,
    overlap: int | None,
    force: bool,
    map_renderer: AlphaMapRenderer | None,
    progress: OptionalProgress,
) -> ImageResult:
    signature = session.signature
    image = read_image(task.source_path, scale=signature.scale)
    height, width = image.rgb.shape[:2]
    started = time.perf_counter()
    map_stats = None
    if map_renderer is None:
        tiles = count_tiles(height, width, signature, tile, overlap)
        pixels = render_tiled(session, image.rgb, tile, overlap).output
    else:
        pixels, map_stats = map_renderer.render(image.rgb, tile, overlap, progress)
        tiles = map_stats.tiles
    seconds = time.perf_counter() - started
    log.debug("%s: %d tiles in %.3f s", task.source_path, tiles, seconds)
    write_image(task.output_path, image.with_pixels(pixels), force=force)
    return ImageResult(
        source=os.fspath(task.source_path),
        output=os.fspath(task.output_path),
        width=pixels.shape[1],
        height=pixels.shape[0],
        tiles=tiles,
        seconds=seconds,
        notes="; ".join(image.notes),
        alpha_map=map_stats,
    )
