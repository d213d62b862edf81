"""slider: measure how far the picture moves along alpha, and keep a slider with even steps in the bundle."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.extras import store_slider
from dni_deploy.bundle.slider import EvenSlider
from dni_deploy.errors import MismatchError, UsageError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.metrics.ciede2000 import difference, lab
from dni_deploy.imaging.picture_files import Paths, pictures_of
from dni_deploy.imaging.tiling import run_tiled
from dni_deploy.session.session import Session, open_session
from dni_deploy.tuning.trials import Trial, read_trials
from dni_deploy.utils.optional_packages import open_door
from dni_deploy.utils.outputs import check_outputs
from dni_deploy.utils.progress import MaybeProgress, tell

FIRST, STEPS = 16, 32
"""Steps of alpha that are measured first, and then of the slider that they give, where nothing is said: so the knots of the final
one lie close where the picture moves fast. Between them the slider is straight."""

SHOWN = 20
"""Steps by which evenness is told: the paper's 0.05."""


@dataclass(frozen=True)
class SliderReport:
    """What was found, and what is in the bundle now.

    knots          (position, alpha); empty where the slider was removed.
    distances      mean CIEDE2000 from each of SHOWN equal steps of alpha to the next, and of as many equal steps of the slider, over
                   the probe pictures.
    before, after  evenness: the largest of them over their mean; 1 is even.
    held_out       the same two for pictures that the slider was not made from; None without.
    """

    bundle: str
    members: tuple[str, ...]
    knots: tuple[tuple[float, float], ...]
    alpha_distances: tuple[float, ...] = ()
    slider_distances: tuple[float, ...] = ()
    before: float | None = None
    after: float | None = None
    held_out: tuple[float, float] | None = None
    removed: bool = False
    pictures: int = 0
    engine: str = ""
    engine_why: str = ""
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def slider(
    bundle_path: Bundle | str | os.PathLike[str],
    pictures: Paths = (),
    *,
    steps: int = STEPS,
    held_out: Paths = (),
    remove: bool = False,
    crop: int | None = None,
    plot: str | os.PathLike[str] | None = None,
    engine: str = "auto",
    precision: str | None = None,
    device: int = 0,
    threads: int = 0,
    force: bool = False,
    progress: MaybeProgress = None,
) -> SliderReport:
    """Measure the picture's way from one member to the other on probe pictures, and store the slider with even steps in the bundle.

    pictures   to measure on, like those that the slider will be moved over; files or folders.
    held_out   other pictures, on which the evenness is only told.
    remove     take the stored slider away instead.  force: replace the one that is there.
    crop       side in input pixels of the middle part that is measured; None: 256; 0: whole pictures.
    plot       a picture of both to write: .png, .svg or .pdf.
    Raises UsageError (a slider is there already, nothing to remove, no picture, steps out of 4 to 256), MismatchError (a family of
    more than two: its controls have no two ends; a picture that never changes), and what open_session and store_slider raise. The
    bundle is as it was then; storing is one step, and a crash leaves the old slider or the new one.
    """
    opened = Bundle.of(bundle_path)
    where = os.fspath(opened.path)
    if remove:
        if opened.slider is None:
            raise UsageError(f"{shown(where)} has no slider to remove.")
        store_slider(opened, None)
        return SliderReport(where, opened.members, (), removed=True)
    files = _check(opened, steps, plot, force)
    probes = pictures_of(pictures)
    if not probes:
        raise UsageError("A slider is measured on at least one picture; name one like those that it will be moved over.")
    others = pictures_of(held_out)
    with open_session(opened, engine=engine, threads=threads, precision=precision, device=device) as session:
        trials, notes = read_trials([(path, None) for path in probes], session.signature, crop)
        unseen, more = read_trials([(path, None) for path in others], session.signature, crop)
        watch = _Watch(session, progress, FIRST + 1 + steps + 1 + (4 if unseen else 2) * (SHOWN + 1))
        alphas = [step / FIRST for step in range(FIRST + 1)]
        rough = EvenSlider.of(alphas, watch.distances(trials, alphas))
        alphas = [rough.at(step / steps) for step in range(steps + 1)]
        made = EvenSlider.of(alphas, watch.distances(trials, alphas))
        plain = [step / SHOWN for step in range(SHOWN + 1)]
        even = [made.at(position) for position in plain]
        by_alpha, by_slider = watch.distances(trials, plain), watch.distances(trials, even)
        told = None
        if unseen:
            told = (unevenness(watch.distances(unseen, plain)), unevenness(watch.distances(unseen, even)))
        report = SliderReport(
            where,
            opened.members,
            made.knots,
            by_alpha,
            by_slider,
            unevenness(by_alpha),
            unevenness(by_slider),
            told,
            pictures=len(trials),
            engine=session.engine.name,
            engine_why=session.why,
            notes=(*notes, *more),
            files=files,
        )
    drawn = None if plot is None else _drawn(report, plot)
    store_slider(opened, made.knots, _about(report, probes, others))
    if plot is not None and drawn is not None:
        open_door("dni_deploy.utils.atomic_write").publish_bytes(plot, drawn, force=force)
    tell(progress, watch.total, watch.total, "done")
    return report


