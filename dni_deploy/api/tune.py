"""tune: the alpha that is best by a measure, found in the running engine."""

from __future__ import annotations

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
from dni_deploy.errors import UsageError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.metrics import Score, find_score
from dni_deploy.imaging.metrics.psnr import decibels
from dni_deploy.imaging.noise import estimate_noise
from dni_deploy.imaging.picture_files import Paths, listed, pictures_of
from dni_deploy.imaging.tiling import run_tiled
from dni_deploy.reports.page import check_page_name
from dni_deploy.reports.sweep import shares_text
from dni_deploy.session.session import Session, open_session
from dni_deploy.tuning.pareto import front, knee
from dni_deploy.tuning.report import Evaluation, TuneReport, front_in_order
from dni_deploy.tuning.search import Landscape, climb, rounded, shares, survey
from dni_deploy.tuning.sure import Sure
from dni_deploy.tuning.trials import Trial, paired, read_trials
from dni_deploy.utils.atomic_write import publish_bytes
from dni_deploy.utils.optional_packages import open_door
from dni_deploy.utils.outputs import check_outputs
from dni_deploy.utils.progress import MaybeProgress, tell

MOST_METRICS = 4
MOST_EVALUATIONS = 10_000
TWO, MORE, FOR_EACH = 32, 48, 16
"""Evaluations, where nothing is said: for two members, for more, and for each measure beyond the first."""

ALONG = 7
"""Blends evaluated on the way from one measure's best to another's: the front between them."""


def _no_pictures(picture: Frame, reference: Frame) -> float:
    raise TypeError("SURE judges two inferences, not two pictures")


def _told(error: float) -> str:
    """An estimated mean squared error with the PSNR that it would be; it may be below 0, since it is an estimate."""
    return f"{error:.1f} ({decibels(10 * math.log10(255**2 / error))})" if error > 0 else f"{error:.1f}"


ESTIMATED = Score("estimated error", "", False, _no_pictures, _told)
"""What stands for a measure where there is no reference: the mean squared error as SURE estimates it, sure.py."""

Judge = Callable[[Session], tuple[float, ...]]


def tune(
    bundle_path: Bundle | str | os.PathLike[str],
    pictures: Paths,
    *,
    reference: Paths | None = None,
    metric: str | Sequence[str] = "psnr",
    noise: float | str | None = None,
    evaluations: int | None = None,
    crop: int | None = None,
    html: str | os.PathLike[str] | None = None,
    plot: str | os.PathLike[str] | None = None,
    engine: str = "auto",
    precision: str | None = None,
    device: int = 0,
    threads: int = 0,
    force: bool = False,
    progress: MaybeProgress = None,
) -> TuneReport:
    """Find the alpha that is best, over one or several pictures. The engine is opened once: an evaluation costs a refit and a frame.

    reference    clean pictures of the output's size: one for each picture in their order, or a folder with the same names.
    metric       one or several of scores/: psnr, ssim, haarpsi, ciede2000, lpips, package.module:function (min:... where less is better).
    noise        instead of a reference, for denoisers: sigma of 255, or "auto" to estimate it from each picture. The error is then
                 estimated by SURE, in two inferences.
    evaluations  how many blends may be tried at most.
    crop         side in input pixels of the middle part that is judged; None: 256; 0: the whole picture.
    html, plot   files to write: a page with pictures, and a plot of the measures against alpha (.png, .svg, .pdf).
    Raises UsageError (neither or both of reference and noise, outputs that exist, a measure that fails or gives NaN), MismatchError
    (a reference of another size), InputError, EnvironmentProblem (the extra `tune` is not installed), and what open_session raises.
    Nothing is written then.
    """
    started = time.perf_counter()
    scores, sigma = _asked(metric, reference, noise)
    files = _check_outputs(html, plot, force)
    pairs = paired(pictures_of(pictures), [] if reference is None else listed(reference))
    with open_session(bundle_path, engine=engine, threads=threads, precision=precision, device=device) as session:
        trials, notes = read_trials(pairs, session.signature, crop)
        if session.signature.radius is None and notes:
            notes.append(
                "This network looks at the whole picture (InstanceNorm or attention), so a part of it is another picture to it."
            )
        budget = _budget(evaluations, len(session.members), len(scores))
        judge = _by_reference(trials, scores)
        if sigma is not None:
            judge, told = _by_noise(session, trials, sigma)
            notes += told
        run = _Run(session, scores, judge, len(trials), budget, progress)
        landscape = Landscape(run.evaluate, budget)
        _search(landscape, len(session.members), len(scores))
        report = _report(session, landscape, scores, run, bundle_path, len(trials), notes, files)
        shots = _shots(session, trials[0], report) if html is not None else {}
    report = replace(report, seconds=time.perf_counter() - started)
    if html is not None:
        page = open_door("dni_deploy.tuning.page").tune_page(report, shots, trials[0].name)
        publish_bytes(html, page.encode(), force=force)
    if plot is not None:
        drawn = open_door("dni_deploy.tuning.plot").plot_tuning(report, Path(plot).suffix.lower()[1:])
        publish_bytes(plot, drawn, force=force)
    tell(progress, len(report.rows), len(report.rows), "done")
    return report


