"""docs/alpha.md: every example is parsed, set or run as printed."""

from __future__ import annotations

import http.client
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.alpha.source import open_alpha_source
from dni_deploy.control.http import HttpAlphaListener
from dni_deploy.control.message_handler import AlphaMessageHandler
from dni_deploy.control.stdin import StdinAlphaListener
from tests.dni_deploy.control.listening import TWO, RecordedReports, new_shared_alpha, wait_until
from tests.support.shell_blocks import find_shell_blocks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "alpha.md").read_text(encoding="utf-8")
FOUR = ("fine-mosaic", "fine-fire", "coarse-mosaic", "coarse-fire")


def blocks(language: str) -> list[str]:
    matches = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.S | re.M)
    assert matches, language
    return matches


@pytest.mark.parametrize("text", [line for block in blocks("alpha") for line in block.splitlines()])
def test_documented_alphas_are_parsed(text: str) -> None:
    source = open_alpha_source(text, TWO)
    coefficients = {Coefficients.parse(source.at(frame / 25, frame), TWO) for frame in range(0, 200, 7)}
    assert (len(coefficients) == 1) == (":" not in text and "(" not in text)


@pytest.mark.parametrize("kind", ["json", "csv", "jsonl"])
def test_documented_files_are_read(kind: str, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(kind)):
        path = tmp_path / f"{number}.{kind}"
        path.write_text(block, encoding="utf-8")
        members = FOUR if "plane" in block else TWO
        if '"plane"' in block and "keyframes" not in block:
            assert ControlPlane.read(path, FOUR).at(1, 0) == Coefficients.one_hot("fine-fire", FOUR)
            continue
        source = open_alpha_source(path, members)
        assert source.at(0, 0) != source.at(1.5, 2)
    if kind == "json":
        assert (
            open_alpha_source(_saved(tmp_path / "curve.json", re.findall(r'`(\{"curve".*?\})`', PAGE)[0]), TWO)
            .at(2, 0)
            .values[1]
            == 1
        )


def _saved(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_documented_alpha_lines_are_parsed() -> None:
    [block] = blocks("lines")
    shared_alpha, reports = new_shared_alpha(), RecordedReports()
    with StdinAlphaListener(shared_alpha, io.StringIO(block), report=reports) as listener:
        wait_until(lambda: listener.accepted_count == 4)
    assert not reports.sentences


def test_documented_curl_commands_set_alpha() -> None:
    [block] = find_shell_blocks("docs/alpha.md")
    with HttpAlphaListener(new_shared_alpha(), 0, report=RecordedReports()) as listener:
        for line in block.commands:
            words = shlex.split(line)
            method, body = ("PUT", words[words.index("--json") + 1]) if "-X" in words else ("GET", None)
            headers = dict(words[place + 1].split(": ", 1) for place, word in enumerate(words) if word == "-H")
            headers["Authorization"] = headers["Authorization"].replace("$TOKEN", str(listener.token))
            headers |= {"Content-Type": "application/json"} if "--json" in words else {}
            assert words[-1] == "http://127.0.0.1:9124/alpha"
            connection = http.client.HTTPConnection("127.0.0.1", listener.port)
            connection.request(method, "/alpha", body, headers)
            answer = connection.getresponse()
            assert answer.status == 200, line
            assert set(json.loads(answer.read())) >= {"sequence", "alpha", "wanted", "source"}
            connection.close()
        assert listener.accepted_count == 3
    handler = AlphaMessageHandler(new_shared_alpha(FOUR), "x", ControlPlane.default(FOUR))
    handler.set_from_line("plane 0.3 0.7")


def test_documented_python_block_runs() -> None:
    [block] = blocks("python")
    process = subprocess.run(
        [sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[1:] == ["psnr=0.5, gan=0.5", "psnr=0.42, gan=0.58", "psnr=0.34, gan=0.66"]


def test_links_of_the_page_resolve() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", PAGE) if not target.startswith("http")]
    assert targets
    assert not [target for target in targets if not (ROOT / "docs" / target).exists()]
