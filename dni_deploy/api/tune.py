"""Finds the alpha that is best by a metric, in the running engine."""

from __future__ import annotations

import logging
import math
import operator
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from dni_deploy.api.cluster_workers import adapt_session_options, make_bundle_absolute, open_workers, require_ray
from dni_deploy.api.run_job import read_encoder_versions
from dni_deploy.api.sweep_images import make_pair_absolute
from dni_deploy.api.tune_images import ImageJudge, TuneWorker, TuneWorkerFactory
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_pairs import ImagePair, name_images, pair_with_references
from dni_deploy.imaging.image_paths import Paths
from dni_deploy.imaging.metrics.psnr import format_db
from dni_deploy.imaging.metrics.registry import Metric, find_metric
from dni_deploy.jobs.ray_options import RayOptions
from dni_deploy.reports.page import check_page_name
from dni_deploy.reports.sweep import describe_coefficients
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session
from dni_deploy.session.tiles import render_tiled
from dni_deploy.tuning.report import Evaluation, TuneReport, sort_front
from dni_deploy.tuning.search import (
    Objective,
    find_knee_point,
    find_pareto_front,
    refine_best_point,
    round_to_grid,
    survey_simplex,
    to_coefficients,
)
from dni_deploy.tuning.trials import describe_crops, read_test_image
from dni_deploy.utils.atomic_write import check_outputs, write_bytes_atomically
from dni_deploy.utils.compare_arrays import mse_to_psnr_db
from dni_deploy.utils.log_duration import log_duration
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress, report_progress

log = logging.getLogger(__name__)

MAX_METRICS = 4
MAX_EVALUATIONS = 10_000
DEFAULT_EVALUATIONS_TWO_MEMBERS, DEFAULT_EVALUATIONS_MORE_MEMBERS, EXTRA_EVALUATIONS_PER_METRIC = 32, 48, 16
"""Evaluations, where nothing is said: for two members, for more, and for each measure beyond the first."""

FRONT_EVALUATIONS = 7
"""Blends evaluated on the way from one measure's best to another's: the front between them."""


def _reject_images(picture: Frame, reference: Frame) -> float:
    raise TypeError("SURE judges two inferences, not two images")


def _format_estimate(error: float) -> str:
    """An estimated mean squared error with the PSNR that it would be; it may be below 0, since it is an estimate."""
    return f"{error:.1f} ({format_db(mse_to_psnr_db(error, 255))})" if error > 0 else f"{error:.1f}"


SURE_SCORE = Metric("estimated error", "", False, _reject_images, _format_estimate)
"""What stands for a measure where there is no reference: the mean squared error as SURE estimates it, sure.py."""


def tune(
    bundle_path: Bundle | str | os.PathLike[str],
    images: Paths,
    *,
    reference: Paths | None = None,
    metric: str | Sequence[str] = "psnr",
    noise: float | str | None = None,
    evaluations: int | None = None,
    crop: int | None = None,
    html: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    options: SessionOptions | None = None,
    recursive: bool = False,
    ray_options: RayOptions | None = None,
    force: bool = False,
    progress: OptionalProgress = None,
) -> TuneReport:
    """Finds the alpha that is best, over one or several images. The engine is opened once: an evaluation costs a refit and
    a frame. The result is the same for any number of workers, to the last digit.

    Args:
        bundle_path: The bundle or its path.
        images: Files or folders.
        reference: Clean images of the output's size: one for each image in their order, or a folder with the same names.
        metric: One or several of psnr, ssim, haarpsi, ciede2000, lpips, package.module:function (min:... if less is better).
        noise: Instead of a reference, for denoisers: sigma in values of 0..255, or "auto" to estimate it from each image.
            The error is then estimated by SURE, in two inferences.
        evaluations: Maximum number of blends to evaluate.
        crop: Side in input pixels of the center crop that is judged; None: 256; 0: the whole image.
        html: A page with images to write.
        plot: A plot of the metrics against alpha to write: .png, .svg or .pdf.
        options: Options of the session.
        recursive: Enter the folders in the folders, of images and of references.
        ray_options: Whether workers on a Ray cluster share the images; None: this process judges them.
        force: Replace files that exist.
        progress: Called with the evaluations done.

    Returns:
        The report.

    Raises:
        UsageError: Neither or both of reference and noise, outputs that exist, or a metric that fails or gives NaN.
        MismatchError: A reference has another size.
        InputError: An image cannot be read.
        UnavailableError: The extra `tune` is not installed.
        DniError: As open_session raises. In all cases nothing is written.
    """
    started = time.perf_counter()
    scores, sigma = _choose_metrics(metric, reference, noise)
    files = _check_outputs(html, plot, force)
    pairs = pair_with_references(name_images(images, recursive=recursive), reference, recursive=recursive)
    metrics = () if sigma is not None else tuple(score.given_name for score in scores)
    bundle, session_options = bundle_path, options or SessionOptions()
    if ray_options is not None and ray_options.ray is not None:
        require_ray()
        bundle = make_bundle_absolute(Bundle.ensure_open(bundle_path))
        session_options = adapt_session_options(session_options, ray_options)
        pairs = [make_pair_absolute(pair) for pair in pairs]
    factory = TuneWorkerFactory(bundle, metrics, sigma, crop, session_options)
    with closing(
        open_workers(
            factory,
            ray_options,
            bundle=bundle,
            engine=session_options.engine,
            versions=read_encoder_versions(),
            progress=progress,
        )
    ) as pool:
        judge = ImageJudge(pool, pairs)
        budget = _choose_budget(evaluations, len(judge.members), len(scores))
        run = _Evaluator(judge, scores, budget, progress)
        objective = Objective(run.evaluate, budget)
        with log_duration(log, "the search"):
            _run_search(objective, len(judge.members), len(scores))
        report = _make_report(judge, objective, scores, run, bundle_path, _list_notes(judge, noise_is_given=bool(sigma)), files)
        examples: dict[str, Frame] = {}
        if html is not None and isinstance(pool, TuneWorker):
            examples = _render_examples(pool.session, pairs[0], crop, report)
    if html is not None and not examples:
        with open_session(bundle_path, options) as session:
            examples = _render_examples(session, pairs[0], crop, report)
    report = replace(report, seconds=time.perf_counter() - started)
    if html is not None:
        page = import_optional("dni_deploy.tuning.page").render_tune_page(report, examples, pairs[0].name)
        write_bytes_atomically(html, page.encode(), force=force)
    if plot is not None:
        drawn = import_optional("dni_deploy.tuning.plot").plot_tuning(report, Path(plot).suffix.lower()[1:])
        write_bytes_atomically(plot, drawn, force=force)
    report_progress(progress, len(report.evaluations), len(report.evaluations), "done")
    return report


