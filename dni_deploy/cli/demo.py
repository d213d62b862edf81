"""`dni-deploy demo`: see it work on a real photograph."""

from __future__ import annotations

from pathlib import Path

from dni_deploy.bays import open_door
from dni_deploy.cli import options
from dni_deploy.cli.surface import Surface, outline


@options.command(
    "demo",
    """
    dni-deploy demo
    dni-deploy demo -o somewhere --force
    """,
)
@options.output("The folder to write.", required=False, default="dni-demo")
@options.force
def command(surface: Surface, output: Path, force: bool) -> None:
    """See it work: noise a photograph, export, build, sweep alpha, write the pictures.

    Uses denoisers that come with the package, trained for noise 20, 40 and 60, and needs no network.
    """
    verb = open_door("dni_deploy.verbs.demo").demo
    with surface.progress() as progress:
        report = verb(output, force=force, progress=progress)
    fields = report.to_json()
    if not surface.result("demo", fields):
        outline(fields)
