"""Every shell block of every page runs as printed, or the page says why not; and each of our commands in one is one that exists."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.cli.main import main
from tests.support.shell_blocks import ROOT, ShellBlock, check_server, find_own_calls, find_shell_blocks

PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
RUN_BY_PAGE_TEST = {
    "README.md": "test_readme.py",
    "docs/alpha.md": "test_alpha.py",
    "docs/alpha-map.md": "test_alpha_map.py",
    "docs/calibration.md": "test_calibration.py",
    "docs/check.md": "test_check.py",
    "docs/cluster.md": "test_cluster.py",
    "docs/images.md": "test_images.py",
    "docs/recipes.md": "test_recipes.py",
    "docs/slider.md": "test_tune.py",
    "docs/triton.md": "test_triton.py",
    "docs/tune.md": "test_tune.py",
}
"""Pages whose own tests run their blocks, with what those pages need; single blocks are marked in the page."""

BLOCKS = [block for page in PAGES for block in find_shell_blocks(page)]


def needs_run(block: ShellBlock) -> bool:
    return block.mark == f"run by: tests/docs/{Path(__file__).name}" or (not block.mark and block.page not in RUN_BY_PAGE_TEST)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page}: {block.commands[0][:40]}")
def test_each_block_is_run_or_says_why_not(block: ShellBlock) -> None:
    assert block.commands
    kind, _, text = block.mark.partition(": ")
    assert kind in ("", "run by", "not run"), f"<!-- {block.mark} --> is neither `run by: TEST FILE` nor `not run: REASON`"
    path = ROOT / text if kind == "run by" else ROOT / "tests" / "docs" / RUN_BY_PAGE_TEST.get(block.page, Path(__file__).name)
    assert path.is_file()
    if path != Path(__file__):
        assert Path(block.page).name in path.read_text(encoding="utf-8"), f"{path} does not speak of the page"
    if kind == "not run":
        assert len(text) > 8, "a reason is wanted"


@pytest.mark.parametrize("page", PAGES)
def test_each_command_exists_with_its_options(page: str) -> None:
    """Blocks that cannot run here, too, and whole commands in backticks: click parses them."""
    commands = [command for block in find_shell_blocks(page) for command in block.commands]
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.S | re.M)
    inline = [command for command in re.findall(r"`(dni-deploy [a-z]+ [^`]* -o [^`]+)`", text) if "..." not in command]
    for command in commands + inline:
        for arguments in find_own_calls(command):
            arguments = arguments[1:] if arguments[:1] == ["-v"] else arguments
            assert arguments, command
            module = import_module(f"dni_deploy.cli.{arguments[0]}")
            module.command.make_context(arguments[0], arguments[1:])


@pytest.mark.parametrize("page", PAGES)
def test_no_line_installs_a_name_of_an_index(page: str) -> None:
    """No index has dni-deploy, so that anybody may register the name; and cmd.exe passes single quotes on."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not re.findall(r"pip install [^`\n]*(?:(?<![/\w])dni-deploy\b|'\.\[)", text)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that the blocks name, and dni-deploy on the path."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("av")
    pytest.importorskip("onnxruntime")
    from tests.support.pico_architectures import pico_net
    from tests.support.video_clips import Clip

    folder = tmp_path_factory.mktemp("shell-blocks")
    net = pico_net("compact")
    generator = torch.Generator().manual_seed(1)
    near = {key: value + 0.02 * torch.randn(value.shape, generator=generator) for key, value in net.state_dict().items()}
    for name in ("psnr", "RRDB_PSNR_x4", "realesr-general-x4v3", "model_a", "A"):
        torch.save({"params_ema": net.state_dict()}, folder / f"{name}.pth")
    for name in ("gan", "RRDB_ESRGAN_x4", "realesr-general-wdn-x4v3", "model_b", "B"):
        torch.save({"params": near}, folder / f"{name}.pth")
    assert main(["export", f"psnr={folder / 'psnr.pth'}", f"gan={folder / 'gan.pth'}", "-o", str(folder / "sr.dni"), "-q"]) == 0
    random = np.random.default_rng(2)
    photograph = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8))
    for name in ("in.png", "in.jpg", "noisy.png", "photo.png", "photos/a.png", "photos/b/c.png", "LR/a.png", "inputs/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        photograph.save(folder / name)
    for number in range(3):
        (folder / "frames").mkdir(exist_ok=True)
        photograph.save(folder / "frames" / f"{number:05d}.png")
    for name in ("in.mkv", "in.mov", "a.mp4", "b.mov", "hdr.mp4"):
        Clip(width=32, height=24, frames=30).write(folder / name)
    Clip(width=32, height=24, times=[12800 * second for second in range(110)]).write(folder / "in.mp4")  # a frame a second
    (folder / "in.y4m").write_bytes(b"YUV4MPEG2 W32 H24 F25:1 Ip C420jpeg\n" + 3 * (b"FRAME\n" + bytes(32 * 24 * 3 // 2)))
    write_other_networks(folder)
    Clip(width=32, height=24, frames=5).write(folder / "film.mkv")
    (folder / "show.json").write_text('{"schema": 1, "keyframes": [{"time": 0, "alpha": 0.2}, {"time": 1, "alpha": 0.8}]}')
    program = folder / "bin" / "dni-deploy"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m dni_deploy "$@"\n')
    program.chmod(0o755)
    return folder


def write_other_networks(folder: Path) -> None:
    """Writes what is no checkpoint of a known network: the user's own with a noise level, .onnx files, and ncnn files."""
    import torch

    from tests.exporters.architectures import test_add_controls as controls
    from tests.support.graph_files import write_model, write_ncnn

    (folder / "my_networks.py").write_text(
        "from tests.exporters.architectures.test_add_controls import SigmaNet as FFDNet\nfrom torch import nn\n\n\n"
        "def build():\n    return nn.Conv2d(3, 3, 3, padding=1)\n"
    )
    for seed, (sigma, plain, graph, level) in enumerate((("soft", "a", "sharp", "noise0"), ("sharp", "b", "soft", "noise1"))):
        torch.manual_seed(seed)
        torch.save(controls.SigmaNet().state_dict(), folder / f"{sigma}.pth")
        convolution = torch.nn.Conv2d(3, 3, 3, padding=1)
        torch.save(convolution.state_dict(), folder / f"{plain}.pth")
        write_model(folder / f"{graph}.onnx", seed)
        layers = ["Input in 0 1 in", "Convolution c 1 1 in out 0=3 1=3 4=1 5=1 6=81"]
        weights = [
            (value.numpy(), kind) for value, kind in zip(convolution.state_dict().values(), ("float32", "plain"), strict=True)
        ]
        write_ncnn(folder / f"{level}_model.param", layers, weights)


@pytest.mark.slow
@pytest.mark.usefixtures("export_in_this_process")
@pytest.mark.skipif(os.name == "nt", reason="the lines are for a POSIX shell")
@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if needs_run(block)}))
def test_blocks_run(page: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for block in find_shell_blocks(page):
        for command in block.commands if needs_run(block) else ():
            run_command(command)


@pytest.mark.slow
@pytest.mark.usefixtures("export_in_this_process")
@pytest.mark.parametrize("page", ["docs/tutorial.md", "docs/migration.md"])
def test_python_blocks_run(page: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("psnr.pth", "gan.pth"):
        shutil.copy(files / name, tmp_path)
    if page == "docs/tutorial.md":
        shutil.copytree(files / "sr.dni", tmp_path / "sr.dni")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [
        match[2] for match in re.finditer(r"(<!-- not run[^>]*>\n)?^```python\n(.*?)^```$", text, re.S | re.M) if not match[1]
    ]
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})


def run_command(command: str) -> None:
    """Runs a command in the current folder, ours in this process where it needs no shell; `serve` until its page answers."""
    [own] = find_own_calls(command) or [[]]
    if own[:1] == ["serve"]:
        check_server(command)
    elif own and not re.search(r"[|<>;&]|\$[({A-Z]", command) and command.startswith("dni-deploy "):
        replace = ["--force"] if "-o" in own and "--skip-existing" not in own else []  # of another line on the page
        assert main([*shlex.split(command)[1:], *replace]) == 0, command
    else:
        shell = ["bash", "-c", f"set -eo pipefail\n{command}"]
        process = subprocess.run(shell, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert process.returncode == 0, process.stderr
