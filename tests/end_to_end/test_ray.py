"""`--ray local` with ONNX Runtime: a folder with an image that kills its worker, and a video; nothing listens beyond this machine."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.api import run as run_module
from dni_deploy.cli.main import main
from tests.support import pipe_bundle
from tests.support.killing_images import KILLER, KillingFactory
from tests.support.video_clips import Clip

pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")
pytest.importorskip("onnxruntime", reason="the network runs on ONNX Runtime (extra `cpu`)")

import psutil

from dni_deploy.jobs.ray_cluster import connect_cluster
from dni_deploy.jobs.ray_options import RayOptions

ROOT = Path(__file__).parents[2]
ENGINE = ["--engine", "onnxruntime", "-q"]


def find_listening_addresses() -> set[str]:
    """The addresses at which this process and those that it has started listen."""
    me = psutil.Process()
    return {
        connection.laddr.ip
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.slow
def test_a_local_cluster_does_what_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.fspath(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    pipe_bundle.write(tmp_path / "x.dni", 1)
    (tmp_path / "in").mkdir()
    for number in range(30):
        Image.fromarray(np.full((32, 48, 3), 8 * number, np.uint8)).save(tmp_path / f"in/{number:02d}.png")
    Clip(frames=60).write(tmp_path / "in.mkv")
    film = [
        "video",
        "x.dni",
        "in.mkv",
        "--alpha",
        "0:0.2, 1s:0.9, 1.5s:0.9",
        "--preset",
        "ultrafast",
        "--segment",
        "6",
        *ENGINE,
    ]
    assert main(["run", "x.dni", "in", "-o", "whole", "--alpha", "0.5", *ENGINE]) == 0
    assert main([*film, "-o", "whole.mkv", "--alpha-log", "whole.jsonl"]) == 0
    shutil.copy("in/07.png", f"in/{KILLER}")
    capsys.readouterr()
    with connect_cluster(RayOptions(ray="local")), monkeypatch.context() as patch:  # both commands use it
        if psutil.LINUX:
            assert {address.removeprefix("::ffff:") for address in find_listening_addresses()} == {"127.0.0.1"}
        patch.setattr(run_module, "ImageWorkerFactory", KillingFactory)
        assert main(["run", "x.dni", "in", "-o", "out", "--alpha", "0.5", "--ray", "local", "--json", *ENGINE]) == 8
        printed = capsys.readouterr()
        assert main([*film, "-o", "out.mkv", "--alpha-log", "out.jsonl", "--ray", "local"]) == 0
    report = json.loads(printed.out)
    assert len(report["images"]) == 30
    (failure,) = report["failed"]
    assert failure["message"] == f"{KILLER} killed its worker 2 times, alone in it: a crash, or more memory than there is."
    for name in os.listdir("whole"):
        if not name.startswith("."):
            assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()
    assert sorted(os.listdir("out")) == sorted(os.listdir("whole"))
    for suffix in ("mkv", "jsonl"):
        assert Path(f"out.{suffix}").read_bytes() == Path(f"whole.{suffix}").read_bytes()
    assert not Path("out.mkv.dni-part").exists()
