"""demo: the whole run, on weights that are created here in a second."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="the demo exports, which needs the extra `export`")
pytest.importorskip("onnxruntime", reason="the demo runs an engine, which needs the extra `cpu`")
pytest.importorskip("matplotlib", reason="the demo draws a plot, which needs the extra `report`")

from safetensors.torch import save_file  # noqa: E402

from benchmarks.demo_data import write_demo_data  # noqa: E402
from dni_deploy.api import demo as demo_module  # noqa: E402
from dni_deploy.api.demo import NOISE_SIGMA, OUTPUT_FILES, add_noise, demo  # noqa: E402
from dni_deploy.bundle.bundle import Bundle  # noqa: E402
from dni_deploy.checkpoints.checkpoint import Checkpoint  # noqa: E402
from dni_deploy.errors import CheckpointError, UsageError  # noqa: E402
from dni_deploy.imaging.frames import Frame, from_network, to_network  # noqa: E402
from dni_deploy.imaging.metrics.psnr import psnr  # noqa: E402
from dni_deploy.session.session import open_session  # noqa: E402
from exporters.architectures.dncnn import DnCNN, initialize_weights  # noqa: E402
from exporters.architectures.registry import find_architecture  # noqa: E402

PHOTOGRAPH = Path(demo_module.__file__).parents[1] / "data" / "astronaut.png"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small photograph and three small related networks: in every weight N40 lies between N20 and N60."""
    folder = tmp_path / "data"
    (folder / "denoise").mkdir(parents=True)
    with Image.open(PHOTOGRAPH) as image:
        image.crop((96, 32, 160, 96)).save(folder / "astronaut.png")
    middle = initialize_weights(DnCNN(width=8, depth=4), torch.Generator().manual_seed(0)).state_dict()
    step = initialize_weights(DnCNN(width=8, depth=4), torch.Generator().manual_seed(1)).state_dict()
    for level, distance in ((20, -0.1), (40, 0.0), (60, 0.1)):
        tensors = {
            key: (value + distance * step[key]).half().contiguous()
            for key, value in middle.items()
            if value.is_floating_point()
        }
        save_file(tensors, folder / "denoise" / f"n{level}.safetensors")
    monkeypatch.setattr(demo_module, "DATA_FOLDER", folder)
    write_demo_data(folder / "denoise")
    return folder


def test_demo_runs_from_weights_to_report(tmp_path: Path, data: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    report = demo(tmp_path / "out", progress=lambda *call: calls.append(call))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(OUTPUT_FILES)
    assert [Path(name).name for name in report.files] == list(OUTPUT_FILES)
    assert calls[0][0] == 0
    assert calls[-1][0] == calls[-1][1]
    assert all(before[0] <= after[0] for before, after in pairwise(calls))

    clean, noisy = (np.array(Image.open(tmp_path / "out" / name)) for name in ("clean.png", "noisy.png"))
    assert report.noisy_psnr == psnr(noisy, clean)
    assert len(report.sweep.points) == 21
    assert [row.coefficients[0] for row in report.sweep.points] == pytest.approx(np.arange(21) / 20)
    # The members' float16 rounding and the engine's float32 sums can move a few pixels by one level, which is far below 0.05 dB;
    # so is the change of the statistics of networks this similar. By construction the plain midpoint blend is N40.
    assert report.sweep.points[10].psnr == pytest.approx(report.matched_psnr, abs=0.05)
    for row, name in ((0, "n60"), (20, "n20")):
        alone = run_checkpoint(Checkpoint.read(data / "denoise" / f"{name}.safetensors"), noisy)
        assert report.sweep.points[row].psnr == pytest.approx(psnr(alone, clean), abs=0.05)
    assert Bundle.open(tmp_path / "out" / "demo.dni").manifest.calibration is not None
    report_json = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert report_json["finding"] == report.format_finding()
    assert report_json["change_ms"] > 0
    assert report_json["frame_ms"] > 0
    assert "N40" in (tmp_path / "out" / "page.html").read_text()

    with pytest.raises(UsageError, match="exists"):
        demo(tmp_path / "out")
    again = demo(tmp_path / "out", force=True)
    assert [row.psnr for row in again.sweep.points] == [row.psnr for row in report.sweep.points]  # fixed seed
    exported = demo(tmp_path / "exported", from_checkpoints=True)
    assert [row.psnr for row in exported.sweep.points] == [row.psnr for row in report.sweep.points]
    bundles = [Bundle.open(tmp_path / name / "demo.dni") for name in ("out", "exported")]
    assert bundles[0].digest == bundles[1].digest


def run_checkpoint(checkpoint: Checkpoint, frame: Frame) -> Frame:
    """Runs one network by itself, in PyTorch."""
    architecture = find_architecture("auto", checkpoint.tensors)
    net = architecture.build(architecture.canonicalize_tensors(checkpoint.tensors))
    signature = architecture.resolve_signature(net)
    with torch.inference_mode():
        y = net(torch.from_numpy(to_network(frame, signature))).numpy()
    return from_network(y, frame, signature)


@pytest.mark.slow
def test_the_shipped_graph_and_calibration_are_what_export_and_calibrate_make(tmp_path: Path) -> None:
    """The graph may have other nodes under another version of PyTorch, and computes the same."""
    shipped, exported = tmp_path / "shipped.dni", tmp_path / "exported" / "demo.dni"
    demo_module._write_bundle(shipped, force=False)
    demo(tmp_path / "exported", from_checkpoints=True)
    frame = np.array(Image.open(tmp_path / "exported" / "noisy.png"))[:64, :64]
    for alpha in (0.0, 0.3, 1.0):
        outputs = []
        for bundle in (shipped, exported):
            with open_session(bundle, alpha=alpha, engine="onnxruntime") as session:
                outputs.append(session(frame).astype(int))
        assert np.abs(outputs[0] - outputs[1]).max() <= 1  # float32 sums in another order, rounded


def test_demo_noise_has_the_documented_sigma() -> None:
    gray = np.full((256, 256, 3), 128, np.uint8)
    noise = add_noise(gray).astype(float) - 128
    # 196,608 values: the standard error of the mean is 0.09, that of sigma 0.064. Clipping at 3.2 sigma takes 0.1 off sigma.
    assert abs(noise.mean()) < 0.5
    assert noise.std() == pytest.approx(NOISE_SIGMA, abs=0.4)
    assert np.array_equal(add_noise(gray), add_noise(gray))


def test_an_output_folder_that_is_a_file_and_damaged_weights_are_refused(tmp_path: Path, data: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file"):
        demo(tmp_path / "file")
    (data / "denoise" / "n60.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(CheckpointError):
        demo(tmp_path / "out")


@pytest.mark.slow
def test_a_blend_of_the_shipped_family_beats_both_members(tmp_path: Path) -> None:
    """The claim of section 3.2 of the paper: for noise levels in between, a blend beats both members. Takes under a minute."""
    if not (demo_module.DATA_FOLDER / "denoise" / "n60.safetensors").is_file():
        pytest.skip("the demo family's weights are not in this checkout")
    report = demo(tmp_path / "out")
    assert report.sweep.best_is_blend
    assert report.sweep.gain_db is not None
    assert report.sweep.gain_db > 0.05  # below it, the noise of one image could decide
    best = report.sweep.points[report.sweep.best_index or 0].psnr
    assert best is not None
    assert best > report.noisy_psnr + 5
    assert best > report.matched_psnr - 0.5  # the result of a network trained for this noise level: measured 0.24 dB below it
    assert report.seconds < 60
