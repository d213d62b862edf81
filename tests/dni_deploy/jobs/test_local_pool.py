"""Processes of this machine do all units, and what goes wrong in one of them is told."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest

from dni_deploy.errors import EngineError, UnavailableError, UsageError
from dni_deploy.jobs.local_pool import LocalPool, open_pool
from dni_deploy.jobs.unit import UnitRow


@dataclass(frozen=True)
class Number:
    id: str


@dataclass(frozen=True)
class Doubler:
    """Doubles numbers; "-1" ends its process. A factory that fails cannot open it."""

    fails: bool = False

    def open_worker(self) -> Doubler:
        if self.fails:
            raise UnavailableError("the engine is absent.")
        return self

    def run_units(self, units: Iterable[Number]) -> Iterator[UnitRow]:
        for unit in units:
            if unit.id == "-1":
                os._exit(1)
            yield UnitRow(unit.id, str(os.getpid()), values=2 * int(unit.id))

    def close(self) -> None:
        pass


def test_one_worker_is_of_this_process() -> None:
    pool = open_pool(Doubler(), 1)
    assert [(row.values, row.worker) for row in pool.run_units([Number("3")])] == [(6, str(os.getpid()))]


@pytest.mark.parametrize("count", [0, -1, 62])
def test_a_number_of_workers_that_cannot_be_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="1 to 61 workers"):
        open_pool(Doubler(), count)


@pytest.mark.slow
def test_processes_do_every_unit_once_and_are_used_again() -> None:
    pool: LocalPool[Number] = LocalPool(Doubler(), 2)
    for _ in range(2):
        rows = list(pool.run_units(Number(str(number)) for number in range(30)))
        assert sorted(row.values for row in rows) == list(range(0, 60, 2))
    assert str(os.getpid()) not in {row.worker for row in rows}
    with pytest.raises(EngineError, match="A worker process died"):
        list(pool.run_units([Number("1"), Number("-1")]))
    pool.close()


@pytest.mark.slow
def test_a_worker_that_cannot_be_opened_says_why() -> None:
    pool: LocalPool[Number] = LocalPool(Doubler(fails=True), 2)
    with pytest.raises(UnavailableError, match="the engine is absent"):
        list(pool.run_units([Number("1")]))
    pool.close()
