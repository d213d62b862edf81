"""`dni-deploy demo`: see it work on a real photograph."""

from __future__ import annotations

from pathlib import Path

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import Surface, facts, span
from dni_deploy.cli.sweep import show
from dni_deploy.utils.optional_packages import open_door


@options.command(
    "demo",
    """
    dni-deploy demo
    dni-deploy demo -o somewhere --force
    """,
)
@options.output("The folder to write.", required=False, default="dni-demo")
@options.force
def command(surface: Surface, output: Path, force: bool) -> None:
    """See it work: noise a photograph, export, recalibrate, sweep alpha, write the pictures.

    Uses two denoisers that come with the package, trained for noise 20 and 60, on a photograph with noise 40 that
    neither has seen. Nothing is downloaded.
    """
    from dni_deploy.imaging.metrics.psnr import decibels

    verb = open_door("dni_deploy.api.demo").demo
    with surface.progress() as progress:
        report = verb(output, force=force, progress=progress)
    if surface.result("demo", report.to_json()):
        return
    show(report.sweep)
    click.echo()
    facts(
        {
            "before denoising": decibels(report.noisy_psnr),
            "N40, trained for it": decibels(report.matched_psnr),
            "export": span(report.export_seconds),
            "statistics": f"of BatchNorm, estimated in {span(report.recalibration_seconds)} on the noisy photograph",
            "whole demo": span(report.seconds),
            "wrote": ", ".join(report.files),
        }
    )
