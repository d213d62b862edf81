"""`dni-deploy sweep`: one picture at many alphas."""

from __future__ import annotations

from pathlib import Path

import click

from dni_deploy.bays import open_door
from dni_deploy.cli import options
from dni_deploy.cli.surface import Surface, outline


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
@click.option("--reference", type=options.PATH, help="The clean picture: adds PSNR and the best alpha.")
@click.option("--html", type=options.PATH, help="Write one self-contained page with a slider here.")
@click.option("--plot", type=options.PATH, help="Write PSNR against alpha here; needs --reference.")
@options.engine
@options.threads
@options.force
def command(
    surface: Surface,
    bundle: Path,
    picture: Path,
    output: Path,
    steps: int,
    reference: Path | None,
    html: Path | None,
    plot: Path | None,
    engine: str,
    threads: int,
    force: bool,
) -> None:
    """Process one picture at many alphas: a contact sheet, and a page with a slider."""
    verb = open_door("dni_deploy.verbs.sweep").sweep
    with surface.progress() as progress:
        report = verb(
            bundle,
            picture,
            output,
            steps=steps,
            reference=reference,
            html=html,
            plot=plot,
            engine=engine,
            threads=threads,
            force=force,
            progress=progress,
        )
    fields = report.to_json()
    if not surface.result("sweep", fields):
        outline(fields)
