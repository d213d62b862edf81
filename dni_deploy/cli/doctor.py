"""`dni-deploy doctor`: what this machine can run, and what to install."""

from __future__ import annotations

import click

from dni_deploy.cli import options
from dni_deploy.cli.output import CommandOutput, print_summary, print_table
from dni_deploy.utils.optional_packages import import_optional


@options.command(
    "doctor",
    """
    dni-deploy doctor
    dni-deploy doctor --json
    """,
)
def command(command_output: CommandOutput) -> None:
    """Show what is installed, which engines can run, and why others cannot.

    Changes nothing. The exit code is 0 even if something is missing: what is missing is the answer.
    """
    report = import_optional("dni_deploy.api.doctor").doctor()
    if command_output.print_result("doctor", report.to_json()):
        return
    print_summary({name.replace("_", " "): fact for name, fact in report.machine.items()})
    click.echo()
    print_table(
        ["package", "version", "needed for"], [(name, version or "-", opens) for name, version, opens in report.packages]
    )
    click.echo()
    print_table(
        ["engine", "available", "reason"],
        [(state.name, "yes" if state.available else "no", state.reason) for state in report.engines],
    )
    for line in (*report.warnings, *report.advice):
        click.echo(f"\n{line}")
