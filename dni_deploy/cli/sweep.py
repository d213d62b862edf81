"""`dni-deploy sweep`: one image at many alphas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, format_seconds, print_summary, print_table
from dni_deploy.utils.optional_packages import import_optional

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
@click.argument("image", metavar="IMAGE", type=options.PATH_TYPE)
@options.output_option("The contact sheet to write.")
@click.option("--steps", type=click.IntRange(2, 1001), default=11, show_default=True, help="Number of alphas, ends included.")
@click.option("--even", is_flag=True, help="Take equal steps of the bundle's slider, not of alpha.")
@click.option("--reference", type=options.PATH_TYPE, help="The clean image: adds PSNR and the best alpha.")
@click.option("--html", type=options.PATH_TYPE, help="Write one self-contained page with a slider to this file.")
@click.option("--plot", type=options.PATH_TYPE, help="Write a plot of PSNR against alpha to this file; needs --reference.")
@options.session_options
@options.group_rule_options
@options.tile
@options.overlap
@options.force
def command(
    command_output: CommandOutput,
    bundle: Path,
    image: Path,
    output: Path,
    steps: int,
    even: bool,
    reference: Path | None,
    html: Path | None,
    plot: Path | None,
    session_options: Any,
    tile: int | None,
    overlap: int | None,
    force: bool,
) -> None:
    """Process one image at many alphas: a contact sheet, and a page with a slider.

    Two members: alpha goes from 0 to 1, the first member's share. More: from each member to the next.
    """
    verb = import_optional("dni_deploy.api.sweep").sweep
    with command_output.show_progress() as progress:
        report = verb(
            bundle,
            image,
            output,
            steps=steps,
            even=even,
            reference=reference,
            html=html,
            plot=plot,
            options=session_options,
            tile=tile,
            overlap=overlap,
            force=force,
            progress=progress,
        )
    if command_output.print_result("sweep", report.to_json()):
        return
    print_sweep(report)
    print_summary({"wrote": ", ".join(report.files)})


def print_sweep(report: SweepReport) -> None:
    """Prints the table of a sweep, and its finding."""
    from dni_deploy.imaging.metrics.psnr import format_db

    scored = report.best_index is not None
    rows = [
        [f"{share:.4g}" for share in row.coefficients]
        + ([format_db(row.psnr) if row.psnr is not None else "-"] if scored else [])
        + [format_seconds(row.change_seconds), format_seconds(row.frame_seconds), "best" if index == report.best_index else ""]
        for index, row in enumerate(report.points)
    ]
    print_table([*report.members, *(["PSNR"] if scored else []), "change", "frame", ""], rows)
    click.echo()
    print_summary(
        {
            "engine": options.format_engine(report.engine, report.engine_reason),
            "change of alpha": format_seconds(report.change_seconds),
            "frame": format_seconds(report.frame_seconds),
        }
    )
    if scored:
        click.echo(report.format_finding())
