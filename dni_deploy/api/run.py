"""Processes images at one alpha, or with an alpha for each pixel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.api.run_images import ImageFailure, ImageRenderer, ImageResult
from dni_deploy.blending.group_rules import AppliedRule
from dni_deploy.blending.preset import Preset
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, PartialResultError, UsageError, escape_name
from dni_deploy.imaging.image_paths import Paths
from dni_deploy.imaging.image_tasks import ImageFileOptions, ImagePlan, plan_image_tasks
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import open_session
from dni_deploy.spatial.alpha_map import AlphaMap, AlphaMapOptions
from dni_deploy.spatial.render import AlphaMapRange, AlphaMapRenderer
from dni_deploy.utils.progress import OptionalProgress


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
        rows = replace(self, failed=())
        return {**asdict(rows), "failed": [failure.to_json() for failure in self.failed]}


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
    progress: OptionalProgress = None,
    report_failure: Callable[[ImageFailure], None] | None = None,
) -> RunReport:
    """Processes images at one alpha, or with an alpha for each pixel; the engine is opened once.

    Several images are processed at once, so that reading, the network and writing overlap. Ctrl-C leaves only whole files.

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
        progress: Called with the number of images that are done or have failed, from any thread, one at a time.
        report_failure: Called for each image that failed, when it is known.

    Returns:
        What was done.

    Raises:
        UsageError: Outputs exist, coincide or have no known format. Nothing was written.
        InputError: An input is missing, or a folder holds no image.
        PartialResultError: Some of several images failed, and the others were processed; its `report` is the RunReport. If all
            fail, the first one's error, with a `report`, too.
        DniError: As open_session raises.
    """
    if alpha is None and alpha_map is None:
        raise UsageError("Which alpha? Give one (--alpha), or a map of alphas (--alpha-map). Nothing was written.")
    file_options = file_options or ImageFileOptions()
    map_options = AlphaMapOptions(alpha_map) if isinstance(alpha_map, str | os.PathLike) else alpha_map
    masks = [] if map_options is None else [map_options.mask]
    plan = plan_image_tasks(inputs, output, file_options, force=force, other_inputs=masks)
    if not plan.tasks:
        return RunReport({}, "", "", (), (), plan.skipped, 0.0)
    mask = None if map_options is None else AlphaMap.read(map_options.mask)
    with open_session(bundle_path, options, alpha=alpha) as session:
        rules = session.rules
        if save_preset is not None:
            Preset(session.members, session.alpha, () if rules is None else rules.rules).write(save_preset, force=force)
        ends = None if map_options is None else AlphaMapRange.from_options(session, alpha, map_options.white)
        map_renderer = (
            None if map_options is None or mask is None or ends is None else AlphaMapRenderer(session, map_options, mask, ends)
        )
        renderer = ImageRenderer(
            session, plan, file_options, tile=tile, overlap=overlap, map_renderer=map_renderer, force=force
        )
        started = time.perf_counter()
        rows: list[ImageResult] = []
        failures: list[ImageFailure] = []
        with closing(renderer.process_all(progress)) as results:  # at an error, too, before the session closes
            for result in results:
                if isinstance(result, ImageResult):
                    rows.append(result)
                    continue
                failures.append(result)
                if report_failure is not None and plan.folder is not None:
                    report_failure(result)
        report = RunReport(
            _to_dict(session.alpha if ends is None else ends.black),
            session.engine.name,
            session.engine_reason,
            tuple(rows),
            tuple(failures),
            plan.skipped,
            time.perf_counter() - started,
            None if ends is None else _to_dict(ends.white),
            () if rules is None else rules.describe_rules(),
            () if rules is None else rules.describe_split_norms(),
        )
    if failures:
        raise _summarize_failures(report, plan)
    return report


def _summarize_failures(report: RunReport, plan: ImagePlan) -> DniError:
    """Makes the error of a run with failures; that of a single file is its own."""
    first, count = report.failed[0].error, len(plan.tasks)
    error = first
    if plan.folder is None:
        return error
    if report.images:
        error = PartialResultError(
            f"{len(report.images)} of {count} images were processed and are in {escape_name(plan.folder)}, "
            f"{len(report.failed)} failed. First: {first}"
        )
    elif count > 1:
        error = type(first)(f"None of {count} images was processed. First: {first}")
    error.report = report
    return error


def _to_dict(coefficients: Coefficients) -> dict[str, float]:
    return dict(zip(coefficients.members, coefficients.values, strict=True))
