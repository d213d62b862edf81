"""Write docs/cli.md from the commands' own help; with --check, only tell whether it is up to date."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import click
from write_page import write_or_check

from dni_deploy.cli.commands import COMMANDS, PROGRAM_NAME, format_help_summary

TARGET = Path(__file__).with_name("cli.md")


def reference() -> str:
    """The whole page: the front page, then each command's help, at 80 columns."""
    parts = [
        "# The command line",
        "",
        "Written by `make docs` from the commands' own help.",
        "",
        "```text",
        format_help_summary(),
        "```",
    ]
    for name in COMMANDS:
        command = import_module(f"dni_deploy.cli.{name}").command
        context = click.Context(command, info_name=f"{PROGRAM_NAME} {name}", terminal_width=80, **command.context_settings)
        parts += ["", f"## {name}", "", "```text", command.get_help(context).rstrip(), "```"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    os.environ.pop("COLUMNS", None)
    sys.exit(write_or_check(TARGET, reference(), "commands"))
