"""`dni-deploy build`: the engine for this machine, ahead of time."""

from __future__ import annotations

from pathlib import Path

from dni_deploy.bays import open_door
from dni_deploy.cli import options
from dni_deploy.cli.surface import Surface, outline


@options.command(
    "build",
    """
    dni-deploy build sr.dni
    dni-deploy build sr.dni --engine onnxruntime --force
    """,
)
@options.bundle
@options.engine
@options.threads
@options.force
def command(surface: Surface, bundle: Path, engine: str, threads: int, force: bool) -> None:
    """Build the engine for this machine ahead of time.

    The plan is written inside the bundle: a session then opens without optimizing again. Every weight is changed alone, in the
    running engine, and has to change the output.
    """
    with surface.progress() as progress:
        report = open_door("dni_deploy.verbs.build").build(
            bundle, engine=engine, force=force, threads=threads, progress=progress
        )
    fields = report.to_json()
    if not surface.result("build", fields):
        outline(fields)
