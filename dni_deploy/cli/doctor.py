"""`dni-deploy doctor`: what this machine can run, and what to install."""

from __future__ import annotations

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import Surface, facts, table
from dni_deploy.utils.optional_packages import open_door


@options.command(
    "doctor",
    """
    dni-deploy doctor
    dni-deploy doctor --json
    """,
)
def command(surface: Surface) -> None:
    """Tell what is installed, which engines can run, and why not.

    Changes nothing. Exit code 0 even where something is missing: what is missing is the answer.
    """
    report = open_door("dni_deploy.api.doctor").doctor()
    if surface.result("doctor", report.to_json()):
        return
    facts(report.machine)
    click.echo()
    table(["package", "version", "opens"], [(name, version or "-", opens) for name, version, opens in report.packages])
    click.echo()
    table(["engine", "runs", "why"], [(state.name, "yes" if state.runs else "no", state.why) for state in report.engines])
    for line in (*report.warnings, *report.advice):
        click.echo(f"\n{line}")