class _Evaluator:
    """The judge behind the search: an evaluation is a change of alpha and a frame for each image."""

    def __init__(self, judge: ImageJudge, scores: Sequence[Metric], budget: int, progress: OptionalProgress) -> None:
        self._judge, self._scores = judge, scores
        self._budget, self._progress = budget, progress
        self._best: tuple[float, str] | None = None
        self.change_times_s: list[float] = []
        self.frame_times_s: list[float] = []
        self.done_count = 0

    def evaluate(self, shares: tuple[float, ...]) -> tuple[float, ...]:
        """The measures at these shares, each turned so that more is better."""
        report_progress(
            self._progress, self.done_count, self._budget, f"best {self._best[1]}" if self._best else "looking everywhere"
        )
        judged = self._judge.judge(shares)
        self.change_times_s.append(judged.change_seconds)
        self.frame_times_s.append(judged.frame_seconds)
        self.done_count += 1
        first, value = self._scores[0], judged.values[0]
        if self._best is None or first.to_utility(value) > self._best[0]:
            where = describe_coefficients(self._judge.members, shares)
            self._best = first.to_utility(value), f"{first.format_value(value)} at {where}"
        return tuple(score.to_utility(value) for score, value in zip(self._scores, judged.values, strict=True))


def _choose_metrics(
    metric: str | Sequence[str], reference: object, noise: float | str | None
) -> tuple[list[Metric], float | None]:
    """The measures, and the sigma of the noise where that replaces a reference (0: to be estimated)."""
    names = [metric] if isinstance(metric, str) else list(dict.fromkeys(metric))
    if not 1 <= len(names) <= MAX_METRICS:
        raise UsageError(f"tune takes 1 to {MAX_METRICS} metrics, got {len(names)}.")
    if (reference is None) == (noise is None):
        what = "Both are given" if noise is not None else "Neither is given"
        raise UsageError(
            "A blend is judged by clean images (--reference) or, for denoisers, by the noise that was in the image "
            f"(--noise auto, or its sigma of 255). {what}."
        )
    if noise is None:
        return [find_metric(name) for name in names], None
    if names != ["psnr"]:
        raise UsageError("Without a reference only the mean squared error can be estimated, that is PSNR; leave --metric out.")
    if noise == "auto":
        return [SURE_SCORE], 0.0
    try:
        sigma = float(noise)
    except (TypeError, ValueError):
        sigma = 0.0
    if not 0 < sigma <= 255:
        raise UsageError(f"The noise is 'auto' or a sigma above 0 and up to 255; got {escape_name(noise)}.")
    return [SURE_SCORE], sigma


