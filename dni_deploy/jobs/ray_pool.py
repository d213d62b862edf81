"""Units in, rows out, over the workers of a Ray cluster. Paths travel, pixels do not."""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic

import ray
import ray.cloudpickle
from ray.exceptions import RayError, RayTaskError

from dni_deploy._version import __version__
from dni_deploy.errors import UnavailableError, escape_name
from dni_deploy.jobs import ray_worker
from dni_deploy.jobs.pool import WorkerFactory
from dni_deploy.jobs.ray_cluster import connect_cluster, count_places
from dni_deploy.jobs.ray_options import RayOptions
from dni_deploy.jobs.ray_worker import OWN_DISTRIBUTION, RayWorker, describe_path
from dni_deploy.jobs.unit import UnitError, UnitRow, UnitT
from dni_deploy.jobs.unit_queue import Chunk, UnitQueue
from dni_deploy.utils.format_count import format_count
from dni_deploy.utils.progress import OptionalProgress, report_progress

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5
REOPEN_DELAY_S = 0.3
"""Seconds before a worker that died is asked again whether Ray has started it anew."""

NOTICE_INTERVAL_S = 30.0
"""Seconds between two lines that say what is waited for."""

LOST_TIMEOUT_S = 60.0
"""Seconds after which a job ends whose workers are all gone, where the cluster has no room for one of them."""

MAX_OPEN_FAILURES = 60
"""Times that workers could not be reached since one was open; one that waits for room is not reached once."""

CLOSE_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class WorkerAnswer:
    """What a call of a RayWorker gives.

    Attributes:
        host: The machine.
        pid: The process.
        node: Ray's id of the machine.
        is_open: Whether the worker is open.
        problem: Kind, sentence and exit code of what every unit would meet, or None.
        description: What the worker says of itself once it is open, pickled.
        rows: Rows of the units, pickled.
        seconds: Time that they took.
    """

    host: str
    pid: int
    node: str
    is_open: bool
    problem: tuple[str, str, int] | None
    description: bytes = b""
    rows: bytes = b""
    seconds: float = 0.0