class _Run:
    """The engine and the judge behind the search: one evaluation is one change of alpha and a frame for each picture."""

    def __init__(
        self, session: Session, scores: Sequence[Score], judge: Judge, frames: int, budget: int, progress: MaybeProgress
    ) -> None:
        self._session, self._scores, self._judge, self._frames = session, scores, judge, frames
        self._budget, self._progress = budget, progress
        self._best: tuple[float, str] | None = None
        self.changes: list[float] = []
        self.spans: list[float] = []
        self.done = 0

    def evaluate(self, shares: tuple[float, ...]) -> tuple[float, ...]:
        """The measures at these shares, each turned so that more is better."""
        tell(self._progress, self.done, self._budget, f"best {self._best[1]}" if self._best else "looking everywhere")
        started = time.perf_counter()
        self._session.alpha = shares
        self._session.settle()
        changed = time.perf_counter()
        values = self._judge(self._session)
        self.changes.append(changed - started)
        self.spans.append((time.perf_counter() - changed) / self._frames)
        self.done += 1
        first = self._scores[0]
        if self._best is None or first.utility(values[0]) > self._best[0]:
            self._best = (first.utility(values[0]), f"{first.text(values[0])} at {shares_text(self._session.members, shares)}")
        return tuple(score.utility(value) for score, value in zip(self._scores, values, strict=True))


def _asked(metric: str | Sequence[str], reference: object, noise: float | str | None) -> tuple[list[Score], float | None]:
    """The measures, and the sigma of the noise where that replaces a reference (0: to be estimated)."""
    names = [metric] if isinstance(metric, str) else list(dict.fromkeys(metric))
    if not 1 <= len(names) <= MOST_METRICS:
        raise UsageError(f"tune takes 1 to {MOST_METRICS} metrics, got {len(names)}.")
    if (reference is None) == (noise is None):
        what = "Both are given" if noise is not None else "Neither is given"
        raise UsageError(
            "A blend is judged by clean pictures (--reference) or, for denoisers, by the noise that was in the picture "
            f"(--noise auto, or its sigma of 255). {what}."
        )
    if noise is None:
        return [find_score(name) for name in names], None
    if names != ["psnr"]:
        raise UsageError("Without a reference only the mean squared error can be estimated, that is PSNR; leave --metric out.")
    if noise == "auto":
        return [ESTIMATED], 0.0
    try:
        sigma = float(noise)
    except (TypeError, ValueError):
        sigma = 0.0
    if not 0 < sigma <= 255:
        raise UsageError(f"The noise is 'auto' or a sigma above 0 and up to 255; got {shown(noise)}.")
    return [ESTIMATED], sigma


def _by_reference(trials: Sequence[Trial], scores: Sequence[Score]) -> Judge:
    def judge(session: Session) -> tuple[float, ...]:
        outputs = [run_tiled(session, trial.frame, session.signature) for trial in trials]
        return tuple(
            statistics.fmean(
                score.measure(output, trial.reference)
                for output, trial in zip(outputs, trials, strict=True)
                if trial.reference is not None
            )
            for score in scores
        )

    return judge


