"""`help` shows what -h shows, and a manual page that man and mandoc read without a word."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import click
import pytest

from dni_deploy.cli.commands import COMMANDS, format_help_summary
from dni_deploy.cli.main import main

Capture = pytest.CaptureFixture[str]


def test_help_of_a_command_is_what_its_own_option_shows(capsys: Capture) -> None:
    assert main(["help", "run"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: dni-deploy run [OPTIONS] BUNDLE INPUTS...")
    assert main(["run", "-h"]) == 0
    assert capsys.readouterr().out == text


def test_help_alone_is_the_summary(capsys: Capture) -> None:
    assert main(["help"]) == 0
    assert capsys.readouterr().out == format_help_summary() + "\n"


def test_the_manual_page_has_every_command_and_option(capsys: Capture, tmp_path: Path) -> None:
    assert main(["help", "--man"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n.SS {name}\n" in text
        for option in import_module(f"dni_deploy.cli.{name}").command.params:
            if isinstance(option, click.Option):
                assert option.opts[-1].replace("-", "\\-") in text, f"{name} {option.opts}"
    assert max(map(len, re.sub(r"\\\(..|\\.", "x", text).splitlines())) < 160
    page = tmp_path / "dni-deploy.1"
    page.write_text(text)
    if shutil.which("groff") is not None:
        groff = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True, timeout=60)
        assert (groff.returncode, groff.stderr) == (0, "")
    if shutil.which("mandoc") is not None:
        mandoc = subprocess.run(["mandoc", "-Tlint", "-Wwarning", page], capture_output=True, text=True, timeout=60)
        assert [line for line in mandoc.stdout.splitlines() if "missing date" not in line] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_has_no_word_of_the_parser(command: str, capsys: Capture) -> None:
    assert main([command, "-h"]) == 0
    assert re.findall(r"\b(?:TEXT|INTEGER|FLOAT|RANGE)\b|<=?x", capsys.readouterr().out) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_an_option_that_is_required_and_missing_is_a_usage_error(command: str, capsys: Capture) -> None:
    parameters = import_module(f"dni_deploy.cli.{command}").command.params
    required = [option for option in parameters if isinstance(option, click.Option) and option.required]
    arguments = [
        "x.dni" if argument.name == "bundle" else "x" for argument in parameters if isinstance(argument, click.Argument)
    ]
    for option in required:
        assert main([command, *arguments]) == 2
        assert f"Missing option {option.opts[0]} or {option.opts[-1]}" in capsys.readouterr().err
    assert bool(required) == (command in ("export", "refit", "run", "triton", "video", "web"))
