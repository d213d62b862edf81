"""What a notebook shows: a session with its alpha and a photograph, and sliders that move them.

The widget runs in a real kernel; skipped without DNI_NOTEBOOK, a folder made by `pip install --target FOLDER ipywidgets ipykernel
nbclient`.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.imaging.html import read_sample
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.session.session import open_session
from tests.engines.conftest import write
from tests.support.handmade_graphs import HAND

ROOT = Path(__file__).parents[2]
RUN_NOTEBOOK = """
import json, sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in json.load(sys.stdin)])
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
print(json.dumps([[output for output in cell.outputs] for cell in notebook.cells]))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Members a, b, c of a convolution, a BatchNorm and a convolution, 3 channels to 3."""
    return write(HAND["conv_bn"](), tmp_path_factory.mktemp("notebook") / "x.dni", 3)


def decode_picture(html: str) -> Image.Image:
    _, _, data = html.partition("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(data.partition('"')[0])))


def test_a_session_shows_its_alpha_and_a_photograph_with_it(bundle: Bundle) -> None:
    with open_session(bundle, alpha="a=0.25,c=0.75", threads=1) as session:
        html = session._repr_html_()
        assert repr(session) == "<Session a=0.25, b=0, c=0.75 on onnxruntime>"
        assert '<td>c</td><td><meter value="0.75"></meter></td><td>0.75</td>' in html
        assert np.array_equal(np.asarray(decode_picture(html)), session(read_sample()))
    assert "closed" in repr(session)
    assert "<img" not in session._repr_html_()


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1)])
def test_a_rendered_frame_shows_itself(dtype: type, white: float) -> None:
    output = np.zeros((4, 6, 3), dtype)
    output[0, 0] = white
    frame = RenderedFrame(output, 7, Coefficients(("<b>", "c"), (1.0, 0.0)))
    assert repr(frame) == f"<RenderedFrame {np.dtype(dtype)} (4, 6, 3), generation 7, <b>=1, c=0>"
    html = frame._repr_html_()
    assert "<b>" not in html
    shown = np.asarray(decode_picture(html))
    assert shown.shape == (4, 6, 3)
    assert shown[0, 0].tolist() == [255, 255, 255]
    assert not shown[1:].any()


@pytest.mark.slow
def test_the_sliders_of_a_real_notebook(bundle: Bundle, tmp_path: Path) -> None:
    folder = os.environ.get("DNI_NOTEBOOK")
    if not folder:
        pytest.skip("DNI_NOTEBOOK names no folder with ipywidgets")
    pair = write(HAND["conv_bn"](), tmp_path / "pair.dni", 2)
    picture = np.random.default_rng(0).integers(0, 256, (20, 24, 4), np.uint8)
    Image.fromarray(picture).save(tmp_path / "in.png")
    decode = "import io, numpy as np; from PIL import Image as I\nshown = lambda w: np.asarray(I.open(io.BytesIO(w.children[-1].value)))"
    cells = [
        f"import dni_deploy as dni\n{decode}\nsession = dni.open_session({str(pair.path)!r}, alpha=0.5)\nsession",
        f"w = dni.widget(session, {str(tmp_path / 'in.png')!r})\nw",
        f"picture = np.asarray(I.open({str(tmp_path / 'in.png')!r}))\nfirst = shown(w)\nassert (first == session(picture)).all()",
        "w.children[0].value = 0.2\nassert session.alpha.values == (0.2, 0.8)\n"
        "assert (shown(w) == session(picture)).all() and (shown(w) != first).any()",
        f"three = dni.open_session({str(bundle.path)!r}, alpha='a=0.5,b=0.25,c=0.25')\nv = dni.widget(three, picture)",
        "v.children[0].value = 0.2\nassert [round(s.value, 9) for s in v.children[:3]] == [0.2, 0.4, 0.4], v.children\n"
        "assert (shown(v) == three(picture)).all()",
    ]
    run = subprocess.run(
        [sys.executable, "-c", RUN_NOTEBOOK],
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), folder)), "HOME": str(tmp_path)},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    outputs = json.loads(run.stdout)
    assert "<meter" in outputs[0][0]["data"]["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in outputs[1][0]["data"]
