"""Results go to stdout, everything else to stderr; tables, JSON and numbers have the form that scripts rely on."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dni_deploy.cli import output
from dni_deploy.cli.output import CommandOutput

ROOT = Path(__file__).parents[3]
Capture = pytest.CaptureFixture[str]


def on_a_terminal(code: str, **environment: str) -> str:
    """Returns the output of a process whose stdout and stderr are a terminal."""
    controller, terminal = pty.openpty()
    settings = {**os.environ, "TERM": "xterm-256color", **environment}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT, env=settings
    )
    os.close(terminal)
    received, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        try:
            read = os.read(controller, 4096)
        except OSError:  # the terminal is closed
            break
        if not read:
            break
        received += read
    process.wait(timeout=20)
    os.close(controller)
    return received.decode()


STEPS = """
from dni_deploy.cli.output import CommandOutput
command_output = CommandOutput()
with command_output.show_progress() as progress:
    if progress: [progress(step, 3, 'half\\x1b[2J way') for step in range(4)]
    command_output.print_event('failed', {}, 'one\\x1b[2J failed')
print('done')
"""


def test_progress_only_on_a_terminal() -> None:
    shown = on_a_terminal(STEPS)
    assert "half\\x1b[2J way" in shown
    assert "\r\x1b[2Kdni-deploy: one\\x1b[2J failed\r\n" in shown  # in the place of the bar, which is drawn again below
    process = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (process.stdout, process.stderr) == ("done\n", "dni-deploy: one\\x1b[2J failed\n")


def test_no_color() -> None:
    code = "from dni_deploy.cli.output import print_table; print_table(['a', 'b'], [['x', 1]])"
    assert "\x1b[" not in on_a_terminal(code, NO_COLOR="1").replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_tables_off_a_terminal_are_never_wrapped(capsys: Capture) -> None:
    output.print_table(["name", "share"], [["x" * 150, 0.5], ["y\n", "12"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "x" * 150 + "    0.5"
    assert lines[2].startswith("y\\n ")


def test_json_has_no_infinity(capsys: Capture) -> None:
    CommandOutput(json=True).print_result("x", {"psnr": [float("inf"), 31.5], "by": {"name": float("nan")}})
    assert json.loads(capsys.readouterr().out) == {"schema": 2, "command": "x", "psnr": [None, 31.5], "by": {"name": None}}


@pytest.mark.parametrize(("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (3_400_000, "3.4 MB"), (2e12, "2000.0 GB")])
def test_sizes(count: float, text: str) -> None:
    assert output.format_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0003, "0.30 ms"), (0.042, "42 ms"), (3.14, "3.1 s")])
def test_durations_are_formatted_with_their_unit(seconds: float, text: str) -> None:
    assert output.format_seconds(seconds) == text


def test_a_table_without_rows_shows_only_its_headers(capsys: Capture) -> None:
    output.print_table(["name", "share"], [])
    assert capsys.readouterr().out == "name  share\n"


def test_columns_of_numbers_are_aligned_to_the_right(capsys: Capture) -> None:
    output.print_table(["name", "took"], [["a", "9.50 ms"], ["b", "-"], ["c", "12 ms"]])
    assert capsys.readouterr().out.splitlines() == ["name     took", "a     9.50 ms", "b           -", "c       12 ms"]


def test_a_summary_leaves_out_what_is_unknown(capsys: Capture) -> None:
    output.print_summary({"wrote": "a\x1b.png", "precision": None, "notes": "", "error": 0})
    assert capsys.readouterr().out == "wrote  a\\x1b.png\nerror  0\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    """The first line comes after the interval, so that what takes less has none."""
    now = 100.0
    monkeypatch.setattr("dni_deploy.cli.output.time.monotonic", lambda: now)
    monkeypatch.setattr("dni_deploy.cli.output.LINE_INTERVAL_S", 5.0)
    with CommandOutput(json=as_json).show_progress() as progress:
        assert progress is not None
        for seconds, done in ((104.9, 1), (105.0, 2), (109.0, 3), (110.5, 4)):
            now = seconds
            progress(done, 9, "2.0 frames/s, 0:00:03 left")
        now = 120.0
        progress(5, 0, "2.0 frames/s")
    lines = capsys.readouterr().err.splitlines()
    if as_json:
        assert [json.loads(line)["progress"]["done"] for line in lines] == [2, 4, 5]
        assert json.loads(lines[0])["schema"] == 2
    else:
        assert lines == [
            "dni-deploy: 2 of 9, 2.0 frames/s, 0:00:03 left",
            "dni-deploy: 4 of 9, 2.0 frames/s, 0:00:03 left",
            "dni-deploy: 5, 2.0 frames/s",
        ]
    with CommandOutput(json=as_json, quiet=True).show_progress() as progress:
        assert progress is None
