"""Shards as real processes over ONNX Runtime: four at once, two with the same number, and then joined."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import pipe_bundle
from tests.support.video_clips import Clip


@pytest.mark.slow
def test_four_shards_in_four_processes_are_the_video(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the network runs on ONNX Runtime (extra `cpu`)")
    bundle = os.fspath(pipe_bundle.write(tmp_path / "x.dni", 1).path)
    source = Clip(frames=60).write(tmp_path / "in.mkv")

    def start(output: str, *more: str) -> subprocess.Popen[str]:
        alpha, engine = ["--alpha", "0:0.2, 1s:0.9, 1.5s:0.9"], ["--engine", "onnxruntime", "--threads", "1"]
        fixed = [*alpha, *engine, "--preset", "ultrafast", "--segment", "4", "-q"]
        arguments = ["video", bundle, os.fspath(source), "-o", os.fspath(tmp_path / output), *fixed, *more]
        return subprocess.Popen([sys.executable, "-m", "dni_deploy", *arguments], stderr=subprocess.PIPE, text=True)

    def wait(process: subprocess.Popen[str]) -> tuple[int, str]:
        _, message = process.communicate(timeout=300)
        return process.returncode, message

    assert wait(start("whole.mkv", "--alpha-log", os.fspath(tmp_path / "whole.jsonl")))[0] == 0
    killed = start("out.mkv", "--shard", "2/4")
    killed.kill()
    wait(killed)
    shards = [start("out.mkv", "--shard", f"{number}/4") for number in (1, 3, 4, 3)]
    assert [wait(shard)[0] for shard in shards] == [0, 0, 0, 0]
    code, message = wait(start("out.mkv", "--shard", "join"))
    assert code == 2
    assert "of 4 shards, run 2 again" in message
    assert wait(start("out.mkv", "--shard", "2/4"))[0] == 0
    assert wait(start("out.mkv", "--shard", "join", "--alpha-log", os.fspath(tmp_path / "out.jsonl")))[0] == 0
    for name in ("mkv", "jsonl"):
        assert (tmp_path / f"out.{name}").read_bytes() == (tmp_path / f"whole.{name}").read_bytes()
    assert not (tmp_path / "out.mkv.dni-part").exists()
