"""`dni-deploy build`: the engine for this machine, ahead of time."""

from __future__ import annotations

from pathlib import Path

from dni_deploy.bays import open_door
from dni_deploy.cli import options
from dni_deploy.cli.surface import Surface, facts, span


@options.command(
    "build",
    """
    dni-deploy build sr.dni
    dni-deploy build sr.dni --force
    """,
)
@options.bundle
@options.engine
@options.threads
@options.force
def command(surface: Surface, bundle: Path, engine: str, threads: int, force: bool) -> None:
    """Build the engine for this machine ahead of time, and verify it weight by weight.

    The optimized network is kept inside the bundle, so that a session opens without optimizing again. The bundle's
    own files stay as they are.
    """
    verb = open_door("dni_deploy.verbs.build").build
    with surface.progress() as progress:
        report = verb(bundle, engine=engine, threads=threads, force=force, progress=progress)
    if surface.result("build", report.to_json()):
        return
    facts(
        {
            "engine": report.engine,
            "wrote": report.plan or "nothing",
            "road": report.road,
            "verified": f"{report.weights} weights, each by a change of its own" if report.weights else None,
            "error": None if report.error is None else f"{report.error:.2g} against a session built anew",
            "took": span(report.seconds),
        }
    )
