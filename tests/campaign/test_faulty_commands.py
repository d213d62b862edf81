"""A command whose disk fails, or that is killed, loses nothing, mixes nothing and says so in one sentence."""

from __future__ import annotations

import errno
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.campaign.faulty_commands import COMMANDS, Fault, Result, build_shim, judge_fault, run_rig
from tests.campaign.seeded_defects import find_seed

OLD, NEW = {"o": "old", "x.dni/": "", "x.dni/a": "1"}, {"o": "new", "x.dni/": "", "x.dni/a": "1"}
ERROR = "dni-deploy: error: There is no room."


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    for name in ("work", "tmp"):
        (tmp_path / name).mkdir()
    return SimpleNamespace(folder=tmp_path, work=tmp_path / "work", explain_bundle=lambda: "")


@pytest.mark.parametrize(
    ("state", "code", "text", "expected"),
    [
        (OLD, 6, ERROR, ""),
        (NEW, 6, ERROR, ""),
        (NEW, 0, "", ""),
        (OLD, 0, "", "exit 0"),
        (OLD, 1, "dni-deploy: error: a bug in dni-deploy: OSError", "exit 1"),
        (OLD, 6, f"{ERROR}\n{ERROR}", "exit 6"),
        (OLD, 3, "Traceback", "exit 3"),
        (OLD, None, "", "the child died"),
        ({**OLD, "o": "half"}, 6, ERROR, "neither old nor new"),
        ({"x.dni/": "", "x.dni/a": "1"}, 6, ERROR, "gone"),
        ({**OLD, ".o.1-a.part": "x"}, 6, ERROR, "left over"),
    ],
)
def test_the_judge_finds_what_is_wrong(
    bench: Any, monkeypatch: pytest.MonkeyPatch, state: dict[str, str], code: int | None, text: str, expected: str
) -> None:
    monkeypatch.setattr("tests.campaign.faulty_commands.snapshot", lambda folder: state)
    fault = Fault("write", errno.ENOSPC, 1, False)
    problem = judge_fault(bench, fault, Result(code, 1, 1, text), OLD, NEW)
    assert expected in problem
    assert bool(problem) == bool(expected)


def run(mode: str, folder: Path, tries: int | None) -> None:
    if build_shim(folder) is None:
        pytest.skip("needs a C compiler and Linux")
    result = run_rig(mode, folder, [], tries, int(find_seed()[:6], 16))
    assert result.returncode == 0, result.stdout
    counts = re.findall(rf"^\S+: (\d+) (?:of \d+ )?{mode}", result.stdout, re.MULTILINE)
    assert len(counts) == len(COMMANDS)
    assert all(map(int, counts)), result.stdout


@pytest.mark.slow
def test_a_sample_of_faults_of_every_command(tmp_path: Path) -> None:
    run("faults", tmp_path, 8)


@pytest.mark.slow
def test_three_kills_of_every_command(tmp_path: Path) -> None:
    run("kills", tmp_path, 3)


@pytest.mark.campaign
def test_every_fault_of_every_command(tmp_path: Path) -> None:
    run("faults", tmp_path, None)


@pytest.mark.campaign
def test_a_hundred_kills_of_every_command(tmp_path: Path) -> None:
    run("kills", tmp_path, 100)
