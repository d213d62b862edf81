"""docs/alpha-map.md: its commands and its Python run as printed, and its numbers equal those of its script."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.docs.test_readme import ROOT, folder, run_documented
from tests.support.shell_blocks import find_shell_blocks

__all__ = ["folder"]  # a fixture

PAGE = (ROOT / "docs" / "alpha-map.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.S | re.M)


@pytest.fixture
def folder_with_masks(folder: Path) -> Path:
    """Adds sr.dni, mask.png, in.mp4 and matte.mp4, all of 32x24, to the README's folder."""
    pytest.importorskip("av")
    from tests.support.gray_video import grey_film
    from tests.support.video_clips import Clip

    run_documented("dni-deploy export psnr=psnr.pth gan=gan.pth -o sr.dni")
    gray = np.linspace(0, 255, 32).astype(np.uint8)[None].repeat(24, axis=0)
    Image.fromarray(gray).save(folder / "mask.png")
    Clip(width=32, height=24, frames=6).write(folder / "in.mp4")
    grey_film(folder / "matte.mp4", np.stack([np.roll(gray, 3 * shift, axis=1) for shift in range(6)]))
    return folder


def test_documented_blocks_run(folder_with_masks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [block] = find_shell_blocks("docs/alpha-map.md")
    assert len(block.commands) == 5
    for command in block.commands:
        run_documented(command)
    assert {"out.png", "face.png", "measured.png", "out.mp4", "moved.mp4"} <= {
        path.name for path in folder_with_masks.iterdir()
    }
    [python] = blocks("python")
    capsys.readouterr()
    exec(compile(python, "alpha-map.md", "exec"), {})
    assert capsys.readouterr().out.startswith("(96, 128, 3) ['psnr=0, gan=1', 'psnr=0.1, gan=0.9']")


@pytest.mark.slow
def test_page_numbers_equal_those_of_the_script(tmp_path: Path) -> None:
    """0.03 dB and a fifth of an error: on another machine the order of sums may change some roundings."""
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("generate_alpha_map", ROOT / "docs" / "generate_alpha_map.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    figures = script.main(tmp_path)
    assert (tmp_path / "alpha-map.png").exists()
    assert figures["best alpha"] == {"everywhere": 0.15, "head": 0.9, "rest": 0.05}
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
    for name, measured in figures["psnr"].items():
        [row] = [row for row in rows if row[0].startswith(name)]
        assert np.abs(np.array(row[1:], float) - measured).max() <= 0.03
    for levels, measured in figures["converged"].items():
        [row] = [row for row in rows if re.fullmatch(rf"{levels}( \(default\))?", row[0])]
        numbers = np.array([measured[key] for key in ("largest", "99 percent", "mean", "work")])
        assert (np.abs(np.array(row[1:], float) - numbers) <= 0.2 * numbers + 0.05).all()


def test_links_of_the_page_resolve() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", PAGE) if not target.startswith("http")]
    paths = re.findall(r"`((?:dni_deploy|benchmarks|tests|docs)/[\w./]+)`", PAGE)
    assert len(targets) > 2
    assert len(paths) > 2
    assert not [target for target in targets if not (ROOT / "docs" / target).exists()]
    assert not [path for path in paths if not (ROOT / path).exists()]