@dataclass(eq=False)
class _Worker:
    """A worker as the driver sees it.

    Attributes:
        number: Its number, by which the queue knows it.
        actor: Ray's handle of it.
        name: Machine and process, once it is open.
        node: Ray's id of its machine.
        state: "new": to be opened. "opening": it was asked to open. "open": it takes units. "checked": it has just answered.
        open_at: When it is to be opened, as time.monotonic() counts.
        problem: Why it cannot be opened where it is, or None.
    """

    number: int
    actor: Any
    name: str = ""
    node: str = ""
    state: str = "new"
    open_at: float = 0.0
    problem: tuple[str, str, int] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it takes units."""
        return self.state in ("open", "checked")


class RayWorkers(Generic[UnitT]):
    """Workers on a Ray cluster, which together are one UnitWorker.

    Each is a process that opens the factory's worker once and has two chunks of units at a time. Where one dies, Ray starts
    another in its place, and its units are done again; a unit that kills its workers becomes a row with an error, see UnitQueue.

    Attributes:
        worker_count: Number of workers.
        description: The attribute of that name of the first worker that opened, or None.

    Thread safety: one thread at a time.
    """

    def __init__(
        self,
        factory: WorkerFactory[UnitT],
        options: RayOptions,
        *,
        uses_gpu: bool | None = None,
        shared_paths: Sequence[str | os.PathLike[str]] = (),
        versions: Mapping[str, str] | None = None,
        record_row: Callable[[UnitRow], None] | None = None,
        progress: OptionalProgress = None,
    ) -> None:
        """Connects to a cluster, or starts one, and waits until a worker is open.

        Args:
            factory: Opens a worker in each process. It has to be picklable, and so have the units.
            options: Where the workers run, and what each takes.
            uses_gpu: Whether the engine needs a GPU; None: it takes one where there is any.
            shared_paths: Files and folders that all machines have to see as this one does.
            versions: Distributions that all machines have to have in the same version, by name.
            record_row: Called with the rows that no worker could write: of units that killed theirs.
            progress: Called while the workers start.

        Raises:
            UnavailableError: There is no cluster, it has not the room, or a worker cannot do anything there.
            DniError: As the factory raises.
        """
        self._options, self._record_row, self._progress = options, record_row, progress
        self._calls: dict[Any, tuple[_Worker, Chunk[UnitT] | None]] = {}  # future -> whose call, and for which units
        self._queue: UnitQueue[UnitT] = UnitQueue(iter(()))
        self.description: Any = None
        self._is_started = False
        self._done = self._failed = self._total = 0
        self._has_rows = False
        self._noticed_at = self._alive_at = time.monotonic()
        self._last_problem, self._open_failures = "", 0
        described = {os.path.abspath(path): describe_path(os.path.abspath(path)) for path in shared_paths}
        needs = {OWN_DISTRIBUTION: __version__, **(versions or {})}, described
        with ExitStack() as stack:
            self._room = stack.enter_context(connect_cluster(options))
            self._gpus = self._room.choose_gpus(options, uses_gpu=uses_gpu)
            self.worker_count = self._room.choose_worker_count(options, self._gpus)
            self._workers = stack.enter_context(self._start_workers(factory, needs))
            self._report(f"starting {format_count(self.worker_count, 'worker')}")
            while not self._is_started:
                list(self._step())
            self._closing = stack.pop_all()

    def run_units(self, units: Sequence[UnitT], progress: OptionalProgress = None) -> Generator[UnitRow, None, None]:
        """Does units and yields a row for each as it ends, in any order.

        Args:
            units: The units, each with an id of its own.
            progress: Called with the number of units that are done or have failed.

        Raises:
            UnavailableError: All workers are gone.
            DniError: What every unit would meet, as a worker raised it.
        """
        self._queue = UnitQueue(iter(units), self._options.retries, len(units), self.worker_count)
        self._done, self._failed, self._total, self._progress = 0, 0, len(units), progress
        self._report("")
        while not self._queue.is_done:
            yield from self._step()

    def close(self) -> None:
        """Ends the workers, and the connection or the cluster that was started for them."""
        self._closing.close()

    @contextmanager
    def _start_workers(self, factory: object, needs: tuple[dict[str, str], dict[str, str]]) -> Iterator[list[_Worker]]:
        options = self._options
        ray.cloudpickle.register_pickle_by_value(ray_worker)
        try:
            actor_class = ray.remote(
                num_cpus=options.cpus, num_gpus=self._gpus, max_restarts=-1, max_task_retries=0, scheduling_strategy="SPREAD"
            )(RayWorker)
            data = ray.cloudpickle.dumps(factory)
            workers = [_Worker(number, actor_class.remote(data, *needs)) for number in range(self.worker_count)]
        finally:
            ray.cloudpickle.unregister_pickle_by_value(ray_worker)
        log.info("%s: %d CPUs and %g GPUs each", format_count(len(workers), "worker"), options.cpus, self._gpus)
        try:
            yield workers
        finally:
            if self._queue.is_done:  # so that nothing of theirs is open when the driver goes on
                with suppress(RayError):
                    closing = [worker.actor.close.remote() for worker in workers if worker.is_open]
                    ray.wait(closing, num_returns=len(closing), timeout=CLOSE_TIMEOUT_S) if closing else None
            for worker in workers:
                with suppress(Exception):
                    ray.kill(worker.actor, no_restart=True)

    def _step(self) -> Iterator[UnitRow]:
        """Gives all workers something to do, and yields the rows of a call that ends."""
        for worker in self._workers:
            self._occupy(worker)
        futures = list(self._calls)
        if not futures:
            time.sleep(REOPEN_DELAY_S)
        for future in ray.wait(futures, timeout=POLL_INTERVAL_S)[0] if futures else ():
            yield from self._end_call(future)
        self._watch_workers()

    def _occupy(self, worker: _Worker) -> None:
        """Opens a worker, or gives it units."""
        if worker.state == "new":
            if time.monotonic() >= worker.open_at and not self._queue.list_held(worker.number):
                self._call(worker, worker.actor.open.remote(), None)
                worker.state = "opening"
            return
        if worker.state == "opening":
            return
        if self._queue.has_suspects and worker.state == "open":
            if not self._queue.list_held(worker.number):  # it has to answer first, or the suspect gets the blame for its death
                worker.state = "new"
            return
        while (chunk := self._queue.take_chunk(worker.number)) is not None:
            self._call(worker, worker.actor.run.remote(ray.cloudpickle.dumps(list(chunk.units))), chunk)
        worker.state = "open"

    def _call(self, worker: _Worker, future: Any, chunk: Chunk[UnitT] | None) -> None:
        self._calls[future] = worker, chunk

    def _end_call(self, future: Any) -> Iterator[UnitRow]:
        worker, chunk = self._calls.pop(future)
        rows: Sequence[UnitRow] = ()
        try:
            answer = WorkerAnswer(**ray.get(future))
        except RayTaskError as error:
            raise error.as_instanceof_cause() from None  # a bug: its traceback is in the text
        except RayError as error:
            rows = self._lose_worker(worker, chunk, error)
            if self._record_row is not None:
                for row in rows:
                    self._record_row(row)
        else:
            if answer.problem is not None:
                self._end_by_error(worker, chunk, answer)
            elif chunk is None:
                self._set_open(worker, answer)
            else:
                rows = pickle.loads(answer.rows)
                self._queue.finish_chunk(chunk, rows, answer.seconds)
        for row in rows:
            self._has_rows = True
            self._done += 1
            self._failed += row.error is not None
            self._report("" if row.error is None else row.error.message)
            yield row

    def _set_open(self, worker: _Worker, answer: WorkerAnswer) -> None:
        name = f"{answer.host}-{answer.pid}"
        if worker.name != name:
            log.info("worker %d of %d is open: %s", worker.number + 1, len(self._workers), name)
        worker.state, worker.name, worker.node, worker.problem = "checked", name, answer.node, None
        self._open_failures = 0
        if not self._is_started:
            self._is_started, self.description = True, pickle.loads(answer.description)

    def _lose_worker(self, worker: _Worker, chunk: Chunk[UnitT] | None, error: RayError) -> Sequence[UnitRow]:
        worker.state, worker.open_at = "new", time.monotonic() + REOPEN_DELAY_S
        self._last_problem = str(error).partition("\n")[0]
        log.debug("worker %d: %s", worker.number + 1, error)
        if chunk is None:
            self._open_failures += 1
            return ()
        log.info("worker %d died: %s", worker.number + 1, worker.name)
        is_node_alive = any(node["NodeID"] == worker.node and node["Alive"] for node in ray.nodes())
        return self._queue.fail_chunk(chunk, worker.name, is_blamable=is_node_alive)

    def _end_by_error(self, worker: _Worker, chunk: Chunk[UnitT] | None, answer: WorkerAnswer) -> None:
        """Raises what every unit would meet. A worker that cannot open after others have worked is left out instead."""
        assert answer.problem is not None
        worker.problem = None if answer.is_open else answer.problem
        if worker.problem is None or not self._has_rows or all(one.problem is not None for one in self._workers):
            raise UnitError(*answer.problem).to_error()
        if chunk is not None:
            self._queue.fail_chunk(chunk, worker.name, is_blamable=False)
        self._last_problem = answer.problem[1]
        log.warning("worker %d is left out: %s", worker.number + 1, escape_name(self._last_problem, 1000))
        worker.state, worker.open_at = "new", time.monotonic() + NOTICE_INTERVAL_S

    def _watch_workers(self) -> None:
        """Says what is waited for; ends a job whose workers are gone for good."""
        now = time.monotonic()
        open_count = sum(worker.is_open for worker in self._workers)
        if open_count:
            self._alive_at = now
        if now - self._noticed_at >= NOTICE_INTERVAL_S:
            self._noticed_at = now
            missing = len(self._workers) - open_count
            if missing:
                gpus = missing * self._gpus
                takes = f"{gpus:g} GPUs" if gpus else format_count(missing * self._options.cpus, "CPU")
                self._report(f"waiting for {takes}")
                log.info("waiting for %s: %s", takes, self._last_problem or "the cluster has none free")
        if now - self._alive_at >= LOST_TIMEOUT_S:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            if not self._room.growing_nodes and not count_places(nodes, self._options.cpus, self._gpus):
                raise UnavailableError(
                    "All workers are gone, and the cluster has no machine left for them. What is done stays."
                )
            if self._open_failures >= MAX_OPEN_FAILURES:
                problem = escape_name(self._last_problem, 400)
                raise UnavailableError(f"No worker could be started for {LOST_TIMEOUT_S:.0f} s. Ray says: {problem}")
            self._alive_at = now

    def _report(self, what: str) -> None:
        """Reports how far it is: first how many workers and failures there are, then `what`."""
        parts = [what] if what else []
        if self._is_started:
            open_count = sum(worker.is_open for worker in self._workers)
            failed = [f"{self._failed} failed"] if self._failed else []
            parts = [f"{open_count} of {format_count(len(self._workers), 'worker')}", *failed, *parts]
        report_progress(self._progress, self._done, self._total, ", ".join(parts))
