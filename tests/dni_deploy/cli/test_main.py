"""The command line: what goes to stdout and to stderr, and the exit code of every kind of error."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dni_deploy import errors
from dni_deploy.cli import dispatch as door
from dni_deploy.cli import options, output
from dni_deploy.cli.commands import COMMANDS, format_help_summary
from dni_deploy.cli.main import main
from dni_deploy.cli.output import CommandOutput
from dni_deploy.errors import UsageError
from dni_deploy.utils import optional_packages

ROOT = Path(__file__).parents[3]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _keep_sigterm() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def child(*args: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **settings.pop("env", {})}
    command = [sys.executable, "-m", "dni_deploy", *args]
    given = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "cwd": ROOT, "timeout": 60, "env": environment}
    return subprocess.run(command, **{**given, **settings})


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Put a function in the place of the verb that `doctor` calls, which needs no arguments and no file."""

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
def test_an_error_is_one_sentence_and_its_code(kind: type[errors.DniError], verb: Any, capsys: Capture) -> None:
    verb(raising(kind("It went wrong.")))
    assert main(["doctor"]) == kind.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "dni-deploy: error: It went wrong.\n"


def test_an_error_as_json(verb: Any, capsys: Capture) -> None:
    verb(raising(errors.CheckpointError("It went wrong.")))
    assert main(["doctor", "--json"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {
        "schema": 2,
        "error": {"kind": "CheckpointError", "message": "It went wrong.", "exit_code": 3},
    }


def test_a_message_cannot_move_the_cursor(verb: Any, capsys: Capture) -> None:
    verb(raising(errors.InputError("first\x1b[2J\nsecond\u202e")))
    main(["doctor"])
    assert capsys.readouterr().err == "dni-deploy: error: first\\x1b[2J\nsecond\\u202e\n"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 6, "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "x.dni"), 6, "x.dni: No space left on device."),
        (PermissionError(errno.EACCES, "Permission denied", "x.dni"), 3, "x.dni: Permission denied."),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 7, "pip install 'dni-deploy[export]'"),
        (ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.pyplot"), 7, "dni-deploy[report]"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_other_errors(error: BaseException, code: int, said: str, verb: Any, capsys: Capture) -> None:
    verb(raising(error))
    assert main(["doctor"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_bug_is_called_one_and_keeps_its_traceback(verb: Any, capsys: Capture, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    verb(raising(KeyError("secret")))
    assert main(["doctor"]) == 1
    err = capsys.readouterr().err
    assert "a bug in dni-deploy: KeyError" in err
    assert "Traceback" not in err
    [saved] = tmp_path.iterdir()
    assert str(saved) in err
    assert "in raising" in saved.read_text() or "in function" in saved.read_text()


def test_debug_shows_the_traceback(verb: Any, capsys: Capture) -> None:
    verb(raising(errors.InputError("It went wrong.")))
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


def test_junk_in_the_environment_is_a_usage_error() -> None:
    done = child("run", "a.dni", "b.png", "-o", "c.png", "--alpha", "1", env={"DNI_RUN_THREADS": "abc"})
    assert (done.returncode, done.stdout) == (2, "")
    assert "abc" in done.stderr


def test_the_front_page_has_one_source(capsys: Capture) -> None:
    main([])
    main(["-h"])
    main(["-q", "--help"])  # this one goes through click
    assert capsys.readouterr().out == (format_help_summary() + "\n") * 3


def test_version(capsys: Capture) -> None:
    main(["--version"])
    main(["-q", "--version"])
    first, second = capsys.readouterr().out.splitlines()
    assert first == second == "dni-deploy 0.1.0"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: Capture) -> None:
    assert main(["completion", shell]) == 0
    assert door.COMPLETE_VARIABLE in capsys.readouterr().out


def test_completion_answers() -> None:
    done = child(env={door.COMPLETE_VARIABLE: "bash_complete", "COMP_WORDS": "dni-deploy in", "COMP_CWORD": "1"})
    assert done.stdout == "plain,inspect\n"


def test_a_reader_who_leaves_ends_it_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "dni_deploy", "doctor"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            timeout=60,
        )
    assert done.stderr == ""
    assert done.returncode == door.EXIT_PIPE_CLOSED


def test_without_stdout_and_home() -> None:
    command = f"{sys.executable} -m dni_deploy doctor >&-"
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "TERM", "LANG", "TMPDIR")}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_encoding_that_lacks_the_letters_is_no_error() -> None:
    done = child("doctor", env={"PYTHONIOENCODING": "ascii", "DNI_CACHE": "/tmp/größe"})
    assert done.returncode == 0, done.stderr
    assert "/tmp/gr" in done.stdout


def test_ctrl_c_and_sigterm() -> None:
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


def on_a_terminal(code: str, **environment: str) -> str:
    """What a process shows when stdout and stderr are a terminal."""
    here, there = pty.openpty()
    settings = {**os.environ, "TERM": "xterm-256color", **environment}
    process = subprocess.Popen([sys.executable, "-c", code], stdin=there, stdout=there, stderr=there, cwd=ROOT, env=settings)
    os.close(there)
    shown, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        try:
            read = os.read(here, 4096)
        except OSError:  # the terminal is closed
            break
        if not read:
            break
        shown += read
    process.wait(timeout=20)
    os.close(here)
    return shown.decode()


STEPS = """
from dni_deploy.cli.output import CommandOutput
with CommandOutput().show_progress() as progress:
    if progress: [progress(step, 3, 'half\\x1b[2J way') for step in range(4)]
print('done')
"""


def test_progress_only_on_a_terminal() -> None:
    assert "half\\x1b[2J way" in on_a_terminal(STEPS)
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_no_color() -> None:
    code = "from dni_deploy.cli.output import print_table; print_table(['a', 'b'], [['x', 1]])"
    assert "\x1b[" not in on_a_terminal(code, NO_COLOR="1").replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_tables_off_a_terminal_are_never_wrapped(capsys: Capture) -> None:
    output.print_table(["name", "share"], [["x" * 150, 0.5], ["y\n", "12"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "x" * 150 + "    0.5"
    assert lines[2].startswith("y\\n ")


def test_json_is_all_there_is(capsys: Capture) -> None:
    main(["doctor", "--json"])
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert err == ""
    assert (told["schema"], told["command"]) == (2, "doctor")


def test_json_has_no_infinity(capsys: Capture) -> None:
    CommandOutput(json=True).print_result("x", {"psnr": [float("inf"), 31.5], "by": {"name": float("nan")}})
    assert json.loads(capsys.readouterr().out) == {"schema": 2, "command": "x", "psnr": [None, 31.5], "by": {"name": None}}


def test_member_arguments(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.pth"
    odd.touch()
    assert options.parse_members(("psnr=x/1.pth", "gan.pth")) == {"psnr": Path("x/1.pth"), "gan": Path("gan.pth")}
    assert options.parse_members((str(odd),)) == {"a=b": odd}
    assert options.parse_members(("x=a=b.pth",)) == {"x": Path("a=b.pth")}
    with pytest.raises(UsageError, match="Two members"):
        options.parse_members(("a=1", "a=2"))


@pytest.mark.parametrize(("text", "pair"), [("0..1", (0, 1)), ("-1..1", (-1, 1)), ("0..255", (0, 255)), (None, None)])
def test_ranges(text: str | None, pair: tuple[float, float] | None) -> None:
    assert options.parse_value_range(text) == pair


@pytest.mark.parametrize("text", ["", "1", "1..0", "a..b", "nan..1", "0..inf", "..", "0..0"])
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(UsageError, match="LO"):
        options.parse_value_range(text)


@pytest.mark.parametrize(("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (3_400_000, "3.4 MB"), (2e12, "2000.0 GB")])
def test_sizes(count: float, text: str) -> None:
    assert output.format_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0003, "0.30 ms"), (0.042, "42 ms"), (3.14, "3.1 s")])
def test_spans(seconds: float, text: str) -> None:
    assert output.format_seconds(seconds) == text


def test_a_package_that_hides_a_bay_is_named(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "__init__.py").write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\nimport dni_deploy\n"
    code += "try: dni_deploy.open_session\nexcept dni_deploy.DniError as error: print(type(error).__name__, error)"
    # The first lookup of DniError needs the bays too, so the handler reaches for its home.
    code = code.replace("dni_deploy.DniError", "__import__('dni_deploy.errors').errors.DniError")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.stdout.startswith("UnavailableError Another package named 'engines' hides")
    assert str(tmp_path) in done.stdout


def test_missing_packages_are_ours_or_not() -> None:
    assert optional_packages.explain_missing_package(ModuleNotFoundError("x", name="something_else")) is None
    assert optional_packages.explain_missing_package(ModuleNotFoundError("x")) is None
    told = optional_packages.explain_missing_package(ModuleNotFoundError("x", name="onnxruntime.capi"))
    assert "dni-deploy[cpu]" in str(told)


def test_every_package_is_in_the_extra_that_is_named_for_it() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    other_name = {"pythonosc": "python-osc", "rtmidi": "python-rtmidi", "skimage": "scikit-image"}
    for module, extra in optional_packages.EXTRA_BY_PACKAGE.items():
        package = other_name.get(module, module)
        if package != "torchvision":  # spandrel brings it
            listed = re.findall(rf"^{extra} = \[(.*)\]$", text, re.M)
            assert re.search(rf'"{package}(-gpu)?[<>=]', *listed), f"{extra} lacks {package}"


def test_unknown_names_are_attribute_errors() -> None:
    import dni_deploy

    with pytest.raises(AttributeError, match="nonsense"):
        _ = dni_deploy.nonsense
    assert "export" in dir(dni_deploy)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(name: str, capsys: Capture) -> None:
    assert main([name, "-h"]) == main([name, "--help"]) == 0
    assert capsys.readouterr().out.count(f"Usage: dni-deploy {name}") == 2
