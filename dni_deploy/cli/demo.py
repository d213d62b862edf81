"""`dni-deploy demo`: see it work on a real photograph."""

from __future__ import annotations

from pathlib import Path

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, format_seconds, print_summary
from dni_deploy.cli.sweep import print_sweep
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "demo",
    """
    dni-deploy demo
    dni-deploy demo -o somewhere --force
    """,
)
@options.output_option("The folder to write to.", required=False, default="dni-demo")
@options.force
def command(command_output: CommandOutput, output: Path, force: bool) -> None:
    """Run a demo: add noise to a photograph, export, calibrate, sweep alpha, write the images.

    Uses two denoisers that come with the package, trained for noise 20 and 60, on a photograph with noise 40 that
    neither was trained on. Nothing is downloaded.
    """
    from dni_deploy.imaging.metrics.psnr import format_db

    verb = import_optional("dni_deploy.api.demo").demo
    with command_output.show_progress() as progress:
        report = verb(output, force=force, progress=progress)
    if command_output.print_result("demo", report.to_json()):
        return
    print_sweep(report.sweep)
    click.echo()
    print_summary(
        {
            "before denoising": format_db(report.noisy_psnr),
            "N40, trained for it": format_db(report.matched_psnr),
            "export": format_seconds(report.export_seconds),
            "statistics": f"of BatchNorm, estimated in {format_seconds(report.calibration_seconds)} on the noisy photograph",
            "whole demo": format_seconds(report.seconds),
            "wrote": ", ".join(report.files),
        }
    )
