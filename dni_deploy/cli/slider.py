"""`dni-deploy slider`: a slider with even steps, kept in the bundle."""

from __future__ import annotations

from pathlib import Path

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import Surface, facts
from dni_deploy.errors import shown
from dni_deploy.utils.optional_packages import open_door


@options.command(
    "slider",
    """
    dni-deploy slider denoise.dni noisy.png
    dni-deploy slider sr.dni photos/ --held-out other.png --plot slider.png --force
    dni-deploy slider sr.dni --remove
    """,
)
@options.bundle
@click.argument("pictures", nargs=-1, type=options.PATH)
@click.option(
    "--steps", type=click.IntRange(4, 256), default=32, show_default=True, help="Steps of the slider that are measured."
)
@click.option("--held-out", type=options.PATH, multiple=True, help="Another picture, on which the evenness is only told.")
@click.option("--remove", is_flag=True, help="Take the stored slider away.")
@click.option(
    "--crop",
    type=click.IntRange(0, 2**16),
    help="Side of the middle part that is measured, in input pixels; 0: whole pictures.  [default: 256]",
)
@click.option("--plot", type=options.PATH, help="Write the slider and its steps here: .png, .svg or .pdf.")
@options.runs
@click.option("--force", is_flag=True, help="Replace the slider and the plot that are there.")
def command(
    surface: Surface,
    bundle: Path,
    pictures: tuple[Path, ...],
    steps: int,
    held_out: tuple[Path, ...],
    remove: bool,
    crop: int | None,
    plot: Path | None,
    engine: str,
    precision: str | None,
    device: int,
    threads: int,
    force: bool,
) -> None:
    """Measure how far pictures move along alpha, and keep a slider in the bundle whose equal steps look equal.

    For families of two. Afterwards `run` and `refit` take --slider in place of --alpha, `sweep` takes --even, and the page of
    `serve` moves in these steps.
    """
    verb = open_door("dni_deploy.api.slider").slider
    with surface.progress() as progress:
        report = verb(
            bundle,
            pictures,
            steps=steps,
            held_out=held_out,
            remove=remove,
            crop=crop,
            plot=plot,
            engine=engine,
            precision=precision,
            device=device,
            threads=threads,
            force=force,
            progress=progress,
        )
    if surface.result("slider", report.to_json()):
        return
    if report.removed:
        facts({"removed": f"the slider of {report.bundle}"})
        return
    even = [f"{before:.2f} by alpha, {after:.2f} by the slider" for before, after in ((report.before, report.after),)]
    facts(
        {
            "stored": f"a slider of {len(report.knots)} knots in {report.bundle}",
            "engine": options.engine_told(report.engine, report.engine_why),
            "largest step / mean": even[0],
            "on other pictures": f"{report.held_out[0]:.2f} by alpha, {report.held_out[1]:.2f} by the slider"
            if report.held_out
            else None,
            "wrote": ", ".join(report.files),
        }
    )
    for line in report.notes:
        click.echo(shown(line, 1000))
