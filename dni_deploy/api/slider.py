"""Measures how images change along alpha, and stores a perceptually uniform slider in the bundle."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.slider import PerceptualSlider
from dni_deploy.bundle.writer import store_slider
from dni_deploy.errors import MismatchError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_pairs import ImagePair
from dni_deploy.imaging.image_paths import Paths, list_images
from dni_deploy.imaging.metrics.ciede2000 import compute_color_difference, to_lab
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session
from dni_deploy.session.tiles import render_tiled
from dni_deploy.tuning.trials import TestImage, read_test_images
from dni_deploy.utils.atomic_write import check_outputs
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress, report_progress
from dni_deploy.utils.text_file import hash_file

INITIAL_ALPHA_STEPS, DEFAULT_SLIDER_STEPS = 16, 32
"""Steps of alpha that are measured first, and then of the slider that results: so the points of the final slider lie close
together where the image changes fast. Between them the slider is linear."""

REPORTED_STEPS = 20
"""Number of steps by which evenness is reported: the paper's 0.05."""

NOT_BETTER_NOTE = "The slider's steps are no more even than alpha's own: `dni-deploy slider BUNDLE --remove` removes it."


@dataclass(frozen=True)
class SliderReport:
    """What was measured, and what is in the bundle now.

    Attributes:
        bundle: Path of the bundle.
        members: Names of the members.
        points: The slider's points, (position, alpha); empty if the slider was removed.
        alpha_distances: Mean CIEDE2000 over the images from each of REPORTED_STEPS equal steps of alpha to the next.
        slider_distances: The same for equal steps of the slider.
        alpha_unevenness: Largest over mean of `alpha_distances`; 1 is even.
        slider_unevenness: Largest over mean of `slider_distances`.
        held_out: Both for images that the slider was not made from; None without.
        removed: The slider was removed.
        images: Number of images.
        engine: Name of the engine.
        engine_reason: Why this engine was chosen.
        notes: Sentences for the user.
        files: The files that were written.
    """

    bundle: str
    members: tuple[str, ...]
    points: tuple[tuple[float, float], ...]
    alpha_distances: tuple[float, ...] = ()
    slider_distances: tuple[float, ...] = ()
    alpha_unevenness: float | None = None
    slider_unevenness: float | None = None
    held_out: tuple[float, float] | None = None
    removed: bool = False
    images: int = 0
    engine: str = ""
    engine_reason: str = ""
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return asdict(self)


def slider(
    bundle_path: Bundle | str | os.PathLike[str],
    images: Paths = (),
    *,
    steps: int = DEFAULT_SLIDER_STEPS,
    held_out: Paths = (),
    remove: bool = False,
    crop: int | None = None,
    plot: str | os.PathLike[str] | None = None,
    options: SessionOptions | None = None,
    force: bool = False,
    progress: OptionalProgress = None,
) -> SliderReport:
    """Measures how images change from one member to the other, and stores a perceptually uniform slider in the bundle.

    Args:
        bundle_path: The bundle or its path.
        images: Images like those that the slider will be used for: files or folders.
        steps: Number of steps of the slider that are measured, 4 to 256.
        held_out: Other images, on which the evenness is only reported.
        remove: Remove the stored slider instead.
        crop: Side in input pixels of the center crop that is measured; None: 256; 0: whole images.
        plot: A file to write a plot to: .png, .svg or .pdf.
        options: Options of the session.
        force: Replace a slider and a plot that exist.
        progress: Called with the renders done.

    Returns:
        What was measured.

    Raises:
        UsageError: A slider exists already, there is none to remove, there is no image, or `steps` is out of range.
        MismatchError: The family has more than two members, so that its controls have no two ends; or an image never changes.
        DniError: As open_session raises. In all cases the bundle is as it was; storing is one step, and a crash leaves the
            old slider or the new one.
    """
    opened = Bundle.ensure_open(bundle_path)
    bundle_name = os.fspath(opened.path)
    if remove:
        if opened.slider is None:
            raise UsageError(f"{escape_name(bundle_name)} has no slider to remove.")
        store_slider(opened, None)
        return SliderReport(bundle_name, opened.members, (), removed=True)
    files = _check_request(opened, steps, plot, force)
    image_paths = list_images(images, enter_folders=True)
    if not image_paths:
        raise UsageError("A slider is measured on at least one image; name one like those that it will be used for.")
    held_out_paths = list_images(held_out, enter_folders=True)
    with open_session(opened, options) as session:
        test_images, notes = read_test_images(_as_pairs(image_paths), session.signature, crop)
        held_out_images, held_out_notes = read_test_images(_as_pairs(held_out_paths), session.signature, crop)
        meter = _DistanceMeter(
            session, progress, INITIAL_ALPHA_STEPS + 1 + steps + 1 + (4 if held_out_images else 2) * (REPORTED_STEPS + 1)
        )
        alphas = [step / INITIAL_ALPHA_STEPS for step in range(INITIAL_ALPHA_STEPS + 1)]
        rough = PerceptualSlider.from_distances(alphas, meter.measure_distances(test_images, alphas))
        alphas = [rough.alpha_at(step / steps) for step in range(steps + 1)]
        new_slider = PerceptualSlider.from_distances(alphas, meter.measure_distances(test_images, alphas))
        alpha_steps = [step / REPORTED_STEPS for step in range(REPORTED_STEPS + 1)]
        slider_alphas = [new_slider.alpha_at(position) for position in alpha_steps]
        by_alpha, by_slider = (
            meter.measure_distances(test_images, alpha_steps),
            meter.measure_distances(test_images, slider_alphas),
        )
        held_out_unevenness = None
        if held_out_images:
            held_out_unevenness = (
                compute_unevenness(meter.measure_distances(held_out_images, alpha_steps)),
                compute_unevenness(meter.measure_distances(held_out_images, slider_alphas)),
            )
        unevenness = compute_unevenness(by_alpha), compute_unevenness(by_slider)
        if unevenness[1] >= unevenness[0]:
            notes = [*notes, NOT_BETTER_NOTE]
        report = SliderReport(
            bundle_name,
            opened.members,
            new_slider.points,
            by_alpha,
            by_slider,
            *unevenness,
            held_out_unevenness,
            images=len(test_images),
            engine=session.engine.name,
            engine_reason=session.engine_reason,
            notes=(*notes, *held_out_notes),
            files=files,
        )
    drawn = None if plot is None else _draw_plot(report, plot)
    store_slider(opened, new_slider.points, _describe_measurement(report, image_paths, held_out_paths))
    if plot is not None and drawn is not None:
        import_optional("dni_deploy.utils.atomic_write").write_bytes_atomically(plot, drawn, force=force)
    report_progress(progress, meter.total, meter.total, "done")
    return report


