"""`dni-deploy check`: whether checkpoints blend."""

from __future__ import annotations

from pathlib import Path

import click

from dni_deploy.bays import open_door
from dni_deploy.cli import options
from dni_deploy.cli.surface import Surface, outline


@options.command(
    "check",
    """
    dni-deploy check psnr.pth gan.pth
    dni-deploy check sr.dni --image in.png
    dni-deploy check sr.dni --html report.html
    """,
)
@click.argument("members", nargs=-1, required=True, metavar="BUNDLE|[NAME=]PATH...")
@click.option("--image", type=options.PATH, help="A picture for the midpoint probe.")
@click.option("--html", type=options.PATH, help="Write a report with plots here.")
def command(surface: Surface, members: tuple[str, ...], image: Path | None, html: Path | None) -> None:
    """Tell whether checkpoints blend, before anything is exported.

    Compares filters by the correlation index of the paper (Eq. 3) and, with a picture, looks at the network halfway
    between the members. The verdict is one of "blends well", "blends with care", "will not blend".
    """
    one_bundle = len(members) == 1 and Path(members[0]).is_dir()
    family = Path(members[0]) if one_bundle else options.members(members)
    report = open_door("dni_deploy.verbs.check").check(family, image=image, report=html)
    fields = report.to_json()
    if not surface.result("check", fields):
        outline(fields)
