"""docs/pipelines.md: its examples run, where their programs are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import pipe_bundle

pytest.importorskip("onnxruntime", reason="the network runs on ONNX Runtime (extra `cpu`)")
pytest.importorskip("av", reason="y4m needs PyAV (extra `video`)")

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")


def blocks(section: str) -> list[str]:
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", text, re.S | re.M)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with sr.dni of psnr and gan, in.mp4, in.y4m, and dni-deploy on the path."""
    pipe_bundle.write(tmp_path / "sr.dni", names=("psnr", "gan"))
    program = tmp_path / "bin" / "dni-deploy"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m dni_deploy "$@"\n')
    program.chmod(0o755)
    return tmp_path


def run(block: str, folder: Path) -> None:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.run(
        ["bash", "-c", f"set -eo pipefail\n{block}"],
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
def test_documented_ffmpeg_pipelines_run(here: Path) -> None:
    run(
        "ffmpeg -v error -f lavfi -i testsrc2=s=320x180:r=25:d=0.8 -f lavfi -i sine=d=0.8 -pix_fmt yuv420p -c:a aac in.mp4",
        here,
    )
    assert len(blocks("ffmpeg")) == 2
    for block in blocks("ffmpeg"):
        run(block.replace("out.mp4", "-v error -y out.mp4"), here)
        assert (here / "out.mp4").stat().st_size > 1000


@pytest.mark.skipif(not shutil.which("gst-launch-1.0"), reason="GStreamer is not installed")
@pytest.mark.parametrize("number", [0, 1])
def test_documented_gstreamer_pipelines_run(number: int, here: Path) -> None:
    block = blocks("GStreamer")[number]
    for element in re.findall(r"\b(\w+(?:enc|dec|parse))\b", block):
        if subprocess.run(["gst-inspect-1.0", element], capture_output=True, timeout=60).returncode:
            pytest.skip(f"GStreamer has no {element} here")
    run(block.replace("autovideosink", "fakesink"), here)


def test_documented_exit_codes_exist() -> None:
    table = PAGE.partition("## When something ends")[2]
    codes = {int(code) for row in re.findall(r"\| ([\d, ]+) \|$", table, re.M) for code in row.split(",")}
    assert codes == {0, 2, 3, 6, 8, 9}
