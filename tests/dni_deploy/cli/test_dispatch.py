"""Every error becomes one sentence on stderr and the exit code of its kind; signals and closed pipes end a command quietly."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dni_deploy import errors
from dni_deploy.cli import dispatch
from dni_deploy.cli.main import main
from dni_deploy.utils.install_line import format_install_line
from tests.support import pico_bundle as pico

ROOT = Path(__file__).parents[3]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _keep_sigterm() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def replace_doctor(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Replaces the function that `doctor` calls, a command that needs no arguments and no file."""

    def put(function: Callable[..., Any]) -> None:
        monkeypatch.setattr("dni_deploy.api.doctor.doctor", function)

    return put


def raising(error: BaseException) -> Callable[[], Any]:
    def function() -> Any:
        raise error

    return function


KINDS = list(
    dict.fromkeys(kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.DniError))
)


@pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: kind.__name__)
def test_an_error_is_one_sentence_and_its_code(kind: type[errors.DniError], replace_doctor: Any, capsys: Capture) -> None:
    replace_doctor(raising(kind("It went wrong.")))
    assert main(["doctor"]) == kind.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "dni-deploy: error: It went wrong.\n"


def test_an_error_is_one_json_object(replace_doctor: Any, capsys: Capture) -> None:
    replace_doctor(raising(errors.CheckpointError("It went wrong.")))
    assert main(["doctor", "--json"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {
        "schema": 2,
        "error": {"kind": "CheckpointError", "message": "It went wrong.", "exit_code": 3},
    }


def test_control_characters_of_an_error_message_are_escaped(replace_doctor: Any, capsys: Capture) -> None:
    replace_doctor(raising(errors.InputError("first\x1b[2J\nsecond\u202e")))
    main(["doctor"])
    assert capsys.readouterr().err == "dni-deploy: error: first\\x1b[2J\nsecond\\u202e\n"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 6, "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "x.dni"), 6, "x.dni: No space left on device."),
        (PermissionError(errno.EACCES, "Permission denied", "x.dni"), 3, "x.dni: Permission denied."),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 7, format_install_line("export")),
        (ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.pyplot"), 7, format_install_line("report")),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_errors_of_other_kinds_have_their_exit_codes(
    error: BaseException, code: int, message: str, replace_doctor: Any, capsys: Capture
) -> None:
    replace_doctor(raising(error))
    assert main(["doctor"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_an_internal_error_is_reported_as_a_bug_with_its_traceback(
    replace_doctor: Any, capsys: Capture, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    replace_doctor(raising(KeyError("secret")))
    assert main(["doctor"]) == 1
    err = capsys.readouterr().err
    assert "a bug in dni-deploy: KeyError" in err
    assert "Traceback" not in err
    [saved] = tmp_path.iterdir()
    assert str(saved) in err
    assert "in raising" in saved.read_text() or "in function" in saved.read_text()


def test_debug_shows_the_traceback(replace_doctor: Any, capsys: Capture) -> None:
    replace_doctor(raising(errors.InputError("It went wrong.")))
    assert main(["--debug", "doctor"]) == main(["doctor", "--debug"]) == 3
    assert capsys.readouterr().err.count("Traceback") == 2


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["--nonsense"],
        ["doctor", "--nonsense"],
        ["run", "a.dni"],
        ["run", "a.dni", "b.png", "-o", "c.png"],
        ["run", "a.dni", "b.png", "-o", "c.png", "--alpha", "1", "--tile", "many"],
        ["run", "a.dni", "b.png", "-o", "c.png", "--alpha", "1", "--engine", "abacus"],
        ["bench", "a.dni", "--shape", "3x4"],
        ["export", "a=1.pth", "a=2.pth", "-o", "a.dni"],
        ["export", "x/net.pth", "y/net.pth", "-o", "a.dni"],
        ["export", "a=", "b=2.pth", "-o", "a.dni"],
        ["export", "a=1.pth", "b=2.pth", "-o", "a.dni", "--range", "1..-1"],
        ["export", "a=1.pth", "b=2.pth", "-o", "a.dni", "--opset", "9"],
        ["completion", "tcsh"],
    ],
    ids=" ".join,
)
def test_usage_errors_are_one_line_and_2(args: list[str], capsys: Capture) -> None:
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dni-deploy: error: ")
    assert err.count("\n") == 1


def test_a_reader_that_closes_the_pipe_ends_a_command_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        process = subprocess.run(
            [sys.executable, "-m", "dni_deploy", "doctor"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
    assert process.stderr == ""
    assert process.returncode == dispatch.EXIT_PIPE_CLOSED


def test_ctrl_c_and_sigterm_end_a_command_quietly() -> None:
    code = "import sys, time; import dni_deploy.api.doctor as home\nhome.doctor = lambda: (print('up', flush=True), time.sleep(30))\n"
    code += "from dni_deploy.cli.main import main; sys.exit(main(['doctor']))"
    for number, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == expected
        assert "Traceback" not in err


def test_json_is_the_only_output_on_stdout(capsys: Capture) -> None:
    main(["doctor", "--json"])
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == ""
    assert (report["schema"], report["command"]) == (2, "doctor")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"], ["-h"]])
def test_a_full_disk_under_stdout_is_said_and_code_6(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        child = subprocess.run(
            [sys.executable, "-m", "dni_deploy", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
    assert child.returncode == 6
    assert child.stderr.count("\n") == 1
    assert "stdout: No space left on device" in child.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_that_end_a_command_unwind_it(name: str, replace_doctor: Any) -> None:
    unwound = list[int]()

    def wait() -> Any:
        try:
            os.kill(os.getpid(), getattr(signal, name))
        finally:
            unwound.append(1)

    before = signal.getsignal(getattr(signal, name))
    replace_doctor(wait)
    try:
        with pytest.raises(SystemExit) as stop:
            main(["doctor"])
    finally:
        signal.signal(getattr(signal, name), before)
    assert (stop.value.code, unwound) == (128 + getattr(signal, name), [1])


def test_a_signal_that_is_ignored_stays_so(replace_doctor: Any) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    replace_doctor(raising(errors.InputError("It went wrong.")))
    try:
        assert main(["doctor"]) == 3
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_variable_does_not_replace_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    (tmp_path / "old.onnx").write_bytes(b"old")
    bundle = pico.write(tmp_path / "x.dni").path
    monkeypatch.setenv("DNI_REFIT_FORCE", "1")
    monkeypatch.setenv("DNI_REFIT_ALPHA", "0.5")
    assert main(["refit", str(bundle), "-o", str(tmp_path / "old.onnx")]) == 2
    assert "exists; give --force" in capsys.readouterr().err
    assert main(["refit", str(bundle), "-o", str(tmp_path / "new.onnx")]) == 0  # while other options take theirs
    assert (tmp_path / "old.onnx").read_bytes() == b"old"
