"""The README's blocks run as printed, with pico checkpoints in place of the reader's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.S | re.M)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with psnr.pth, gan.pth (two similar Compact networks) and in.png, and `dni-deploy` on the PATH."""
    torch = pytest.importorskip("torch")
    from tests.support.pico_architectures import pico_net

    net = pico_net("compact")
    torch.save({"params_ema": net.state_dict()}, tmp_path / "psnr.pth")
    generator = torch.Generator().manual_seed(1)
    near = {key: value + 0.02 * torch.randn(value.shape, generator=generator) for key, value in net.state_dict().items()}
    torch.save({"params": near}, tmp_path / "gan.pth")
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (24, 32, 3), np.uint8)).save(tmp_path / "in.png")
    shim = tmp_path / "bin" / "dni-deploy"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m dni_deploy "$@"\n')
    shim.chmod(0o755)
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def run_documented(command: str | list[str], folder: Path) -> str:
    """Runs a shell line or a program in the folder, which has to succeed; returns its stdout."""
    process = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert process.returncode == 0, f"{command}\n{process.stdout}{process.stderr}"
    return process.stdout


def test_documented_console_block_runs(folder: Path) -> None:
    [block] = blocks("console")
    commands = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) >= 5
    for command in commands:
        run_documented(command, folder)
    assert {"sr.dni", "out.png", "strip.png", "page.html", "blended.onnx"} <= {path.name for path in folder.iterdir()}


def test_documented_python_block_runs(folder: Path) -> None:
    [block] = blocks("python")
    check = (
        "\nassert out.dtype == np.uint8 and out.shape == (96, 128, 3), out.shape\nassert y.shape == (1, 3, 96, 128), y.shape\n"
    )
    run_documented([sys.executable, "-c", block + check], folder)


def test_install_lines_equal_those_of_make_and_ci() -> None:
    """`make`, .ci/run and the README install the same; the README's lines are compared as text, and CI runs those of make."""
    line = "install -c constraints.txt -e '.[all,test]'"
    assert line in README
    assert line.removeprefix("install ") in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert line.removeprefix("install ") in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
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
