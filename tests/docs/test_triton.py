"""docs/triton.md: the files, inputs and options that it names are those of a model that is written, and its client's code is whole."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import dni_deploy as dni
from dni_deploy.cli.main import main
from dni_deploy.model_repository import probe
from tests.support import served_bundle

PAGE = (Path(__file__).parents[2] / "docs" / "triton.md").read_text("utf-8")


def find_block(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.S | re.M)
    return str(block)


def test_the_files_are_those_of_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    served_bundle.write(tmp_path / "sr.dni")
    command = re.findall(r"^    (dni-deploy triton .*)$", PAGE, re.M)[0]
    assert main(shlex.split(command)[1:]) == 0
    named = {line.split()[0] for line in find_block("text").splitlines()}
    written = {path.as_posix() for path in Path("models").rglob("*") if path.is_file() and path.parent.name != "bundle.dni"}
    assert named == written | {"models/sr/1/bundle.dni/"}


def test_the_tensors_are_those_of_a_model(tmp_path: Path) -> None:
    report = dni.triton(served_bundle.write(tmp_path / "sr.dni"), tmp_path / "models")
    rows = re.findall(r"^\| `(\w+)` \| (UINT8|FP32) (\[.*?\])(?: or \[.*?\])?(, optional)? \|", PAGE, re.M)
    described = {(name.replace("NAME", "gain"), kind, bool(optional)) for name, kind, _, optional in rows}
    tensors = [*report.inputs.items(), *report.outputs.items()]
    assert described == {(name, text.split()[0], text.endswith("optional")) for name, text in tensors}


def test_the_client_is_whole() -> None:
    names = {node.id for node in ast.walk(ast.parse(find_block("python"))) if isinstance(node, ast.Name)}
    assert {"client", "render", "frame"} <= names


def test_the_probe_is_called_as_it_can_be(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["probe.py", "--help"])
    with pytest.raises(SystemExit):
        probe.main()
    text = capsys.readouterr().out
    used = set(re.findall(r"(?:probe\.py[\w\"', ]*?|`)(--(?:watch|server|timeout)\b)", PAGE))
    assert used == {"--watch", "--server", "--timeout"}
    assert all(option in text for option in used)
