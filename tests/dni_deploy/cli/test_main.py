"""The entry point: help summary, version, completion, environment, and the help of each command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dni_deploy
from dni_deploy.cli import dispatch
from dni_deploy.cli.commands import COMMANDS, format_help_summary
from dni_deploy.cli.main import main

ROOT = Path(__file__).parents[3]
Capture = pytest.CaptureFixture[str]


def child(*args: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **settings.pop("env", {})}
    command = [sys.executable, "-m", "dni_deploy", *args]
    run_options = {
        "stdin": subprocess.DEVNULL,
        "capture_output": True,
        "text": True,
        "cwd": ROOT,
        "timeout": 60,
        "env": environment,
    }
    return subprocess.run(command, **{**run_options, **settings})


def test_an_invalid_environment_variable_is_a_usage_error() -> None:
    process = child("run", "a.dni", "b.png", "-o", "c.png", "--alpha", "1", env={"DNI_RUN_THREADS": "abc"})
    assert (process.returncode, process.stdout) == (2, "")
    assert "abc" in process.stderr


def test_every_way_to_ask_for_help_prints_the_same_summary(capsys: Capture) -> None:
    main([])
    main(["-h"])
    main(["-q", "--help"])  # this one goes through click
    assert capsys.readouterr().out == (format_help_summary() + "\n") * 3


def test_version_is_printed(capsys: Capture) -> None:
    main(["--version"])
    main(["-q", "--version"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == second == f"dni-deploy {dni_deploy.__version__}"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: Capture) -> None:
    assert main(["completion", shell]) == 0
    assert dispatch.COMPLETE_VARIABLE in capsys.readouterr().out


def test_completion_lists_matching_commands() -> None:
    process = child(env={dispatch.COMPLETE_VARIABLE: "bash_complete", "COMP_WORDS": "dni-deploy in", "COMP_CWORD": "1"})
    assert process.stdout == "plain,inspect\n"


def test_commands_work_without_stdout_and_home() -> None:
    command = f"{sys.executable} -m dni_deploy doctor >&-"
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "TERM", "LANG", "TMPDIR")}
    process = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60)
    assert (process.returncode, process.stderr) == (0, "")


def test_output_in_a_narrow_encoding_is_not_an_error() -> None:
    process = child("doctor", env={"PYTHONIOENCODING": "ascii", "DNI_CACHE": "/tmp/größe"})
    assert process.returncode == 0, process.stderr
    assert "/tmp/gr" in process.stdout


def test_unknown_names_are_attribute_errors() -> None:

    with pytest.raises(AttributeError, match="nonsense"):
        _ = dni_deploy.nonsense
    assert "export" in dir(dni_deploy)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(name: str, capsys: Capture) -> None:
    assert main([name, "-h"]) == main([name, "--help"]) == 0
    assert capsys.readouterr().out.count(f"Usage: dni-deploy {name}") == 2
