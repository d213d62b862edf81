"""Processes one image at many alphas in one running engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dni_deploy.api.sweep_path import check_steps, measure_path, plan_alphas, plan_even_steps
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import ImageFile, read_image, write_image
from dni_deploy.imaging.image_formats import output_format
from dni_deploy.imaging.image_pairs import check_reference_size
from dni_deploy.reports.page import check_page_name
from dni_deploy.reports.sweep import (
    SweepPoint,
    SweepReport,
    describe_coefficients,
    draw_sweep_sheet,
    find_best_point,
    summarize_points,
)
from dni_deploy.reports.sweep_page import render_sweep_page
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import open_session
from dni_deploy.tuning.trials import TestImage
from dni_deploy.utils.atomic_write import check_outputs, write_bytes_atomically
from dni_deploy.utils.log_duration import log_duration
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress, report_progress

log = logging.getLogger(__name__)

__all__ = ["SweepPoint", "SweepReport", "sweep"]

MAX_OUTPUT_PIXELS = 4 * 10**8
"""Of all outputs together, which are held in memory (3 bytes each) until the sheet is drawn."""


class SweepLabels(NamedTuple):
    """What the outputs of a sweep say besides its results.

    Attributes:
        heading: Heading of contact sheet, page and plot; empty: the names of image and members.
        reference_psnrs: PSNR by name, in dB, drawn as lines to compare with.
    """

    heading: str = ""
    reference_psnrs: Mapping[str, float] | None = None


def sweep(
    bundle_path: Bundle | str | os.PathLike[str],
    image: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    steps: int = 11,
    even: bool = False,
    reference: str | os.PathLike[str] | None = None,
    html: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    options: SessionOptions | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    force: bool = False,
    progress: OptionalProgress = None,
    labels: SweepLabels | None = None,
) -> SweepReport:
    """Processes one image at many alphas and draws a contact sheet, and on request a page with a slider and a plot.

    Two members: alpha 0 to 1, the first member's share. More members: from each to the next, in family order, with `steps`
    alphas between each two (where two paths meet, the member occurs once).

    Args:
        bundle_path: The bundle or its path.
        image: The image.
        output: The contact sheet to write.
        steps: Number of alphas, ends included, 2 to 1001.
        even: Take equal steps of the bundle's slider, not of alpha.
        reference: A clean image of the output's size: adds PSNR and the best alpha.
        html: A page to write.
        plot: A plot to write; needs the reference.
        options: Options of the session; groups of weights that have rules keep their own alpha.
        tile: Side of the tiles in input pixels; None: tiles of at most 512 output pixels.
        overlap: Number of input pixels that tiles share; None: the network's radius.
        force: Replace files that exist.
        progress: Called with the alphas done.
        labels: A heading of your own, and PSNR values to compare with.

    Returns:
        The report.

    Raises:
        UsageError: Outputs exist or have no known format, `steps` is out of range, or a plot has no reference. Nothing was
            written.
        MismatchError: The reference has another size. Nothing was written.
        DniError: As read_image and open_session raise.
    """
    labels = labels or SweepLabels()
    outputs = _check_outputs(output, html, plot, reference, steps, force)
    bundle = Bundle.ensure_open(bundle_path) if even else None
    source = read_image(image)
    clean = None if reference is None else read_image(reference)
    compared = TestImage.from_files(Path(image).name, source, clean)
    with open_session(bundle or bundle_path, options) as session:
        path = plan_alphas(len(session.members), steps)
        if bundle is not None:
            path = plan_even_steps(bundle, path)
        _check_sizes(image, reference, compared, session.signature.scale, len(path))
        frames: list[Frame] = []

        def keep_frame(index: int, frame: Frame) -> None:
            frames.append(source.color.convert_for_screen(frame))
            report_progress(progress, index + 1, len(path), describe_coefficients(session.members, path[index]))

        report_progress(progress, 0, len(path), describe_coefficients(session.members, path[0]))
        with log_duration(log, "rendering the sweep"):
            result = measure_path(session, [compared], path, tile=tile, overlap=overlap, report_frame=keep_frame)
        if result.failures:
            raise result.failures[0]
        rows = summarize_points(path, result.scores, [result.change_seconds])
        report = SweepReport(session.members, session.engine.name, rows, find_best_point(rows), outputs, session.engine_reason)
    heading = (
        labels.heading
        or f"{Path(image).name}: {' to '.join(reversed(report.members) if len(report.members) == 2 else report.members)}"
    )
    write_image(output, ImageFile(draw_sweep_sheet(frames, report, heading)), force=force)
    if html is not None:
        write_bytes_atomically(
            html,
            render_sweep_page(
                frames,
                report,
                source.color.convert_for_screen(source.to_frame()),
                heading,
                labels.reference_psnrs,
                None if clean is None else clean.color.convert_for_screen(clean.to_frame()),
            ).encode(),
            force=force,
        )
    if plot is not None:
        kind = Path(plot).suffix.lower()[1:]
        drawn = import_optional("dni_deploy.reports.plot").plot_sweep(report, heading, labels.reference_psnrs, kind)
        write_bytes_atomically(plot, drawn, force=force)
    report_progress(progress, len(path), len(path), "done")
    return report


def _check_outputs(
    output: str | os.PathLike[str],
    html: str | os.PathLike[str] | None,
    plot: str | os.PathLike[str] | None,
    reference: str | os.PathLike[str] | None,
    steps: int,
    force: bool,
) -> tuple[str, ...]:
    check_steps(steps)
    if plot is not None and reference is None:
        raise UsageError("A plot shows PSNR against alpha and needs the clean image: give --reference.")
    output_format(output)
    if html is not None:
        check_page_name(html)
    if plot is not None:
        import_optional("dni_deploy.reports.plot").check_plot_name(plot)
    return check_outputs((output, html, plot), force)


def _check_sizes(
    image: str | os.PathLike[str],
    reference: str | os.PathLike[str] | None,
    compared: TestImage,
    scale: int,
    count: int,
) -> None:
    height, width = compared.frame.shape[0] * scale, compared.frame.shape[1] * scale
    if reference is not None and compared.reference is not None:
        check_reference_size(image, reference, (height, width), compared.reference.shape[:2])
    if height * width * count > MAX_OUTPUT_PIXELS:
        raise UsageError(
            f"{count} outputs of {width}x{height} pixels are more than a sweep holds ({MAX_OUTPUT_PIXELS:,}); take fewer steps or a part "
            "of the image. Nothing was written."
        )