def compute_unevenness(distances: Sequence[float]) -> float:
    """Computes the largest step over the mean step; 1 if all are equal, and if nothing moves at all."""
    mean = statistics.fmean(distances)
    return max(distances) / mean if mean else 1.0


class _DistanceMeter:
    """Renders test images at one alpha after the other, and measures how far they moved."""

    def __init__(self, session: Session, progress: OptionalProgress, total: int) -> None:
        self._session, self._progress, self.total, self._done_count = session, progress, total, 0

    def measure_distances(self, test_images: Sequence[TestImage], alphas: Sequence[float]) -> tuple[float, ...]:
        """Measures the mean CIEDE2000 over pixels and images from each alpha to the next."""
        previous = None
        distances = []
        for alpha in alphas:
            report_progress(self._progress, min(self._done_count, self.total), self.total, f"alpha {alpha:.3f}")
            self._done_count += 1
            self._session.alpha = alpha
            latest = [to_lab(self._render_frame(trial)) for trial in test_images]
            if previous is not None:
                distances.append(
                    statistics.fmean(compute_color_difference(one, other) for one, other in zip(latest, previous, strict=True))
                )
            previous = latest
        return tuple(distances)

    def _render_frame(self, trial: TestImage) -> Frame:
        return trial.to_frame(render_tiled(self._session, trial.frame).output)


def _as_pairs(paths: Sequence[Path]) -> list[ImagePair]:
    return [ImagePair(path.name, os.fspath(path)) for path in paths]


def _check_request(bundle: Bundle, steps: int, plot: str | os.PathLike[str] | None, force: bool) -> tuple[str, ...]:
    if len(bundle.members) != 2:
        raise MismatchError(
            f"A slider goes from one member to another; this family has {len(bundle.members)}. Export two of them as a bundle of their own."
        )
    if bundle.slider is not None and not force:
        raise UsageError(
            f"{escape_name(bundle.path)} has a slider; give --force to replace it, or --remove. Nothing was written."
        )
    if not isinstance(steps, int) or not 4 <= steps <= 256:
        raise UsageError(f"A slider is measured in 4 to 256 steps, got {escape_name(steps)}.")
    if plot is None:
        return ()
    import_optional("dni_deploy.reports.plot").check_plot_name(plot)
    return check_outputs((plot,), force)


def _describe_measurement(report: SliderReport, images: Sequence[Path], held_out_images: Sequence[Path]) -> dict[str, Any]:
    """What is kept beside the knots: the pictures by name and SHA-256, and how even the steps are on them."""
    about: dict[str, Any] = {
        "pictures": _hash_images(images),
        "before": report.alpha_unevenness,
        "after": report.slider_unevenness,
    }
    if report.held_out is not None:
        before, after = report.held_out
        about["held_out"] = {"pictures": _hash_images(held_out_images), "before": before, "after": after}
    return about


def _hash_images(files: Sequence[Path]) -> list[dict[str, str]]:
    return [{"name": file.name, "sha256": hash_file(file, "image")} for file in files]


def _draw_plot(report: SliderReport, plot: str | os.PathLike[str]) -> bytes:
    drawn: bytes = import_optional("dni_deploy.tuning.plot").plot_slider(
        report.points, report.alpha_distances, report.slider_distances, report.members, Path(plot).suffix.lower()[1:]
    )
    return drawn


__all__ = ["SliderReport", "compute_unevenness", "slider"]
