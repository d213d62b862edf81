"""`dni-deploy slider`: a perceptually uniform slider, stored in the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, print_summary
from dni_deploy.errors import escape_name
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "slider",
    """
    dni-deploy slider denoise.dni noisy.png
    dni-deploy slider sr.dni photos/ --held-out other.png --plot slider.png --force
    dni-deploy slider sr.dni --remove
    """,
)
@options.bundle
@click.argument("images", metavar="[IMAGES]...", nargs=-1, type=options.PATH_TYPE)
@click.option(
    "--steps",
    type=click.IntRange(4, 256),
    default=32,
    show_default=True,
    help="Number of steps of the slider that are measured.",
)
@click.option(
    "--held-out", type=options.PATH_TYPE, multiple=True, help="Another image, on which the steps are only reported. Repeatable."
)
@click.option("--remove", is_flag=True, help="Remove the stored slider.")
@click.option(
    "--crop",
    type=click.IntRange(0, 2**16),
    help="Side of the center crop that is measured, in input pixels; 0: whole images.  [default: 256]",
)
@click.option(
    "--plot", type=options.PATH_TYPE, help="Write a plot of the slider and its steps to this file: .png, .svg or .pdf."
)
@options.session_options
@click.option("--force", is_flag=True, allow_from_autoenv=False, help="Replace a slider and a plot that exist.")
def command(
    command_output: CommandOutput,
    bundle: Path,
    images: tuple[Path, ...],
    steps: int,
    held_out: tuple[Path, ...],
    remove: bool,
    crop: int | None,
    plot: Path | None,
    session_options: Any,
    force: bool,
) -> None:
    """Measure how images change along alpha, and store a perceptually uniform slider in the bundle: equal steps look equal.

    For families of two members. Afterwards `run` and `refit` take --slider in place of --alpha, `sweep` takes --even, and
    the page of `serve` moves in these steps.
    """
    verb = import_optional("dni_deploy.api.slider").slider
    with command_output.show_progress() as progress:
        report = verb(
            bundle,
            images,
            steps=steps,
            held_out=held_out,
            remove=remove,
            crop=crop,
            plot=plot,
            options=session_options,
            force=force,
            progress=progress,
        )
    if command_output.print_result("slider", report.to_json()):
        return
    if report.removed:
        print_summary({"removed": f"the slider of {report.bundle}"})
        return
    print_summary(
        {
            "stored": f"a slider of {len(report.points)} points in {report.bundle}",
            "engine": options.format_engine(report.engine, report.engine_reason),
            "largest step / mean": f"{report.alpha_unevenness:.2f} by alpha, {report.slider_unevenness:.2f} by the slider",
            "on other images": f"{report.held_out[0]:.2f} by alpha, {report.held_out[1]:.2f} by the slider"
            if report.held_out
            else None,
            "wrote": ", ".join(report.files),
        }
    )
    for line in report.notes:
        click.echo(escape_name(line, 1000))
