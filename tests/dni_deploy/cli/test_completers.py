"""The shell completes members, engines, and in PowerShell everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from dni_deploy.cli import completers
from dni_deploy.cli.commands import COMPLETE_VARIABLE
from dni_deploy.cli.completers import ENGINE_NAMES
from dni_deploy.cli.main import main
from engines.registry import ENGINES
from tests.support import pipe_bundle

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pipe_bundle.write(tmp_path / "my sr.dni", names=("psnr", "gan"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complete(line: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> list[str]:
    """Returns the values that are offered for the last word of a line."""
    monkeypatch.setenv(COMPLETE_VARIABLE, "powershell_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", line.rpartition(" ")[2])
    assert main([]) == 0
    return [row.split("\t")[1] for row in capsys.readouterr().out.splitlines() if row.startswith("plain")]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("dni-deploy ru", ["run"]),
        ("dni-deploy run --alpha-m", ["--alpha-map", "--alpha-map-to", "--alpha-map-fit", "--alpha-map-error"]),
        ("dni-deploy run 'my sr.dni' in.png --alpha ", ["psnr=", "gan="]),
        ('dni-deploy run "my sr.dni" in.png --alpha G', ["gan="]),
        ("dni-deploy filter 'my sr.dni' --alpha psnr=0.3,", ["psnr=0.3,gan="]),
        ("dni-deploy run 'my sr.dni' --alpha psnr=0.3,gan=0", []),
        ("dni-deploy run nothing.dni --alpha ", []),
        ("dni-deploy run C:\\pictures\\in.png --engine onnx", ["onnxruntime-gpu", "onnxruntime"]),
        ("dni-deploy run 'my sr.dni' in", []),
        ("dni-deploy completion p", ["powershell"]),
    ],
)
def test_a_word_is_completed(
    line: str, values: list[str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert complete(line, monkeypatch, capsys) == values


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_each_shell_has_a_script(shell: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.shell_completion.BashComplete._check_version", lambda *arguments: None)
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert COMPLETE_VARIABLE in script
    assert f"{shell}_complete" in script
    assert "%(" not in script


def test_engines_are_those_of_the_registry() -> None:
    assert ("auto", *ENGINES) == ENGINE_NAMES


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"members": [1]}', '{"members": [{"name": "\\u001b[31m"}]}', "\x00"])
def test_a_damaged_bundle_completes_nothing(manifest: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    assert completers._read_members(tmp_path) == []