def unevenness(distances: Sequence[float]) -> float:
    """The largest step over the mean step; 1 where all are equal, and where nothing moves at all."""
    mean = statistics.fmean(distances)
    return max(distances) / mean if mean else 1.0


class _Watch:
    """The pictures at one alpha after the other, and how far they moved."""

    def __init__(self, session: Session, progress: MaybeProgress, total: int) -> None:
        self._session, self._progress, self.total, self._done = session, progress, total, 0

    def distances(self, trials: Sequence[Trial], alphas: Sequence[float]) -> tuple[float, ...]:
        """Mean CIEDE2000 over pixels and pictures from each alpha to the next."""
        pictures = None
        found = []
        for alpha in alphas:
            tell(self._progress, min(self._done, self.total), self.total, f"alpha {alpha:.3f}")
            self._done += 1
            self._session.alpha = alpha
            latest = [lab(self._frame(trial)) for trial in trials]
            if pictures is not None:
                found.append(statistics.fmean(difference(one, other) for one, other in zip(latest, pictures, strict=True)))
            pictures = latest
        return tuple(found)

    def _frame(self, trial: Trial) -> Frame:
        return run_tiled(self._session, trial.frame, self._session.signature)


def _check(opened: Bundle, steps: int, plot: str | os.PathLike[str] | None, force: bool) -> tuple[str, ...]:
    if len(opened.members) != 2:
        raise MismatchError(
            f"A slider goes from one member to another; this family has {len(opened.members)}. Export two of them as a bundle of their own."
        )
    if opened.slider is not None and not force:
        raise UsageError(f"{shown(opened.path)} has a slider; give --force to replace it, or --remove. Nothing was written.")
    if not isinstance(steps, int) or not 4 <= steps <= 256:
        raise UsageError(f"A slider is measured in 4 to 256 steps, got {shown(steps)}.")
    if plot is None:
        return ()
    open_door("dni_deploy.reports.plot").check_plot_name(plot)
    return check_outputs((plot,), force)


def _about(report: SliderReport, probes: Sequence[Path], others: Sequence[Path]) -> dict[str, Any]:
    """What is kept beside the knots: the pictures by name and SHA-256, and how even the steps are on them."""
    about: dict[str, Any] = {"pictures": _sources(probes), "before": report.before, "after": report.after}
    if report.held_out is not None:
        before, after = report.held_out
        about["held_out"] = {"pictures": _sources(others), "before": before, "after": after}
    return about


def _sources(files: Sequence[Path]) -> list[dict[str, str]]:
    return [{"name": file.name, "sha256": sha256(file.read_bytes()).hexdigest()} for file in files]


def _drawn(report: SliderReport, plot: str | os.PathLike[str]) -> bytes:
    drawn: bytes = open_door("dni_deploy.reports.slider_plot").plot_slider(
        report.knots, report.alpha_distances, report.slider_distances, report.members, Path(plot).suffix.lower()[1:]
    )
    return drawn


__all__ = ["SliderReport", "slider", "unevenness"]
