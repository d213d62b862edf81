"""`dni-deploy check`: whether checkpoints blend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from dni_deploy.bays import open_door
from dni_deploy.cli import options
from dni_deploy.cli.surface import Surface, facts, table
from dni_deploy.errors import shown


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
@click.option("--html", type=options.PATH, help="Write a report with plots here: .html, or a picture, .png, .svg or .pdf.")
@options.force
def command(surface: Surface, members: tuple[str, ...], image: Path | None, html: Path | None, force: bool) -> None:
    """Tell whether checkpoints blend, before anything is exported.

    Compares filters by the correlation index of the paper (Eq. 3) and, with a picture, looks at the network halfway
    between the members. The verdict is one of "blends well", "blends with care", "will not blend".
    """
    one_bundle = len(members) == 1 and Path(members[0]).is_dir()
    family = Path(members[0]) if one_bundle else options.members(members)
    report = open_door("dni_deploy.verbs.check").check(family, image=image, report=html, force=force)
    if surface.result("check", report.to_json()):
        return
    facts({"verdict": report.verdict, "members": ", ".join(report.members), "architecture": report.architecture})
    click.echo()
    rows = [(row.pair, row.layer, "x".join(map(str, row.shape)), row.filters, *_spread(row.quantiles)) for row in report.layers]
    table(["pair", "layer", "shape", "filters", "median", "5 %", "95 %"], rows)
    click.echo()
    for line in (*report.reasons, *report.advice, *report.notes):
        click.echo(shown(line, 1000))
    if report.report:
        click.echo()
        facts({"wrote": report.report})


def _spread(quantiles: Sequence[float]) -> tuple[str, str, str]:
    """Median, 5 % and 95 % of a layer's indices."""
    return (f"{quantiles[2]:.3f}", f"{quantiles[0]:.3f}", f"{quantiles[4]:.3f}") if quantiles else ("-", "-", "-")
