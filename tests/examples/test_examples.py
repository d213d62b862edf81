"""The programs of examples/README.md do what its table says, and the notebook runs from end to end."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import dni_deploy as dni
from tests.support import pipe_bundle

pytest.importorskip("onnxruntime", reason="the network runs on ONNX Runtime (extra `cpu`)")

EXAMPLES = Path(__file__).parents[2] / "examples"
RUN_NOTEBOOK = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
print(*(kind for cell in notebook.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())))
"""


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sr.dni, whose member psnr returns the frame and gan half of it, and in.png."""
    path = tmp_path_factory.mktemp("examples")
    pipe_bundle.write(path / "sr.dni", names=("psnr", "gan"))
    Image.new("RGB", (8, 6), (200, 100, 40)).save(path / "in.png")
    return path


def test_strip(folder: Path) -> None:
    load("strip").main(str(folder / "sr.dni"), str(folder / "in.png"), str(folder / "strip.png"))
    with Image.open(folder / "strip.png") as strip:
        assert [strip.getpixel((8 * place, 0)) for place in (0, 4)] == [(100, 50, 20), (200, 100, 40)]


def test_frame_loop(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["frame_loop.py", str(folder / "sr.dni"), "--http", "0", "--frames", "30"])
    load("frame_loop").main()
    lines = capsys.readouterr().out.splitlines()
    assert "Bearer" in lines[0]
    assert lines[1] == "frame 0: psnr=1, gan=0, 64x48"
    assert lines[-1].endswith("psnr=0.5, gan=0.5, 64x48")


def test_picture_service(folder: Path) -> None:
    with dni.open_session(folder / "sr.dni") as session:
        frame = np.asarray(Image.open(folder / "in.png"))
        with load("picture_service").make_server(session, frame, 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}/?alpha="
            for alpha, first in (("1", 200), ("psnr=0,gan=1", 100)):
                with urllib.request.urlopen(f"{address}{alpha}", timeout=30) as answer:
                    assert Image.open(io.BytesIO(answer.read())).getpixel((0, 0))[0] == first  # type: ignore[index]
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(f"{address}7", timeout=30)
            server.shutdown()


def test_timeline_video(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av", reason="videos need PyAV (extra `video`)")
    from tests.support.video_clips import Clip

    Clip(width=32, height=24, frames=4).write(folder / "in.mp4")
    load("timeline_video").main(str(folder / "sr.dni"), str(folder / "in.mp4"), str(folder / "out.mp4"))
    assert capsys.readouterr().out.startswith("4 frames to ")


def test_the_notebook_is_stored_executed_and_small() -> None:
    path = EXAMPLES / "session.ipynb"
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert path.stat().st_size < 500_000
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    assert sum("image/png" in output.get("data", ()) for cell in cells for output in cell["outputs"]) == 2


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    folder = os.environ.get("DNI_NOTEBOOK")
    if folder is None:
        pytest.skip("DNI_NOTEBOOK names no folder with ipywidgets")
    pytest.importorskip("matplotlib")
    paths = os.pathsep.join([str(EXAMPLES.parent), folder, os.environ.get("PYTHONPATH", "")])
    child = subprocess.run(
        [sys.executable, "-c", RUN_NOTEBOOK, str(EXAMPLES / "session.ipynb")],
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": paths, "JUPYTER_PATH": f"{folder}/share/jupyter"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split().count("image/png") == 2
    assert "application/vnd.jupyter.widget-view+json" in child.stdout.split()
