"""slider: it is measured, stored, used in place of alpha, replaced, removed, and refused where it makes no sense."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dni_deploy.api import slider as slider_module
from dni_deploy.api import sweep as sweep_verb
from dni_deploy.api.slider import compute_unevenness, slider
from dni_deploy.api.sweep import sweep
from dni_deploy.bundle import bundle as bundle_module
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.slider import PerceptualSlider
from dni_deploy.bundle.stored_file import read_verified
from dni_deploy.bundle.writer import store_slider
from dni_deploy.cli.main import main
from dni_deploy.errors import BundleError, MismatchError, UsageError
from tests.engines.conftest import write
from tests.support import pico_bundle as pico
from tests.support.frame_session import Dimmer, opener
from tests.support.handmade_graphs import HAND

POINTS = [(0.0, 0.0), (0.25, 0.5), (1.0, 1.0)]


class Bent(Dimmer):
    """The brightness is the cube of alpha: almost nothing changes below 0.4, and most of it above 0.8."""

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        self.set[slot] = 0.5 + 0.5 * float(coefficients @ self.factors) ** 3
        self.refits += 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """x.dni with members a and b on a nonlinear engine, and two images."""
    pico.write(tmp_path / "x.dni")
    for seed, name in enumerate(("in.png", "other.png")):
        pixels = np.random.default_rng(seed).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    monkeypatch.setattr(slider_module, "open_session", opener(Bent((1.0, 0.0)), ("a", "b")))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_slider_that_is_no_better_than_alpha_is_noted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slider_module, "compute_unevenness", lambda distances: 1.5)
    assert slider("x.dni", "in.png", steps=4).notes[-1] == slider_module.NOT_BETTER_NOTE


def test_slider_makes_steps_even_and_stores_them(folder: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    report = slider("x.dni", "in.png", held_out="other.png", progress=lambda *call: calls.append(call))
    assert report.alpha_unevenness is not None
    assert report.slider_unevenness is not None
    assert report.held_out is not None
    assert report.alpha_unevenness > 2  # 3 * alpha^2 over its mean of 1, at the last step of 20
    assert report.slider_unevenness < 1.15  # rounding to 255 levels, and linear pieces
    assert slider_module.NOT_BETTER_NOTE not in report.notes
    assert report.held_out[1] < 1.15 < 2 < report.held_out[0]
    stored_slider = Bundle.open("x.dni").slider
    assert stored_slider is not None
    assert stored_slider.points == report.points
    metadata = Bundle.open("x.dni").manifest.slider_about
    assert metadata is not None
    assert (metadata["before"], metadata["after"]) == (report.alpha_unevenness, report.slider_unevenness)
    assert metadata["pictures"] == [{"name": "in.png", "sha256": sha256(Path("in.png").read_bytes()).hexdigest()}]
    assert (metadata["held_out"]["before"], metadata["held_out"]["after"]) == report.held_out
    assert [image["name"] for image in metadata["held_out"]["pictures"]] == ["other.png"]
    # Half of the brightness is at 0.5 ** (1 / 3) = 0.794; CIEDE2000 weighs differences in bright parts less.
    assert stored_slider.alpha_at(0.5) == pytest.approx(0.794, abs=0.03)
    assert calls[-1][0] == calls[-1][1] == calls[0][1]
    json.dumps(report.to_json(), allow_nan=False)


def test_a_slider_is_replaced_and_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored_bundle = store_slider(Bundle.open("x.dni"), POINTS)
    bare = (folder / "x.dni").stat()
    with pytest.raises(UsageError, match="has a slider; give --force"):
        slider("x.dni", "in.png")
    assert Bundle.open("x.dni").digest == stored_bundle.digest
    slider("x.dni", "in.png", force=True)
    assert Bundle.open("x.dni").digest != stored_bundle.digest
    assert main(["slider", "x.dni", "--remove"]) == 0
    assert "removed" in capsys.readouterr().out
    assert Bundle.open("x.dni").slider is None
    assert (folder / "x.dni").stat().st_ino == bare.st_ino
    with pytest.raises(UsageError, match="no slider to remove"):
        slider("x.dni", remove=True)


def test_an_interrupted_slider_leaves_the_bundle_unchanged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store_slider(Bundle.open("x.dni"), POINTS).digest

    def stopped(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slider_module, "store_slider", stopped)
    with pytest.raises(KeyboardInterrupt):
        slider("x.dni", "in.png", force=True, plot="plot.png")
    assert Bundle.open("x.dni").digest == before
    assert not Path("plot.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": ()}, "at least one image"),
        ({"steps": 3}, "4 to 256 steps, got 3"),
        ({"plot": "plot.jpg"}, "A plot is written as"),
        ({"plot": "in.svg"}, "exists; give --force"),
    ],
)
def test_slider_refuses_invalid_arguments(folder: Path, options: dict[str, Any], message: str) -> None:
    (folder / "in.svg").write_text("mine")
    before = Bundle.open("x.dni").digest
    with pytest.raises(UsageError, match=message):
        slider("x.dni", **{"images": "in.png", **options})
    assert Bundle.open("x.dni").digest == before


def test_slider_refuses_a_family_of_three_members(folder: Path) -> None:
    pico.write(folder / "three.dni", count=3)
    with pytest.raises(MismatchError, match="from one member to another; this family has 3"):
        slider("three.dni", "in.png")


def test_invalid_slider_points_in_a_manifest_are_reported(folder: Path) -> None:
    bundle = store_slider(Bundle.open("x.dni"), [(0.0, 0.0), (0.5, 0.0), (1.0, 1.0)])
    with pytest.raises(BundleError, match="rise in position and in alpha"):
        _ = bundle.slider


def test_refit_accepts_a_slider_position(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["refit", "x.dni", "--slider", "0.25", "-o", "none.onnx"]) == 2
    assert "holds no slider; `dni-deploy slider" in capsys.readouterr().err
    store_slider(Bundle.open("x.dni"), POINTS)
    assert main(["refit", "x.dni", "--slider", "0.25", "-o", "position.onnx"]) == 0
    assert main(["refit", "x.dni", "--alpha", "0.5", "-o", "alpha.onnx"]) == 0
    assert (folder / "position.onnx").read_bytes() == (folder / "alpha.onnx").read_bytes()
    assert main(["refit", "x.dni", "--slider", "0.25", "--alpha", "0.5", "-o", "both.onnx"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main(["refit", "x.dni", "-o", "neither.onnx"]) == 2
    assert "Give one (--alpha), a position of the bundle's slider (--slider)" in capsys.readouterr().err
    assert main(["refit", "x.dni", "--slider", "1.5", "-o", "beyond.onnx"]) == 2
    assert not [path.name for path in folder.iterdir() if path.stem in ("none", "both", "neither", "beyond")]


@pytest.mark.parametrize(
    "line",
    [
        "run {} in.png -o out.png --slider 0.25",
        "run {} in.png -o out.png --alpha 0.5",
        "refit {} --slider 0.25 -o out.onnx",
        "refit {} --alpha 0.5 -o out.onnx",
        "sweep {} in.png -o out.png --steps 3 --even",
    ],
)
def test_a_bundle_is_opened_and_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    pytest.importorskip("onnxruntime")
    stored_bundle = store_slider(write(HAND["prelu_per_channel"](), folder / "rgb.dni"), POINTS)
    checked: list[str] = []

    def counted(path: Path, stored: Any, *, keep: bool = True) -> bytes:
        if not keep:  # opening does not read contents; they are read and checked on first use
            checked.append(stored.file)
        return read_verified(path, stored, keep=keep)

    monkeypatch.setattr(bundle_module, "read_verified", counted)
    assert main(line.format("rgb.dni").split()) == 0
    assert sorted(checked) == sorted(stored.file for stored in stored_bundle.manifest.files)


def test_run_accepts_a_slider_position(folder: Path) -> None:
    pytest.importorskip("onnxruntime")
    store_slider(write(HAND["prelu_per_channel"](), folder / "rgb.dni"), POINTS)
    assert main(["run", "rgb.dni", "in.png", "-o", "position.png", "--slider", "0.25"]) == 0
    assert main(["run", "rgb.dni", "in.png", "-o", "alpha.png", "--alpha", "0.5"]) == 0
    assert (folder / "position.png").read_bytes() == (folder / "alpha.png").read_bytes()


def test_sweep_takes_even_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_verb, "open_session", opener(Bent((1.0, 0.0)), ("a", "b")))
    with pytest.raises(UsageError, match="holds no slider"):
        sweep("x.dni", "in.png", "sheet.png", steps=5, even=True)
    perceptual_slider = PerceptualSlider(tuple(POINTS))
    store_slider(Bundle.open("x.dni"), POINTS)
    report = sweep("x.dni", "in.png", "sheet.png", steps=5, even=True)
    assert [row.coefficients[0] for row in report.points] == [perceptual_slider.alpha_at(step / 4) for step in range(5)]


def test_unevenness_of_slider_steps() -> None:
    assert compute_unevenness([1.0, 1.0, 4.0]) == 2.0
    assert compute_unevenness([0.0, 0.0]) == 1.0
