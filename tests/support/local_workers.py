"""Workers in this process in place of those of a cluster: what travels is pickled, and rows come in another order."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from dni_deploy.jobs.unit import UnitRow
from dni_deploy.utils.progress import OptionalProgress, report_progress


class LocalWorkers:
    """Three workers; units are dealt to them at random."""

    worker_count = 3

    def __init__(self, factory: Any, ray_options: Any, **options: Any) -> None:
        self.options, self.closed = options, False
        self._factories = [pickle.loads(pickle.dumps(factory)) for _ in range(self.worker_count)]
        self._workers = [one.open_worker() for one in self._factories]
        self.description = pickle.loads(pickle.dumps(getattr(self._workers[0], "description", None)))

    def run_units(self, units: Sequence[Any], progress: OptionalProgress = None) -> Iterator[UnitRow]:
        rng = random.Random(len(units))
        order = rng.sample(list(units), len(units))
        for done, unit in enumerate(order):
            report_progress(progress, done, len(units), "3 of 3 workers")
            (row,) = rng.choice(self._workers).run_units([pickle.loads(pickle.dumps(unit))])
            yield pickle.loads(pickle.dumps(row))

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


def replace_cluster(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[LocalWorkers]:
    """Lets a module of commands use LocalWorkers; returns those that it opens."""
    opened: list[LocalWorkers] = []

    def open_workers(factory: Any, ray_options: Any, **options: Any) -> LocalWorkers:
        opened.append(LocalWorkers(factory, ray_options, **options))
        return opened[-1]

    monkeypatch.setattr(module, "open_ray_workers", open_workers)
    monkeypatch.setattr(module, "require_ray", lambda: None)
    return opened
