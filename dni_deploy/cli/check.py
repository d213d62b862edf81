"""`dni-deploy check`: whether checkpoints blend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dni_deploy.bundle.folder import as_bundle_location
from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, print_summary, print_table
from dni_deploy.errors import VERDICT_EXIT_CODE, escape_name
from dni_deploy.utils.address import is_address
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "check",
    """
    dni-deploy check psnr.pth gan.pth
    dni-deploy check sr.dni --image in.png --reference clean.png
    dni-deploy check n20.pth n40.pth n60.pth --html report.html
    dni-deploy check a.pth b.pth --arch my_package.nets:build
    dni-deploy check n0=noise0_model.param n1=noise1_model.param
    dni-deploy check psnr.pth gan.pth --strict --json
    """,
)
@click.argument("members", nargs=-1, required=True, metavar="BUNDLE|[NAME=]PATH...")
@click.option("--image", type=options.PATH_TYPE, multiple=True, help="A test image, or a folder of them. Repeatable.")
@click.option(
    "--reference",
    type=options.PATH_TYPE,
    multiple=True,
    help="The expected output for each test image, in the same order: adds the loss barrier. Repeatable.",
)
@click.option(
    "--html", type=options.PATH_TYPE, help="Write a report to this file: .html with images, or a plot, .png, .svg or .pdf."
)
@options.arch
@options.key
@click.option(
    "--strict", is_flag=True, help=f'Exit with {VERDICT_EXIT_CODE} if the verdict is "will not blend" or "not known".'
)
@options.force
def command(
    command_output: CommandOutput,
    members: tuple[str, ...],
    image: tuple[Path, ...],
    reference: tuple[Path, ...],
    arch: str,
    key: str | None,
    html: Path | None,
    strict: bool,
    force: bool,
) -> None:
    """Check whether checkpoints blend, before anything is exported.

    Runs the network halfway between the members on test images, compares filters by the correlation index of the
    paper (Eq. 3), and says what is wrong and what to do. The verdict is one of "blends well", "blends with caveats",
    "will not blend", and "not known" where nothing was run; it is a result, so the exit code is 0 whichever it is,
    unless --strict is given.
    """
    one_bundle = len(members) == 1 and (is_address(members[0]) or Path(members[0]).is_dir())
    family = as_bundle_location(members[0]) if one_bundle else options.parse_members(members)
    with command_output.show_progress() as progress:
        report = import_optional("dni_deploy.api.check").check(
            family,
            image=image or None,
            reference=reference or None,
            arch=arch,
            key=key,
            report=html,
            force=force,
            progress=progress,
        )
    if not command_output.print_result("check", report.to_json()):
        _print_report(report)
    if strict and report.verdict in ("will not blend", "not known"):
        raise click.exceptions.Exit(VERDICT_EXIT_CODE)


def _print_report(report: Any) -> None:
    print_summary({"verdict": report.verdict, "members": ", ".join(report.members), "architecture": report.architecture})
    click.echo()
    if report.obstacle:
        click.echo(escape_name(report.obstacle, 1000))
        click.echo()
    rows = [
        (row.pair, row.layer, "x".join(map(str, row.shape)), row.filters, *_format_spread(row.quantiles))
        for row in report.layers
    ]
    if rows:
        print_table(["pair", "layer", "shape", "filters", "median", "5 %", "95 %"], rows)
        click.echo()
    pairs = [
        (row.pair, row.verdict, ", ".join(row.causes) or "-", *(_format_number(value) for value in (row.median, row.distance)))
        for row in report.pairs
    ]
    print_table(["pair", "verdict", "cause", "index", "distance"], pairs)
    click.echo()
    losses = {row.pair: row.loss.format_figures() for row in report.pairs if row.loss}
    if losses:
        print_table(["pair", *next(iter(losses.values()))], [(pair, *figures.values()) for pair, figures in losses.items()])
        click.echo()
    if report.path:
        print_summary({"path": " - ".join(report.path.members), "weak link": f"{report.path.weak_link}: {report.path.verdict}"})
        click.echo()
    for line in (*report.reasons, *report.advice, *report.notes):
        if line != report.obstacle:
            click.echo(escape_name(line, 1000))
    if report.report:
        click.echo()
        print_summary({"wrote": report.report})


def _format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _format_spread(quantiles: Sequence[float]) -> tuple[str, str, str]:
    """Formats median, 5 % and 95 % of a layer's correlation indices."""
    return (f"{quantiles[2]:.3f}", f"{quantiles[0]:.3f}", f"{quantiles[4]:.3f}") if quantiles else ("-", "-", "-")
