"""Measures many images with references at many alphas: each by itself, and their mean."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from dni_deploy.api.cluster_workers import (
    adapt_session_options,
    make_bundle_absolute,
    make_path_absolute,
    open_workers,
    require_ray,
)
from dni_deploy.api.run_job import read_encoder_versions
from dni_deploy.api.sweep_path import Coefficients, check_steps, measure_path, plan_alphas, plan_even_steps
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import DniError, PartialResultError, UsageError, escape_name
from dni_deploy.imaging.image_pairs import ImagePair, name_images, pair_with_references
from dni_deploy.imaging.image_paths import Paths
from dni_deploy.imaging.metrics.registry import find_metric
from dni_deploy.jobs.pool import UnitWorker
from dni_deploy.jobs.ray_options import RayOptions
from dni_deploy.jobs.unit import UnitError, UnitResult, UnitRow, WorkerName, make_worker_name, run_unit
from dni_deploy.reports.sweep import ImageScores, SweepReport, find_best_point, summarize_points
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session
from dni_deploy.tuning.trials import TestImage, read_test_image
from dni_deploy.utils.atomic_write import check_outputs, write_bytes_atomically
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress, report_progress

IMAGES_PER_UNIT = 4
"""Images that one unit measures, so that a change of alpha serves several."""

MAX_HELD_PIXELS = 64 * 10**6
"""Output pixels of the images that are held decoded at once; one image that has more is alone."""


@dataclass(frozen=True)
class SweepSettings:
    """What a sweep over images measures.

    Attributes:
        steps: Number of alphas, ends included, 2 to 1001.
        even: Take equal steps of the bundle's slider, not of alpha.
        metrics: What is measured besides PSNR; names as of `tune`.
        tile: Side of the tiles in input pixels; None: tiles of at most 512 output pixels.
        overlap: Number of input pixels that tiles share; None: the network's radius.
    """

    steps: int = 11
    even: bool = False
    metrics: Sequence[str] = ()
    tile: int | None = None
    overlap: int | None = None


@dataclass(frozen=True)
class SweepUnit:
    """Some images, to be measured at every alpha.

    Attributes:
        id: Its number in the list, with leading zeros.
        pairs: The images with their references.
    """

    id: str
    pairs: tuple[ImagePair, ...]


@dataclass(frozen=True)
class SweepWorkerFactory:
    """Opens what measures units, in whichever process.

    Attributes:
        bundle: The bundle.
        path: The alphas.
        settings: What is measured.
        options: Options of the session.
    """

    bundle: Bundle
    path: tuple[Coefficients, ...]
    settings: SweepSettings
    options: SessionOptions

    def open_worker(self) -> SweepWorker:
        """Opens the worker.

        Raises:
            DniError: As open_session raises.
        """
        return SweepWorker(self, open_session(self.bundle, self.options))


class SweepWorker:
    """Measures units in one session: each image is decoded once and rendered at every alpha."""

    def __init__(self, factory: SweepWorkerFactory, session: Session) -> None:
        """Keeps the arguments.

        Args:
            factory: What is measured.
            session: The worker owns it from here on.
        """
        self._factory, self._session = factory, session
        self._metrics = [find_metric(name) for name in factory.settings.metrics]
        self._name = WorkerName(make_worker_name(), engine=session.engine.name)

    def run_units(self, units: Iterable[SweepUnit]) -> Iterator[UnitRow]:
        """Measures units and yields a row for each, in their order; an image that fails is an entry of its row."""
        for unit in units:
            yield run_unit(unit, self._measure_unit, self._name)

    def close(self) -> None:
        """Closes the session."""
        self._session.close()

    def _measure_unit(self, unit: SweepUnit) -> UnitResult:
        scale = self._session.signature.scale
        details: dict[str, Any] = {
            "engine_reason": self._session.engine_reason,
            "change_seconds": [],
            "images": [None] * len(unit.pairs),
        }
        held: dict[int, TestImage] = {}
        pixels = 0
        for index, pair in enumerate(unit.pairs):
            try:
                held[index] = read_test_image(pair, self._session.signature)
            except DniError as error:
                details["images"][index] = _describe_failure(pair, UnitError.from_error(error))
                continue
            height, width = held[index].frame.shape[:2]
            pixels += height * width * scale * scale
            if pixels > MAX_HELD_PIXELS:
                self._measure_held(held, unit, details)
                held, pixels = {}, 0
        self._measure_held(held, unit, details)
        return UnitResult(details=details)

    def _measure_held(self, held: dict[int, TestImage], unit: SweepUnit, details: dict[str, Any]) -> None:
        if not held:
            return
        settings = self._factory.settings
        result = measure_path(
            self._session,
            list(held.values()),
            self._factory.path,
            self._metrics,
            tile=settings.tile,
            overlap=settings.overlap,
        )
        scores = iter(result.scores)
        for position, index in enumerate(held):
            failure = result.failures.get(position)
            details["images"][index] = (
                asdict(next(scores)) if failure is None else _describe_failure(unit.pairs[index], UnitError.from_error(failure))
            )
        if result.scores:
            details["change_seconds"].append(result.change_seconds)


def sweep_images(
    bundle_path: Bundle | str | os.PathLike[str],
    images: Paths,
    reference: Paths,
    *,
    settings: SweepSettings | None = None,
    recursive: bool = False,
    table: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    options: SessionOptions | None = None,
    ray_options: RayOptions | None = None,
    force: bool = False,
    progress: OptionalProgress = None,
) -> SweepReport:
    """Measures images with references at many alphas. The numbers are the same for any number of workers, to the last digit.

    Args:
        bundle_path: The bundle or its path.
        images: Files or folders.
        reference: Clean images of the output's size: one for each image in their order, or folders with the same names.
        settings: The alphas, and what is measured; None: the defaults.
        recursive: Enter the folders in the folders, of images and of references.
        table: A table to write: .csv, a row for each image at each alpha, and for the mean at each alpha.
        plot: A plot of the mean PSNR to write: .png, .svg or .pdf.
        options: Options of the session.
        ray_options: Whether workers on a Ray cluster share the images; None: this process measures them.
        force: Replace files that exist.
        progress: Called with the images done.

    Returns:
        The report: its points are the means.

    Raises:
        UsageError: Outputs exist or have no known format, or a number is out of range. Nothing was written.
        InputError: An image has no reference. Nothing was written.
        PartialResultError: Some images failed, such as one whose reference has another size; the means are over the others,
            tables and plots are written, and its `report` is the SweepReport. If all fail, the first one's error.
        DniError: As open_session raises.
    """
    settings = settings or SweepSettings()
    check_steps(settings.steps)
    files = _check_outputs(table, plot, force)
    for name in settings.metrics:
        find_metric(name)
    pairs = pair_with_references(name_images(images, recursive=recursive), reference, recursive=recursive)
    bundle, options = Bundle.ensure_open(bundle_path), options or SessionOptions()
    if ray_options is not None and ray_options.ray is not None:
        require_ray()
        bundle, options = make_bundle_absolute(bundle), adapt_session_options(options, ray_options)
        pairs = [make_pair_absolute(pair) for pair in pairs]
    path = plan_alphas(len(bundle.members), settings.steps)
    if settings.even:
        path = plan_even_steps(bundle, path)
    factory = SweepWorkerFactory(bundle, tuple(path), settings, options)
    units = make_units(pairs)
    report_progress(progress, 0, len(pairs), f"{len(path)} alphas each")
    with closing(
        open_workers(
            factory, ray_options, bundle=bundle, engine=options.engine, versions=read_encoder_versions(), progress=progress
        )
    ) as pool:
        rows = _measure_units(pool, units, progress)
    report = _make_report(bundle.members, path, rows, units, files)
    if table is not None:
        write_bytes_atomically(table, report.format_table().encode("utf-8", "surrogateescape"), force=force)
    if plot is not None:
        title = f"mean of {len(report.images)} images"
        kind = os.path.splitext(plot)[1].lower()[1:]
        drawn = import_optional("dni_deploy.reports.plot").plot_sweep(report, title, None, kind)
        write_bytes_atomically(plot, drawn, force=force)
    report_progress(progress, len(pairs), len(pairs), "done")
    if report.failures:
        failed = PartialResultError(
            f"{len(report.images)} of {len(pairs)} images were measured, {len(report.failures)} failed. "
            f"First: {report.failures[0][1]}"
        )
        failed.report = report
        raise failed
    return report


def _check_outputs(table: str | os.PathLike[str] | None, plot: str | os.PathLike[str] | None, force: bool) -> tuple[str, ...]:
    if table is not None and os.path.splitext(table)[1].lower() != ".csv":
        raise UsageError(f"A table is written as .csv; got {escape_name(table)}. Nothing was written.")
    if plot is not None:
        import_optional("dni_deploy.reports.plot").check_plot_name(plot)
    return check_outputs((table, plot), force)


def make_pair_absolute(pair: ImagePair) -> ImagePair:
    """Returns a pair whose paths mean the same in every folder."""
    reference = None if pair.reference is None else make_path_absolute(pair.reference)
    return ImagePair(pair.name, make_path_absolute(pair.path), reference)


def make_units(pairs: Sequence[ImagePair]) -> list[SweepUnit]:
    """Splits images into units whose ids sort in the order of the images."""
    return [
        SweepUnit(f"{start:09d}", tuple(pairs[start : start + IMAGES_PER_UNIT]))
        for start in range(0, len(pairs), IMAGES_PER_UNIT)
    ]


def _measure_units(pool: UnitWorker[SweepUnit], units: Sequence[SweepUnit], progress: OptionalProgress) -> list[UnitRow]:
    """Measures all units and returns the rows in the order of the units, in whichever order they came."""
    size_by_id = {unit.id: len(unit.pairs) for unit in units}
    total, done = sum(size_by_id.values()), 0
    rows: list[UnitRow] = []
    for row in pool.run_units(units):
        rows.append(row)
        done += size_by_id[row.unit]
        report_progress(progress, done, total, f"{row.seconds:.1f} s for the last {size_by_id[row.unit]}")
    return sorted(rows, key=lambda row: row.unit)


def _describe_failure(pair: ImagePair, error: UnitError) -> dict[str, Any]:
    return {"name": pair.name, "error": error.to_json()}


def _make_report(
    members: tuple[str, ...],
    path: Sequence[Coefficients],
    rows: Sequence[UnitRow],
    units: Sequence[SweepUnit],
    files: tuple[str, ...],
) -> SweepReport:
    """Makes the report of all rows; raises the first error where every image failed."""
    entries: list[dict[str, Any]] = []
    for row, unit in zip(rows, units, strict=True):
        entries += row.details["images"] if row.error is None else [_describe_failure(pair, row.error) for pair in unit.pairs]
    failures = tuple((entry["name"], UnitError(**entry["error"]).to_error()) for entry in entries if "error" in entry)
    images = tuple(ImageScores.from_json(entry) for entry in entries if "error" not in entry)
    if not images:
        first = failures[0][1]
        raise first if len(entries) == 1 else type(first)(f"None of {len(entries)} images was measured. First: {first}")
    points = summarize_points(path, images, [times for row in rows for times in row.details.get("change_seconds", ())])
    return SweepReport(
        members,
        " and ".join(dict.fromkeys(row.engine for row in rows if row.engine)),
        points,
        find_best_point(points),
        files,
        " and ".join(dict.fromkeys(row.details["engine_reason"] for row in rows if row.error is None)),
        images,
        failures,
    )
