"""The README's blocks run as printed, with pico checkpoints in place of the reader's."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dni_deploy.cli.main import main
from tests.support.shell_blocks import check_server, find_shell_blocks

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.S | re.M)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with psnr.pth, gan.pth (two similar Compact networks) and in.png."""
    torch = pytest.importorskip("torch")
    from tests.support.pico_architectures import pico_net

    net = pico_net("compact")
    torch.save({"params_ema": net.state_dict()}, tmp_path / "psnr.pth")
    generator = torch.Generator().manual_seed(1)
    near = {key: value + 0.02 * torch.randn(value.shape, generator=generator) for key, value in net.state_dict().items()}
    torch.save({"params": near}, tmp_path / "gan.pth")
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (24, 32, 3), np.uint8)).save(tmp_path / "in.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_documented(command: str) -> None:
    """Runs a line with `dni-deploy` in the current folder, which has to succeed."""
    program, *arguments = shlex.split(command)
    assert program == "dni-deploy"
    assert main(arguments) == 0, command


def test_documented_commands_run(folder: Path) -> None:
    pytest.importorskip("av", reason="one of them is of a video (extra `video`)")
    from tests.support.video_clips import Clip

    Clip(width=32, height=24, frames=6).write(folder / "in.mp4")
    run_documented(find_shell_blocks("README.md")[0].commands[1])
    [commands] = [
        block.commands for block in find_shell_blocks("README.md") if block.commands[0].startswith("dni-deploy check")
    ]
    assert len(commands) >= 5
    for command in commands:
        run_documented(command)
    assert {"out.png", "out.mp4", "strip.png", "page.html", "blended.onnx"} <= {path.name for path in folder.iterdir()}


@pytest.mark.slow
def test_three_lines_lead_to_a_live_slider(folder: Path) -> None:
    """The first block; docs/index.md has the same. .ci/run installs as its first line does."""
    first = find_shell_blocks("README.md")[0].commands
    assert first in [block.commands for block in find_shell_blocks("docs/index.md")]
    install, export, serve = first
    assert install == 'pip install ".[all]"'
    run_documented(export)
    check_server(serve.replace("dni-deploy", f"{sys.executable} -m dni_deploy"), {"PYTHONPATH": str(ROOT)})


def test_the_picture_comes_first() -> None:
    assert README.startswith("![")
    [picture] = re.findall(r"^!\[[^]]{40,}\]\(([^)]+\.webp)\)\n\n# dni-deploy\n", README)
    assert (ROOT / picture).stat().st_size < 1_500_000
    with Image.open(ROOT / picture) as animation:
        assert animation.n_frames > 20  # type: ignore[attr-defined]


def test_documented_python_block_runs(folder: Path) -> None:
    [block] = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert (names["out"].dtype, names["out"].shape, names["y"].shape) == (np.uint8, (96, 128, 3), (1, 3, 96, 128))


def test_install_lines_equal_those_of_make_and_ci() -> None:
    """`make`, .ci/run and the README install the same; the lines are compared as text, and CI runs those of make."""
    makefile, ci = ((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", ".ci/run"))
    assert 'install -c constraints.txt -e ".[cpu,report,serve]"' in README
    assert "EXTRAS = cpu,report,serve\n" in makefile
    assert "EXTRAS = all,test\n" in makefile
    assert "-c constraints.txt -e '.[all,test]'" in ci
    targets = re.findall(r"^(\w+):", makefile, re.M)
    assert set(re.findall(r"`make (\w+)", README) + re.findall(r"^make (\w+)$", README, re.M)) <= set(targets)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/errors.md", "docs/gpu.md", "docs/bundle-format.md"]
)
def test_links_of_the_page_resolve(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if not target.startswith("http")]
    assert not [target for target in targets if not (ROOT / page).parent.joinpath(target).exists()]
    paths = re.findall(r"`((?:dni_deploy|exporters|engines|benchmarks|tests|docs)/[\w./]+)`", text)
    paths = [path for path in paths if "mini" not in path and "yours" not in path]  # example names of CONTRIBUTING
    assert not [path for path in paths if not (ROOT / path).exists()]
