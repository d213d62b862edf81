"""The loss of `tune` over many images, in units that any process can compute: a blend judged by some of the images."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.imaging.frames import Frame, convert_depth
from dni_deploy.imaging.image_pairs import ImagePair
from dni_deploy.imaging.metrics.registry import find_metric
from dni_deploy.imaging.noise import estimate_noise
from dni_deploy.jobs.pool import UnitWorker
from dni_deploy.jobs.unit import UnitRow, make_worker_name
from dni_deploy.session.options import SessionOptions
from dni_deploy.session.session import Session, open_session
from dni_deploy.session.tiles import render_tiled
from dni_deploy.tuning.sure import SureEstimator
from dni_deploy.tuning.trials import TestImage, read_test_image

IMAGES_PER_UNIT = 4
"""Images that one unit judges."""


@dataclass(frozen=True)
class TuneUnit:
    """Some of the images, under one blend.

    Attributes:
        id: Number of its first image, with leading zeros.
        pairs: The images with their references.
        shares: The blend; None: read the images and say what they are.
    """

    id: str
    pairs: tuple[ImagePair, ...]
    shares: tuple[float, ...] | None = None


@dataclass(frozen=True)
class TuneWorkerFactory:
    """Opens what judges units, in whichever process.

    Attributes:
        bundle: The bundle.
        metrics: Names of the metrics; empty where SURE judges.
        sigma: Of the noise where SURE judges, 0 to estimate it; None where references do.
        crop: Side in input pixels of the center crop that is judged; None: the default; 0: whole images.
        options: Options of the session.
    """

    bundle: Bundle | str | os.PathLike[str]
    metrics: tuple[str, ...]
    sigma: float | None
    crop: int | None
    options: SessionOptions | None

    def open_worker(self) -> TuneWorker:
        """Opens the worker.

        Raises:
            DniError: As open_session raises.
        """
        return TuneWorker(self, open_session(self.bundle, self.options))


@dataclass(frozen=True)
class _Trial:
    """An image that is held, and what judges it where there is no reference."""

    image: TestImage
    sigma: float | None = None
    risk: SureEstimator | None = None


class TuneWorker:
    """Judges blends in one session; the images of a unit are read once and held."""

    def __init__(self, factory: TuneWorkerFactory, session: Session) -> None:
        """Keeps the arguments.

        Args:
            factory: How images are judged.
            session: The worker owns it from here on.
        """
        self._factory, self.session = factory, session
        self._metrics = [find_metric(name) for name in factory.metrics]
        self._name = make_worker_name()
        self._trials: dict[tuple[ImagePair, ...], list[_Trial]] = {}

    def run_units(self, units: Iterable[TuneUnit]) -> Iterator[UnitRow]:
        """Judges units and yields a row for each, in their order.

        Raises:
            DniError: An image cannot be read, a reference has another size, or a metric fails.
        """
        for unit in units:
            if unit.pairs not in self._trials:
                self._trials[unit.pairs] = [self._open_trial(pair) for pair in unit.pairs]
            trials = self._trials[unit.pairs]
            details = self._describe(trials) if unit.shares is None else self._judge(trials, unit.shares)
            yield UnitRow(unit.id, self._name, engine=self.session.engine.name, details=details)

    def close(self) -> None:
        """Closes the session."""
        self.session.close()

    def _open_trial(self, pair: ImagePair) -> _Trial:
        image = read_test_image(pair, self.session.signature, self._factory.crop)
        if self._factory.sigma is None:
            return _Trial(image)
        self.session.alpha = [1 / len(self.session.members)] * len(self.session.members)  # the pilot
        frame: Frame = convert_depth(image.frame, np.uint8)
        sigma = self._factory.sigma or estimate_noise(frame)
        return _Trial(image, sigma, SureEstimator(frame, sigma, self.session.signature, self.session.infer))

    def _describe(self, trials: Sequence[_Trial]) -> dict[str, object]:
        return {
            "members": list(self.session.members),
            "engine_reason": self.session.engine_reason,
            "depends_on_whole_image": self.session.signature.radius is None,
            "images": [{"name": trial.image.name, "crop": trial.image.crop, "sigma": trial.sigma} for trial in trials],
        }

    def _judge(self, trials: Sequence[_Trial], shares: tuple[float, ...]) -> dict[str, object]:
        started = time.perf_counter()
        self.session.alpha = shares
        self.session.wait_until_applied()
        changed = time.perf_counter()
        scores = [self._judge_image(trial) for trial in trials]
        return {
            "scores": scores,
            "change_seconds": changed - started,
            "frame_seconds": (time.perf_counter() - changed) / len(trials),
        }

    def _judge_image(self, trial: _Trial) -> list[float]:
        if trial.risk is not None:
            return [trial.risk.estimate_mean_squared_error(self.session.infer)]
        frame = trial.image.to_frame(render_tiled(self.session, trial.image.frame).output)
        return [metric.measure(frame, trial.image.reference_frame) for metric in self._metrics]


@dataclass(frozen=True)
class JudgedBlend:
    """A blend judged by all images.

    Attributes:
        values: The mean of each metric.
        change_seconds: Time of the change of alpha.
        frame_seconds: Time of one image.
    """

    values: tuple[float, ...]
    change_seconds: float
    frame_seconds: float


class ImageJudge:
    """Judges blends by all images, whoever computes the units.

    The means are over the images in their order, not in the order in which the units came, so that they are the same for any
    number of workers, to the last digit.
    """

    def __init__(self, pool: UnitWorker[TuneUnit], pairs: Sequence[ImagePair]) -> None:
        """Has the images read.

        Args:
            pool: Computes units; rows in any order.
            pairs: The images.

        Raises:
            DniError: As TuneWorker.run_units raises.
        """
        self._pool = pool
        self._units = [
            TuneUnit(f"{start:09d}", tuple(pairs[start : start + IMAGES_PER_UNIT]))
            for start in range(0, len(pairs), IMAGES_PER_UNIT)
        ]
        rows = self._run(None)
        first = rows[0].details
        self.members: tuple[str, ...] = tuple(first["members"])
        self.engine: str = rows[0].engine
        self.engine_reason: str = first["engine_reason"]
        self.depends_on_whole_image: bool = first["depends_on_whole_image"]
        images = [image for row in rows for image in row.details["images"]]
        self.crops: list[tuple[str, str]] = [(image["name"], image["crop"]) for image in images]
        self.sigmas: list[float | None] = [image["sigma"] for image in images]

    def judge(self, shares: tuple[float, ...]) -> JudgedBlend:
        """Judges a blend; returns when all images are judged."""
        rows = self._run(shares)
        scores = [image for row in rows for image in row.details["scores"]]
        return JudgedBlend(
            tuple(map(statistics.fmean, zip(*scores, strict=True))),
            max(row.details["change_seconds"] for row in rows),
            statistics.fmean(row.details["frame_seconds"] for row in rows),
        )

    def _run(self, shares: tuple[float, ...] | None) -> list[UnitRow]:
        rows = []
        for row in self._pool.run_units([replace(unit, shares=shares) for unit in self._units]):
            if row.error is not None:  # of images that kill their worker
                raise row.error.to_error()
            rows.append(row)
        return sorted(rows, key=lambda row: row.unit)
