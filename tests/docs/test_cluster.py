"""docs/cluster.md: the lines for each scheduler, run with the variables that it sets, are all shards once."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from dni_deploy.cli.dispatch import group
from dni_deploy.jobs.shard import Shard

PAGE = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text("utf-8")


COMMANDS = {
    "video": ["video", "sr.dni", "in.mp4", "-o", "out.mp4", "--alpha"],
    "run": ["run", "sr.dni", "archive/", "-o", "out/", "-r", "--alpha"],
}
"""How the arguments of each command begin that has shards."""


def find_line(section: str, command: str) -> str:
    """The line of a command with `--shard` in a section's blocks."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = (line for line in text.splitlines() if " --shard " in line and f"{command} sr.dni" in line)
    return next(line for line in lines if "join" not in line).strip()


def expand_deadline(line: str, task: int) -> str:
    """Deadline replaces its own marks in the arguments, and starts the executable without a shell."""
    match = re.fullmatch(r'-arguments "(.*)"', line)
    assert match is not None
    return f"dni-deploy {match[1].replace('<STARTFRAME>', str(task))}"


SCHEDULERS: dict[str, tuple[Callable[[str, int], str], Callable[[int], dict[str, str]]]] = {
    "Slurm": (
        lambda line, task: line,
        lambda task: {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_ARRAY_JOB_ID": "77"},
    ),
    "Kubernetes": (lambda line, task: line.removeprefix("- "), lambda task: {"JOB_COMPLETION_INDEX": str(task - 1)}),
    "Deadline": (expand_deadline, lambda task: {}),
}


@pytest.mark.skipif(os.name == "nt", reason="the lines are for a POSIX shell")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_tasks_of_an_array_are_all_shards(tmp_path: Path, scheduler: str, command: str) -> None:
    expand, make_variables = SCHEDULERS[scheduler]
    program = tmp_path / "dni-deploy"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 8\n')
    program.chmod(0o755)
    shards = []
    for task in range(1, 9):
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **make_variables(task)}
        done = subprocess.run(
            ["/bin/sh", "-c", expand(find_line(scheduler, command), task)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 8  # the scheduler sees the exit code as it is
        arguments = done.stdout.splitlines()
        assert arguments[: len(COMMANDS[command])] == COMMANDS[command]
        shards.append(Shard.parse(arguments[arguments.index("--shard") + 1]))
    assert shards == [Shard(number, 8) for number in range(1, 9)]


@pytest.mark.parametrize("line", [line for line in PAGE.splitlines() if line.startswith(("$ dni-deploy", "dni-deploy"))])
def test_lines_have_options_that_exist(line: str) -> None:
    words = line.removeprefix("$ ").partition("#")[0].split()[1:]
    command = group.get_command(None, words[0])  # type: ignore[arg-type]
    assert command is not None
    known = {spelling for parameter in command.params for spelling in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known
