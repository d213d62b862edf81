"""Finds the alpha that is best by a metric, in the running engine."""

from __future__ import annotations

import logging
import math
import operator
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_paths import Paths, as_path_list, list_images
from dni_deploy.imaging.metrics.psnr import format_db
from dni_deploy.imaging.metrics.registry import Metric, find_metric
from dni_deploy.imaging.noise import estimate_noise
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
from dni_deploy.tuning.sure import SureEstimator
from dni_deploy.tuning.trials import TestImage, pair_with_references, read_test_images
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

Judge = Callable[[Session], tuple[float, ...]]


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
    force: bool = False,
    progress: OptionalProgress = None,
) -> TuneReport:
    """Finds the alpha that is best, over one or several images. The engine is opened once: an evaluation costs a refit and
    a frame.

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
    pairs = pair_with_references(list_images(images), [] if reference is None else as_path_list(reference))
    with open_session(bundle_path, options) as session:
        test_images, notes = read_test_images(pairs, session.signature, crop)
        if session.signature.radius is None and notes:
            notes.append(
                "This network depends on the whole image (InstanceNorm or attention), so a crop of it is another image to it."
            )
        budget = _choose_budget(evaluations, len(session.members), len(scores))
        judge = _make_reference_judge(test_images, scores)
        if sigma is not None:
            judge, noise_notes = _make_noise_judge(session, test_images, sigma)
            notes += noise_notes
        run = _Evaluator(session, scores, judge, len(test_images), budget, progress)
        objective = Objective(run.evaluate, budget)
        with log_duration(log, "the search"):
            _run_search(objective, len(session.members), len(scores))
        report = _make_report(session, objective, scores, run, bundle_path, len(test_images), notes, files)
        examples = _render_examples(session, test_images[0], report) if html is not None else {}
    report = replace(report, seconds=time.perf_counter() - started)
    if html is not None:
        page = import_optional("dni_deploy.tuning.page").render_tune_page(report, examples, test_images[0].name)
        write_bytes_atomically(html, page.encode(), force=force)
    if plot is not None:
        drawn = import_optional("dni_deploy.tuning.plot").plot_tuning(report, Path(plot).suffix.lower()[1:])
        write_bytes_atomically(plot, drawn, force=force)
    report_progress(progress, len(report.evaluations), len(report.evaluations), "done")
    return report


class _Evaluator:
    """The engine and the judge behind the search: an evaluation is a change of alpha and a frame for each image."""

    def __init__(
        self, session: Session, scores: Sequence[Metric], judge: Judge, frames: int, budget: int, progress: OptionalProgress
    ) -> None:
        self._session, self._scores, self._judge, self._frames = session, scores, judge, frames
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
        started = time.perf_counter()
        self._session.alpha = shares
        self._session.wait_until_applied()
        changed = time.perf_counter()
        values = self._judge(self._session)
        self.change_times_s.append(changed - started)
        self.frame_times_s.append((time.perf_counter() - changed) / self._frames)
        self.done_count += 1
        first = self._scores[0]
        if self._best is None or first.to_utility(values[0]) > self._best[0]:
            self._best = (
                first.to_utility(values[0]),
                f"{first.format_value(values[0])} at {describe_coefficients(self._session.members, shares)}",
            )
        return tuple(score.to_utility(value) for score, value in zip(self._scores, values, strict=True))


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


def _make_reference_judge(trials: Sequence[TestImage], scores: Sequence[Metric]) -> Judge:
    def judge(session: Session) -> tuple[float, ...]:
        outputs = [render_tiled(session, trial.frame).output for trial in trials]
        return tuple(
            statistics.fmean(
                score.measure(output, trial.reference)
                for output, trial in zip(outputs, trials, strict=True)
                if trial.reference is not None
            )
            for score in scores
        )

    return judge


def _make_noise_judge(session: Session, trials: Sequence[TestImage], given_sigma: float) -> tuple[Judge, list[str]]:
    """The judge without references, and what was assumed. The pilot is the network in the middle of the simplex."""
    session.alpha = [1 / len(session.members)] * len(session.members)
    sigmas = [given_sigma or estimate_noise(trial.frame) for trial in trials]
    risks = [
        SureEstimator(trial.frame, sigma, session.signature, session.infer) for trial, sigma in zip(trials, sigmas, strict=True)
    ]

    def judge(session: Session) -> tuple[float, ...]:
        return (statistics.fmean(risk.estimate_mean_squared_error(session.infer) for risk in risks),)

    listed = ", ".join(f"{sigma:.1f} in {escape_name(trial.name)}" for trial, sigma in zip(trials[:3], sigmas, strict=False))
    more = f" and {len(trials) - 3} more" if len(trials) > 3 else ""
    return judge, [
        f"Noise of sigma {listed}{more} was {'given' if given_sigma else 'estimated'}; the error is estimated by SURE."
    ]


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
    session: Session,
    objective: Objective,
    scores: Sequence[Metric],
    evaluator: _Evaluator,
    bundle: Bundle | str | os.PathLike[str],
    image_count: int,
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
        members=session.members,
        engine=session.engine.name,
        engine_reason=session.engine_reason,
        scores=tuple(scores),
        evaluations=rows,
        best_indices=bests,
        front=kept,
        chosen_index=kept[find_knee_point([utilities[index] for index in kept])] if kept else bests[0],
        image_count=image_count,
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


def _render_examples(session: Session, trial: TestImage, report: TuneReport) -> dict[str, Frame]:
    """What the page shows of the first picture: the input, the better member alone, the chosen blend, the reference."""
    examples = {"input": trial.frame}
    member = report.find_best_member(0)
    for title, index in (("better member alone", member), ("chosen blend", report.chosen_index)):
        session.alpha = coefficients = report.evaluations[index].coefficients
        examples[f"{title}: {describe_coefficients(report.members, coefficients)}"] = render_tiled(session, trial.frame).output
    return examples if trial.reference is None else {**examples, "reference": trial.reference}
