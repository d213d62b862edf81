"""docs/check.md: its examples run as printed, and its tables equal the results."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.features.check_table import format_table, format_undecided_table
from dni_deploy.cli.main import main
from dni_deploy.compatibility.verdict import Cause
from tests.support.shell_blocks import find_shell_blocks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """psnr.pth, gan.pth, sr.dni, in.png and clean.png."""
    torch = pytest.importorskip("torch")
    from dni_deploy.api.export import export
    from tests.support.pico_architectures import pico_family

    states = dict(zip(("psnr", "gan"), pico_family("dncnn", 2), strict=True))
    for name, state in states.items():
        torch.save({key: torch.from_numpy(values) for key, values in state.items()}, tmp_path / f"{name}.pth")
    export(states, tmp_path / "sr.dni")
    for name in ("in", "clean"):
        Image.fromarray(np.random.default_rng(2).integers(0, 256, (100, 120, 3), np.uint8)).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_documented_console_block_runs(folder: Path) -> None:
    [block] = [block for block in find_shell_blocks("docs/check.md") if not block.mark]
    for line in block.commands:
        assert main(shlex.split(line)[1:]) == 0, line
    assert (folder / "report.html").exists()


def test_documented_python_block_runs(folder: Path) -> None:
    [block] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.S | re.M)
    exec(compile(block, "check.md", "exec"), {})


def test_page_tables_equal_the_results() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "check.json").read_text())
    assert format_table(result) in PAGE
    assert format_undecided_table(result) in PAGE
    assert (result["twelve_right"], len(result["twelve"])) == (12, 12)


def test_every_cause_is_on_the_page() -> None:
    for cause in Cause.__args__:  # type: ignore[attr-defined]
        assert f"`{cause}`" in PAGE


def test_links_of_the_page_resolve() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", PAGE) if not target.startswith("http")]
    assert targets
    assert not [target for target in targets if not (ROOT / "docs" / target).exists()]
