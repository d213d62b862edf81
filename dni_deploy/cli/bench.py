"""`dni-deploy bench`: the time of an alpha change and of a frame."""

from __future__ import annotations

from pathlib import Path

import click

from dni_deploy.bays import open_door
from dni_deploy.cli import options
from dni_deploy.cli.surface import Surface, outline
from dni_deploy.errors import UsageError, shown


@options.command(
    "bench",
    """
    dni-deploy bench sr.dni
    dni-deploy bench sr.dni --shape 1x3x256x256 --json
    """,
)
@options.bundle
@click.option("--shape", metavar="NxCxHxW", help="Shape of the input.")
@click.option("--repeats", type=click.IntRange(1, 10_000), help="How often each figure is taken.")
@click.option("-o", "--output", type=options.PATH, help="Write the result as JSON here.")
@options.force
def command(surface: Surface, bundle: Path, shape: str | None, repeats: int | None, output: Path | None, force: bool) -> None:
    """Time an alpha change, the first frame after it and a steady frame, against the other ways to change alpha.

    All rows are taken in one run, interleaved, on this machine.
    """
    chosen = {} if repeats is None else {"repeats": repeats}
    size = _shape(shape)
    verb = open_door("dni_deploy.verbs.bench").bench
    report = verb(bundle, shape=size, output=output, force=force, **chosen)
    fields = report.to_json()
    if not surface.result("bench", fields):
        outline(fields)


def _shape(text: str | None) -> tuple[int, ...] | None:
    """NxCxHxW as four numbers. Raises UsageError."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--shape {shown(text)} is not NxCxHxW, such as 1x3x256x256.")
    return tuple(int(part) for part in parts)