def _by_noise(session: Session, trials: Sequence[Trial], given: float) -> tuple[Judge, list[str]]:
    """The judge without references, and what was assumed. The pilot is the network in the middle of the simplex."""
    session.alpha = [1 / len(session.members)] * len(session.members)
    sigmas = [given or estimate_noise(trial.frame) for trial in trials]
    risks = [Sure(trial.frame, sigma, session.signature, session.infer) for trial, sigma in zip(trials, sigmas, strict=True)]

    def judge(session: Session) -> tuple[float, ...]:
        return (statistics.fmean(risk.mean_squared_error(session.infer) for risk in risks),)

    listed = ", ".join(f"{sigma:.1f} in {shown(trial.name)}" for trial, sigma in zip(trials[:3], sigmas, strict=False))
    more = f" and {len(trials) - 3} more" if len(trials) > 3 else ""
    return judge, [f"Noise of sigma {listed}{more} was {'given' if given else 'estimated'}; the error is estimated by SURE."]


def _budget(evaluations: int | None, members: int, measures: int) -> int:
    if evaluations is None:
        return (TWO if members == 2 else MORE + 12 * max(0, members - 3)) + FOR_EACH * (measures - 1)
    if not members <= evaluations <= MOST_EVALUATIONS:
        raise UsageError(
            f"tune evaluates each of the {members} members and then blends: {members} to {MOST_EVALUATIONS} evaluations, got {evaluations}."
        )
    return evaluations


def _search(landscape: Landscape, members: int, measures: int) -> None:
    """The survey, a climb for each measure, and with several measures the ways between their best points."""
    budget = landscape.budget
    survey(landscape, members, max(members, round(budget * (0.7 if members == 2 else 0.34))))
    kept = ALONG * math.comb(measures, 2)
    aims = [operator.itemgetter(measure) for measure in range(measures)]
    for number, aim in enumerate(aims):
        climb(landscape, members, aim, max(0, (budget - len(landscape.found) - kept) // (measures - number)))
    for one, other in combinations(dict.fromkeys(map(landscape.best, aims)), 2):
        for step in range(1, ALONG + 1):
            part = step / (ALONG + 1)
            point = rounded([(1 - part) * a + part * b for a, b in zip(one, other, strict=True)])
            if len(landscape.found) < budget:
                landscape(point)


def _report(
    session: Session,
    landscape: Landscape,
    scores: Sequence[Score],
    run: _Run,
    bundle: Bundle | str | os.PathLike[str],
    pictures: int,
    notes: Sequence[str],
    files: tuple[str, ...],
) -> TuneReport:
    points = list(landscape.found)
    utilities = [landscape.found[point] for point in points]
    rows = tuple(
        Evaluation(shares(point), tuple(map(Score.utility, scores, values)))
        for point, values in zip(points, utilities, strict=True)
    )
    bests = tuple(points.index(landscape.best(operator.itemgetter(measure))) for measure in range(len(scores)))
    kept = front_in_order(rows, front(utilities), scores[0]) if len(scores) > 1 else ()
    return TuneReport(
        bundle=os.fspath(bundle.path if isinstance(bundle, Bundle) else bundle),
        members=session.members,
        engine=session.engine.name,
        engine_why=session.why,
        scores=tuple(scores),
        rows=rows,
        bests=bests,
        front=kept,
        chosen=kept[knee([utilities[index] for index in kept])] if kept else bests[0],
        pictures=pictures,
        change_seconds=statistics.median(run.changes),
        frame_seconds=statistics.median(run.spans),
        seconds=0.0,
        notes=tuple(notes),
        files=files,
    )


def _check_outputs(html: str | os.PathLike[str] | None, plot: str | os.PathLike[str] | None, force: bool) -> tuple[str, ...]:
    if html is not None:
        check_page_name(html)
    if plot is not None:
        open_door("dni_deploy.reports.plot").check_plot_name(plot)
    if html is not None or plot is not None:
        open_door("matplotlib")
    return check_outputs((html, plot), force)


def _shots(session: Session, trial: Trial, report: TuneReport) -> dict[str, Frame]:
    """What the page shows of the first picture: the input, the better member alone, the chosen blend, the reference."""
    found = {"input": trial.frame}
    member = report.better_member(0)
    for title, index in (("better member alone", member), ("chosen blend", report.chosen)):
        session.alpha = report.rows[index].shares
        found[f"{title}: {shares_text(report.members, report.rows[index].shares)}"] = run_tiled(
            session, trial.frame, session.signature
        )
    return found if trial.reference is None else {**found, "reference": trial.reference}
