"""Every command is documented, has a library function of its name, and is in the generated reference."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

import dni_deploy
from dni_deploy import errors
from dni_deploy.cli.commands import COMMANDS, format_help_summary

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_documented(name: str) -> None:
    command: click.Command = import_module(f"dni_deploy.cli.{name}").command
    context = click.Context(command, info_name=f"dni-deploy {name}", **command.context_settings)
    examples = command.get_help(context).partition("Examples:")[2].strip().splitlines()
    assert examples, f"{name} has no examples"
    assert all(f"dni-deploy {name}" in line for line in examples)
    assert command.help
    assert COMMANDS[name] in format_help_summary()
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts} has no help"


def test_each_command_is_a_library_function() -> None:
    assert set(COMMANDS) - {"completion", "help"} <= set(dni_deploy.__all__)


def test_the_command_reference_is_up_to_date() -> None:
    child = subprocess.run(
        [sys.executable, "docs/generate_cli.py", "--check"], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert child.returncode == 0, child.stdout + child.stderr


def test_the_documented_exit_codes_are_those_of_the_errors() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    documented = {
        kind: int(code)
        for code, kinds in re.findall(r"^\| (\d+) \| (.+?) \|", text, re.M)
        for kind in re.findall(r"`(\w+)`", kinds)
    }
    real = {
        kind.__name__: kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.DniError) and kind is not errors.DniError
    }
    assert documented == real
