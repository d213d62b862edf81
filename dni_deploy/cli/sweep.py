"""`dni-deploy sweep`: one picture at many alphas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import Surface, facts, span, table
from dni_deploy.utils.optional_packages import open_door

if TYPE_CHECKING:
    from dni_deploy.api.sweep import SweepReport


@options.command(
    "sweep",
    """
    dni-deploy sweep sr.dni in.png -o strip.png
    dni-deploy sweep sr.dni in.png -o strip.png --steps 21 --html page.html
    dni-deploy sweep denoise.dni noisy.png -o strip.png --reference clean.png --plot psnr.png
    """,
)
@options.bundle
@click.argument("picture", type=options.PATH)
@options.output("The contact sheet to write.")
@click.option("--steps", type=click.IntRange(2, 1001), default=11, show_default=True, help="How many alphas, ends included.")
@click.option("--even", is_flag=True, help="Equal steps of the slider that the bundle holds, not of alpha.")
@click.option("--reference", type=options.PATH, help="The clean picture: adds PSNR and the best alpha.")
@click.option("--html", type=options.PATH, help="Write one self-contained page with a slider here.")
@click.option("--plot", type=options.PATH, help="Write PSNR against alpha here; needs --reference.")
@options.runs
@options.ruled
@options.tile
@options.overlap
@options.force
def command(
    surface: Surface,
    bundle: Path,
    picture: Path,
    output: Path,
    steps: int,
    even: bool,
    reference: Path | None,
    html: Path | None,
    plot: Path | None,
    engine: str,
    precision: str | None,
    device: int,
    tile: int | None,
    overlap: int | None,
    threads: int,
    rules: Any,
    force: bool,
) -> None:
    """Process one picture at many alphas: a contact sheet, and a page with a slider.

    Two members: alpha goes from 0 to 1, the first member's share. More: from each member to the next.
    """
    verb = open_door("dni_deploy.api.sweep").sweep
    with surface.progress() as progress:
        report = verb(
            bundle,
            picture,
            output,
            steps=steps,
            even=even,
            reference=reference,
            html=html,
            plot=plot,
            engine=engine,
            precision=precision,
            device=device,
            tile=tile,
            overlap=overlap,
            threads=threads,
            rules=rules,
            force=force,
            progress=progress,
        )
    if surface.result("sweep", report.to_json()):
        return
    show(report)
    facts({"wrote": ", ".join(report.files)})


def show(report: SweepReport) -> None:
    """The table of a sweep, and what it found."""
    from dni_deploy.imaging.metrics.psnr import decibels

    scored = report.best is not None
    rows = [
        [f"{share:.4g}" for share in row.shares]
        + ([decibels(row.psnr) if row.psnr is not None else "-"] if scored else [])
        + [span(row.change_seconds), span(row.frame_seconds), "best" if index == report.best else ""]
        for index, row in enumerate(report.rows)
    ]
    table([*report.members, *(["PSNR"] if scored else []), "change", "frame", ""], rows)
    click.echo()
    facts(
        {
            "engine": options.engine_told(report.engine, report.engine_why),
            "change of alpha": span(report.change_seconds),
            "frame": span(report.frame_seconds),
        }
    )
    if scored:
        click.echo(report.finding())
