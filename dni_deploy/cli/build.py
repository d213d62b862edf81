"""`dni-deploy build`: the engine for this machine, ahead of time."""

from __future__ import annotations

from pathlib import Path

import click

from dni_deploy.bays import open_door
from dni_deploy.cli import options
from dni_deploy.cli.surface import Surface, outline


@options.command(
    "build",
    """
    dni-deploy build sr.dni
    dni-deploy build sr.dni --engine onnxruntime -o sr.plan
    """,
)
@options.bundle
@click.option("-o", "--output", type=options.PATH, help="The plan to write; inside the bundle when left out.")
@options.engine
@options.threads
@options.force
def command(surface: Surface, bundle: Path, output: Path | None, engine: str, threads: int, force: bool) -> None:
    """Build the engine for this machine ahead of time.

    The optimized network is kept on disk, so that a session opens without optimizing again.
    """
    report = open_door("dni_deploy.verbs.build").build(bundle, engine=engine, output=output, force=force, threads=threads)
    fields = report.to_json()
    if not surface.result("build", fields):
        outline(fields)
