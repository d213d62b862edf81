"""docs/frames.md: its example runs as printed, and its figures equal the benchmark's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import dni_deploy as dni

pytest.importorskip("torch", reason="the bundle is exported by PyTorch (extra `export`)")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "frames.md").read_text(encoding="utf-8")
FIGURES = json.loads((ROOT / "benchmarks" / "results" / "frames.json").read_text(encoding="utf-8"))


def test_documented_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.support.pico_architectures import pico_family

    dni.export(dict(zip(("psnr", "gan"), pico_family("compact", 2), strict=True)), tmp_path / "sr.dni")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.S | re.M)
    exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in printed] == [f"psnr={share:g}" for share in (0, 0.25, 0.5, 0.75)] * 2


def test_documented_figures_are_those_of_the_benchmark() -> None:
    for size, comparison in FIGURES["conversion around the network"].items():
        assert f"{comparison['ways']['ours']['over plain NumPy'][0]:.2f}" in find_row(size)
    compact = FIGURES["Compact 24x8, x2, 640x360"]
    assert f"{1 / compact['steady']['ways']['session.stream(frames)']['over infer alone'][0]:.2f}" in find_row("session.stream")
    own = compact["an alpha for every frame"]["ways"]["session(frame, alpha=...)"]["over set alpha, then session(frame)"]
    assert f"{own[0]:.2f}" in find_row("session(frame, alpha=a)")
    film = FIGURES["Compact 24x8, x2, 640x360, video"]["ways"]["dni-deploy video"]["over the simplest script"]
    assert f"{1 / film[0]:.2f}" in find_row("dni-deploy video")
    viewers = FIGURES["an alpha for each of 16 threads"]
    assert f"{viewers['wrong']} of {viewers['frames']:,}" in find_row("16 threads")
    assert FIGURES["cpu"] in PAGE.replace("\n", " ")


def find_row(text: str) -> str:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("|") and text in line and " at " in line]
    return row
