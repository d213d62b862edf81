"""Every unit gets exactly one row, whoever dies when, and only a unit that kills is blamed."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Set
from typing import NamedTuple

import pytest

from dni_deploy.jobs.unit import UnitRow
from dni_deploy.jobs.unit_queue import CHUNKS_IN_FLIGHT, MAX_CHUNK_UNITS, TARGET_CHUNK_SECONDS, Chunk, UnitQueue


class Piece(NamedTuple):
    id: str


class Outcome(NamedTuple):
    rows: list[UnitRow]
    deaths: int
    largest_chunk: int


def list_pieces(count: int) -> list[Piece]:
    return [Piece(f"{number:05d}") for number in range(count)]


def make_rows(chunk: Chunk[Piece]) -> list[UnitRow]:
    return [UnitRow(unit.id, "w") for unit in chunk.units]


class Simulation:
    """Workers that do their chunks in order, and die at a killing unit, or by chance between two chunks or with a machine."""

    def __init__(self, seed: int, killers: Set[str], *, count: int, workers: int, retries: int, death_chance: float) -> None:
        self.rng, self.killers, self.retries, self.death_chance = random.Random(seed), killers, retries, death_chance
        known = self.rng.random() < 0.5
        pieces = list_pieces(count)
        self.queue = UnitQueue(iter(pieces), retries, count if known else None, workers)
        self.workers = workers
        self.rows: list[UnitRow] = []
        self.deaths = self.largest_chunk = 0

    def run(self) -> Outcome:
        queue = self.queue
        while True:
            for worker in self.rng.sample(range(self.workers), self.workers):
                while chunk := queue.take_chunk(worker):
                    self.largest_chunk = max(self.largest_chunk, len(chunk.units))
                    held = queue.list_held(worker)
                    assert len(held) <= CHUNKS_IN_FLIGHT
                    assert len(held) == 1 or not any(one.is_suspect for one in held)
            busy = [worker for worker in range(self.workers) if queue.list_held(worker)]
            if not busy:
                assert queue.is_done
                return Outcome(self.rows, self.deaths, self.largest_chunk)
            self.step(self.rng.choice(busy))

    def step(self, worker: int) -> None:
        """The worker does its first chunk, or dies; the driver hears of all chunks of a dead one, in any order."""
        first = self.queue.list_held(worker)[0]
        is_machine = self.rng.random() < self.death_chance / 4
        is_killed = any(unit.id in self.killers for unit in first.units)
        is_random = not first.is_suspect and self.rng.random() < self.death_chance
        if not (is_machine or is_killed or is_random):
            self.queue.finish_chunk(first, make_rows(first), self.rng.uniform(0, 2 * TARGET_CHUNK_SECONDS))
            self.rows += make_rows(first)
            return
        self.deaths += 1
        held = self.queue.list_held(worker)
        for chunk in self.rng.sample(held, len(held)):
            self.rows += self.queue.fail_chunk(chunk, "w", is_blamable=not is_machine)


@pytest.mark.parametrize("seed_of_ten", range(100))
def test_every_unit_has_one_row_and_no_innocent_is_blamed(seed_of_ten: int) -> None:
    for seed in range(10 * seed_of_ten, 10 * seed_of_ten + 10):
        rng = random.Random(seed)
        count, workers, retries = rng.choice([0, 1, 2, 7, 40, 90]), rng.choice([1, 2, 3, 8]), rng.choice([1, 2, 3])
        killers = {f"{rng.randrange(max(1, count)):05d}" for _ in range(rng.choice([0, 0, 1, 2, 5]))}
        outcome = Simulation(
            seed, killers, count=count, workers=workers, retries=retries, death_chance=rng.choice([0, 0.05, 0.4])
        ).run()
        counts = Counter(row.unit for row in outcome.rows)
        assert counts == Counter(piece.id for piece in list_pieces(count)), seed
        blamed = {row.unit for row in outcome.rows if row.error is not None}
        assert blamed == {piece.id for piece in list_pieces(count)} & killers, seed


@pytest.mark.parametrize("chunk_size", [1, 2, 8, 64])
@pytest.mark.parametrize("retries", [1, 2, 5])
def test_one_killer_costs_few_deaths(chunk_size: int, retries: int) -> None:
    for position in range(0, chunk_size, max(1, chunk_size // 7)):
        simulation = Simulation(position, {f"{position:05d}"}, count=chunk_size, workers=2, retries=retries, death_chance=0)
        simulation.queue = UnitQueue(iter(list_pieces(chunk_size)), retries, _size=chunk_size)
        outcome = simulation.run()
        assert outcome.deaths <= math.log2(chunk_size) + 1 + retries  # the first, the halves, and those alone
        (failed,) = (row for row in outcome.rows if row.error is not None)
        assert failed.error is not None
        assert f"{position:05d} killed its worker {'once' if retries == 1 else f'{retries} times'}" in failed.error.message
        assert failed.error.exit_code == 3


def test_chunks_grow_with_fast_units_and_shrink_at_the_end() -> None:
    queue = UnitQueue(iter(list_pieces(2000)), remaining=2000, worker_count=2)
    sizes = []
    while chunk := queue.take_chunk(0):
        queue.finish_chunk(chunk, make_rows(chunk), 0.05 * len(chunk.units))
        sizes.append(len(chunk.units))
    assert sizes[:6] == [1, 4, 16, 64, 200, 200]
    assert sizes[-3:-1] == [20, 20]  # of a second
    assert sum(sizes) == 2000


def test_slow_units_travel_alone() -> None:
    queue = UnitQueue(iter(list_pieces(9)))
    sizes = []
    while chunk := queue.take_chunk(0):
        queue.finish_chunk(chunk, make_rows(chunk), 11.0 * len(chunk.units))
        sizes.append(len(chunk.units))
    assert sizes == [1] * 9


def test_rows_of_other_units_are_a_bug() -> None:
    queue = UnitQueue(iter(list_pieces(1)))
    chunk = queue.take_chunk(0)
    assert chunk is not None
    with pytest.raises(ValueError, match="other rows"):
        queue.finish_chunk(chunk, [], 0.1)


def test_no_unit_is_held_that_is_done() -> None:
    queue = UnitQueue(iter(list_pieces(5000)))
    while chunk := queue.take_chunk(0):
        assert len(chunk.units) <= MAX_CHUNK_UNITS
        queue.finish_chunk(chunk, make_rows(chunk), 0.0)
    assert queue.is_done
    assert not queue.list_held(0)