def _list_notes(judge: ImageJudge, *, noise_is_given: bool) -> list[str]:
    """What was cropped and what was assumed."""
    notes = describe_crops(judge.crops)
    if judge.depends_on_whole_image and notes:
        notes.append(
            "This network depends on the whole image (InstanceNorm or attention), so a crop of it is another image to it."
        )
    sigmas = [(name, sigma) for (name, _), sigma in zip(judge.crops, judge.sigmas, strict=True) if sigma is not None]
    if sigmas:
        listed = ", ".join(f"{sigma:.1f} in {escape_name(name)}" for name, sigma in sigmas[:3])
        more = f" and {len(sigmas) - 3} more" if len(sigmas) > 3 else ""
        how = "given" if noise_is_given else "estimated"
        notes.append(f"Noise of sigma {listed}{more} was {how}; the error is estimated by SURE.")
    return notes


def _choose_budget(evaluations: int | None, members: int, measures: int) -> int:
    if evaluations is None:
        return (
            DEFAULT_EVALUATIONS_TWO_MEMBERS if members == 2 else DEFAULT_EVALUATIONS_MORE_MEMBERS + 12 * max(0, members - 3)
        ) + EXTRA_EVALUATIONS_PER_METRIC * (measures - 1)
    if not members <= evaluations <= MAX_EVALUATIONS:
        raise UsageError(
            f"tune evaluates each of the {members} members and then blends: {members} to {MAX_EVALUATIONS} evaluations, got {evaluations}."
        )
    return evaluations


def _run_search(objective: Objective, members: int, measures: int) -> None:
    """The survey, a climb for each measure, and with several measures the ways between their best points."""
    budget = objective.budget
    survey_simplex(objective, members, max(members, round(budget * (0.7 if members == 2 else 0.34))))
    kept = FRONT_EVALUATIONS * math.comb(measures, 2)
    aims = [operator.itemgetter(measure) for measure in range(measures)]
    for number, aim in enumerate(aims):
        refine_best_point(
            objective, members, aim, max(0, (budget - len(objective.values_by_point) - kept) // (measures - number))
        )
    for one, other in combinations(dict.fromkeys(map(objective.best_point, aims)), 2):
        for step in range(1, FRONT_EVALUATIONS + 1):
            part = step / (FRONT_EVALUATIONS + 1)
            point = round_to_grid([(1 - part) * a + part * b for a, b in zip(one, other, strict=True)])
            if len(objective.values_by_point) < budget:
                objective(point)


def _make_report(
    judge: ImageJudge,
    objective: Objective,
    scores: Sequence[Metric],
    evaluator: _Evaluator,
    bundle: Bundle | str | os.PathLike[str],
    notes: Sequence[str],
    files: tuple[str, ...],
) -> TuneReport:
    points = list(objective.values_by_point)
    utilities = [objective.values_by_point[point] for point in points]
    rows = tuple(
        Evaluation(to_coefficients(point), tuple(map(Metric.to_utility, scores, values)))
        for point, values in zip(points, utilities, strict=True)
    )
    bests = tuple(points.index(objective.best_point(operator.itemgetter(measure))) for measure in range(len(scores)))
    kept = sort_front(rows, find_pareto_front(utilities), scores[0]) if len(scores) > 1 else ()
    return TuneReport(
        bundle=os.fspath(bundle.path if isinstance(bundle, Bundle) else bundle),
        members=judge.members,
        engine=judge.engine,
        engine_reason=judge.engine_reason,
        scores=tuple(scores),
        evaluations=rows,
        best_indices=bests,
        front=kept,
        chosen_index=kept[find_knee_point([utilities[index] for index in kept])] if kept else bests[0],
        image_count=len(judge.crops),
        change_seconds=statistics.median(evaluator.change_times_s),
        frame_seconds=statistics.median(evaluator.frame_times_s),
        seconds=0.0,
        notes=tuple(notes),
        files=files,
    )


def _check_outputs(html: str | os.PathLike[str] | None, plot: str | os.PathLike[str] | None, force: bool) -> tuple[str, ...]:
    if html is not None:
        check_page_name(html)
    if plot is not None:
        import_optional("dni_deploy.reports.plot").check_plot_name(plot)
    if html is not None or plot is not None:
        import_optional("matplotlib")
    return check_outputs((html, plot), force)


def _render_examples(session: Session, pair: ImagePair, crop: int | None, report: TuneReport) -> dict[str, Frame]:
    """What the page shows of the first image: the input, the better member alone, the chosen blend, the reference."""
    image = read_test_image(pair, session.signature, crop)
    examples = {"input": image.to_frame(image.frame)}
    member = report.find_best_member(0)
    for title, index in (("better member alone", member), ("chosen blend", report.chosen_index)):
        session.alpha = coefficients = report.evaluations[index].coefficients
        output = render_tiled(session, image.frame).output
        examples[f"{title}: {describe_coefficients(report.members, coefficients)}"] = image.to_frame(output)
    return examples if image.reference is None else {**examples, "reference": image.reference_frame}
