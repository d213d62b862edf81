"""`dni-deploy inspect`: what a bundle holds."""

from __future__ import annotations

from pathlib import Path

from dni_deploy.bays import open_door
from dni_deploy.cli import options
from dni_deploy.cli.surface import Surface, outline


@options.command(
    "inspect",
    """
    dni-deploy inspect sr.dni
    dni-deploy inspect sr.dni --json
    """,
)
@options.bundle
def command(surface: Surface, bundle: Path) -> None:
    """Show what a bundle holds: members, network, tensors, files.

    Every file is compared with its SHA-256 in the manifest first.
    """
    report = open_door("dni_deploy.verbs.inspect").inspect(bundle)
    fields = report.to_json()
    if not surface.result("inspect", fields):
        outline(fields)
