"""Simulates a job on N workers: opening them, the units as the real queue hands them out, one driver, shared storage, deaths."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from dni_deploy.jobs.unit_queue import Chunk, UnitQueue


class SimulatedUnit(NamedTuple):
    """A unit, and a row of it."""

    id: str

    @property
    def unit(self) -> str:
        """The id of the row's unit."""
        return self.id


@dataclass(frozen=True)
class UnitCost:
    """What a unit takes.

    Attributes:
        gpu_s: Seconds of the device.
        host_s: Seconds of CPU beside it: decoding, conversions, encoding.
        megabytes: Read and written on the shared storage.
        seek_s: Seconds before the unit begins, such as decoding from a key frame.
    """

    gpu_s: float
    host_s: float = 0.0
    megabytes: float = 0.0
    seek_s: float = 0.0

    def find_seconds(self, cores: float) -> float:
        """Returns the seconds of a unit in a worker: device and CPU work at the same time."""
        return self.seek_s + max(self.gpu_s, self.host_s / cores)


@dataclass(frozen=True)
class ClusterCost:
    """What a cluster takes.

    Attributes:
        workers: Number of workers.
        cores: CPU cores of each.
        open_s: Seconds in which a worker opens.
        bundle_megabytes: Read by each worker that opens.
        storage_megabytes_s: Throughput of the shared storage for all workers together.
        chunk_s: Seconds in which a chunk and its rows travel; hidden where a worker has another chunk meanwhile.
        driver_s: Seconds in which the driver does nothing else for a chunk.
        death_hours: Hours after which a worker dies, on average; None: never.
        notice_s: Seconds until a death is noticed.
        spread: Standard deviation of the logarithm of a chunk's seconds.
    """

    workers: int
    cores: float = 8.0
    open_s: float = 8.0
    bundle_megabytes: float = 130.0
    storage_megabytes_s: float = 2000.0
    chunk_s: float = 0.005
    driver_s: float = 0.002
    death_hours: float | None = 200.0
    notice_s: float = 30.0
    spread: float = 0.1


@dataclass(frozen=True)
class SimulatedRun:
    """How a job went.

    Attributes:
        seconds: Until its last unit was done.
        efficiency: Share of that in which an average device was in use.
        storage_use: Share of it in which the storage was busy.
        driver_use: Share of it in which the driver was busy.
        lost_s: Seconds of work that deaths have lost, of all workers.
        bound: What limits it: "device", "host CPU", "seek", "storage", "driver", "start and end".
    """

    seconds: float
    efficiency: float
    storage_use: float
    driver_use: float
    lost_s: float
    bound: str


def list_simulated_units(count: int) -> Iterator[SimulatedUnit]:
    """Lists units without holding them."""
    return (SimulatedUnit(str(number)) for number in range(count))


class _Simulation:
    def __init__(self, count: int, cost: UnitCost, cluster: ClusterCost, seed: int) -> None:
        self.cost, self.cluster = cost, cluster
        self.rng = random.Random(seed)
        self.queue: Any = UnitQueue(list_simulated_units(count), 2, count, cluster.workers)
        self.storage_at = self.driver_at = self.storage_s = self.driver_s = self.lost_s = self.end = 0.0
        self.free_at = [0.0] * cluster.workers
        self.is_open = [False] * cluster.workers
        self.events: list[tuple[float, int, str, int, Chunk[Any] | None]] = []  # time, order, kind, worker, chunk
        self.order = 0

    def run(self) -> None:
        """Runs until every unit is done."""
        for worker in range(self.cluster.workers):
            self.open_worker(worker, 0.0)
        while not self.queue.is_done:
            now, _, kind, worker, chunk = heapq.heappop(self.events)
            if kind == "open":
                self.is_open[worker], self.free_at[worker] = True, now
            elif kind == "death":
                self.is_open[worker] = False
                for held in self.queue.list_held(worker):
                    self.queue.fail_chunk(held, "", is_blamable=False)
                self.open_worker(worker, now + self.cluster.notice_s)
            elif chunk is not None and any(held is chunk for held in self.queue.list_held(worker)):
                self.driver_at = max(self.driver_at, now) + self.cluster.driver_s
                self.driver_s += self.cluster.driver_s
                self.end = max(self.end, self.driver_at)
                self.queue.finish_chunk(chunk, chunk.units, len(chunk.units) * self.cost.find_seconds(self.cluster.cores))
            else:
                continue  # of a worker that has died
            self.hand_out(max(now, self.driver_at))

    def hand_out(self, now: float) -> None:
        """Gives chunks to all workers that take one."""
        for worker in range(self.cluster.workers):
            while self.is_open[worker] and (chunk := self.queue.take_chunk(worker)) is not None:
                self.work(worker, chunk, now)

    def work(self, worker: int, chunk: Chunk[Any], now: float) -> None:
        """Lets a worker do a chunk after those that it has."""
        cluster, count = self.cluster, len(chunk.units)
        start = max(self.free_at[worker], now + cluster.chunk_s)
        seconds = count * self.cost.find_seconds(cluster.cores) * self.vary()
        busy_s = count * self.cost.megabytes / cluster.storage_megabytes_s
        self.storage_at = max(self.storage_at, start) + busy_s
        self.storage_s += busy_s
        finish = max(start + seconds, self.storage_at)
        if cluster.death_hours and self.rng.random() < 1 - math.exp(-(finish - start) / 3600 / cluster.death_hours):
            died = start + self.rng.random() * (finish - start)
            self.lost_s += died - start
            self.push(died, "death", worker, None)
        self.free_at[worker] = finish
        self.push(finish, "done", worker, chunk)

    def open_worker(self, worker: int, now: float) -> None:
        """Lets a worker open: the bundle comes from the storage."""
        busy_s = self.cluster.bundle_megabytes / self.cluster.storage_megabytes_s
        self.storage_at = max(self.storage_at, now) + busy_s
        self.storage_s += busy_s
        self.push(max(now + self.cluster.open_s * self.vary(), self.storage_at), "open", worker, None)

    def push(self, time_s: float, kind: str, worker: int, chunk: Chunk[Any] | None) -> None:
        """Adds an event."""
        self.order += 1
        heapq.heappush(self.events, (time_s, self.order, kind, worker, chunk))

    def vary(self) -> float:
        """Returns a random factor around 1."""
        spread = self.cluster.spread
        return self.rng.lognormvariate(-spread * spread / 2, spread) if spread else 1.0


def simulate_job(count: int, cost: UnitCost, cluster: ClusterCost, seed: int = 0) -> SimulatedRun:
    """Simulates a job of so many units."""
    simulation = _Simulation(count, cost, cluster, seed)
    simulation.run()
    seconds = simulation.end
    efficiency = count * cost.gpu_s / cluster.workers / seconds
    storage_use, driver_use = min(1.0, simulation.storage_s / seconds), simulation.driver_s / seconds
    shares = {
        "device": efficiency,
        "host CPU": count * cost.host_s / cluster.cores / cluster.workers / seconds,
        "seek": count * cost.seek_s / cluster.workers / seconds,
        "storage": storage_use,
        "driver": driver_use,
    }
    shares["start and end"] = 1 - max(shares["device"], shares["host CPU"]) - shares["seek"]
    if storage_use > 0.8:
        shares["start and end"] = 0.0  # workers wait for the storage
    return SimulatedRun(
        seconds, efficiency, storage_use, driver_use, simulation.lost_s, max(shares, key=lambda name: shares[name])
    )
