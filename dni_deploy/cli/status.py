"""`dni-deploy status`: how far a job is."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, print_summary, print_table
from dni_deploy.utils.format_count import format_count
from dni_deploy.utils.optional_packages import import_optional

MAX_WORKERS = 30
"""Rows of workers; those that ended first are left out."""


@options.command(
    "status",
    """
    dni-deploy status done/
    dni-deploy status done/ --failed
    dni-deploy status out.mp4
    dni-deploy status done/ --json
    """,
)
@click.argument("output", type=options.PATH_TYPE)
@click.option("--failed", is_flag=True, help="List the images or segments that have failed, and why.")
def command(command_output: CommandOutput, output: Path, failed: bool) -> None:
    """Show how far a run is: states, rates, failures, workers and machines.

    OUTPUT is the folder that `run` writes to, in one process, in shards or on a cluster; a video that `video` writes; or the
    folder that several videos go to. Only the job's own files are read, so that it can be asked at any time, from any machine
    that sees the folder.
    """
    jobs = import_optional("dni_deploy.api.status").status(output)
    if command_output.print_result("status", {"jobs": [job.to_json() for job in jobs]}):
        return
    for number, job in enumerate(jobs):
        if number:
            click.echo()
        _print_job(job, lists_failed=failed)


def _print_job(job: Any, *, lists_failed: bool) -> None:
    of_total = "" if job.total is None else f" of {job.total}, {job.done / max(job.total, 1):.0%}"
    left = "" if job.eta_s is None else f", {timedelta(seconds=round(job.eta_s))} left"
    unit = "image" if job.kind == "images" else "segment"
    failure = job.failures[0] if job.failures and not lists_failed else None
    engine, alpha = job.settings.get("engine") or [""], job.settings.get("alpha")
    print_summary(
        {
            "job": job.folder,
            "state": job.state,
            "done": f"{job.done}{of_total}",
            "failed": f"{len(job.failures)}; --failed lists them. First: {failure.message}"
            if failure
            else len(job.failures) or None,
            "remaining": job.remaining,
            "rate": None if job.rate is None else f"{_format_rate(job.rate)} {unit}s/s{left}",
            "alpha": options.format_coefficients(alpha) if isinstance(alpha, dict) else None,
            "engine": engine[0] if isinstance(engine, list) else None,
        }
    )
    if job.workers:
        click.echo()
        _print_workers(job.workers)
    if lists_failed and job.failures:
        click.echo()
        print_table(["failed", "why"], [(failure.source or failure.unit, failure.message) for failure in job.failures])


def _print_workers(workers: Any) -> None:
    now = time.time()
    newest = sorted(workers, key=lambda worker: worker.last)[-MAX_WORKERS:]
    rows = [
        (
            worker.worker,
            worker.shard or "-",
            worker.machine or "-",
            worker.done,
            worker.failed,
            _format_rate(worker.rate),
            f"{timedelta(seconds=max(round(now - worker.last), 0))} ago" if worker.last else "-",
        )
        for worker in newest
    ]
    print_table(["worker", "shard", "machine", "done", "failed", "per second", "last"], rows)
    if len(workers) > len(rows):
        click.echo(f"{format_count(len(workers) - len(rows), 'worker')} of before are left out; --json lists them.")


def _format_rate(rate: float) -> str:
    return f"{rate:.1f}" if rate >= 10 else f"{rate:.2g}"
