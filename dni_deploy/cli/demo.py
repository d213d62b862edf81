"""`dni-deploy demo`: see it work on a real photograph."""

from __future__ import annotations

import shlex
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
@click.option("--from-checkpoints", is_flag=True, help="Export and calibrate here; needs PyTorch, and a minute.")
@options.force
def command(command_output: CommandOutput, output: Path, from_checkpoints: bool, force: bool) -> None:
    """Run a demo: add noise to a photograph, sweep alpha, write the images and a page with a slider.

    Uses two denoisers that come with the package, trained for noise 20 and 60, on a photograph with noise 40 that
    neither was trained on. Nothing is downloaded.
    """
    from dni_deploy.imaging.metrics.psnr import format_db

    verb = import_optional("dni_deploy.api.demo").demo
    with command_output.show_progress() as progress:
        report = verb(output, force=force, progress=progress, from_checkpoints=from_checkpoints)
    if command_output.print_result("demo", report.to_json()):
        return
    print_sweep(report.sweep)
    click.echo()
    print_summary(
        {
            "before denoising": format_db(report.noisy_psnr),
            "N40, trained for it": format_db(report.matched_psnr),
            "bundle": f"made in {format_seconds(report.bundle_seconds)}",
            "whole demo": format_seconds(report.seconds),
            "wrote": ", ".join(report.files),
        }
    )
    click.echo()
    print_summary(
        {
            "open": str(output / "page.html"),
            "move alpha live": shlex.join(
                ["dni-deploy", "serve", str(output / "demo.dni"), str(output / "noisy.png"), "--alpha", "0.3"]
            ),
        }
    )
