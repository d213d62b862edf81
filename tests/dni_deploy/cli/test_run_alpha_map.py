"""run --alpha-map through the command line, on a pico family: text, JSON, and the exit code of each refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.cli.main import main
from tests.dni_deploy.cli.test_commands import checkpoints

pytest.importorskip("torch", reason="the bundle is exported by PyTorch (extra `export`)")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sr.dni (x4), in.png of 24x20, and masks for it: two levels, a gradient of the output's size, and refused ones."""
    path = tmp_path_factory.mktemp("maps")
    checkpoints(path)
    members = [f"{name}={path / name}.safetensors" for name in ("psnr", "gan")]
    assert main(["export", *members, "-o", str(path / "sr.dni")]) == 0
    half = np.zeros((20, 24), np.uint8)
    half[:, 12:] = 255
    Image.fromarray(half).save(path / "half.png")
    Image.fromarray(np.broadcast_to(np.linspace(0, 65535, 96).astype(np.uint16), (80, 96)).copy()).save(path / "soft.png")
    Image.fromarray(half[:10]).save(path / "small.png")
    Image.fromarray(half).convert("RGBA").save(path / "clear.png")
    return path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def read_pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_each_half_equals_run_at_its_alpha(here: Path, capsys: Capture) -> None:
    for alpha, name in (("0.2", "low"), ("0.9", "high")):
        assert main(["run", "sr.dni", "in.png", "-o", f"{name}.png", "--alpha", alpha, "--force"]) == 0
    line = "run sr.dni in.png -o half-out.png --alpha 0.2 --alpha-map half.png --alpha-map-to 0.9 --force"
    assert main(line.split()) == 0
    stdout = capsys.readouterr().out
    assert "psnr=0.9, gan=0.1" in stdout
    assert "2 levels" in stdout
    output, split = read_pixels("half-out.png"), 12 * 4
    # Each half runs only with its context: another order of sums may change a rounding.
    assert np.abs(output[:, :split].astype(int) - read_pixels("low.png")[:, :split]).max() <= 1
    assert np.abs(output[:, split:].astype(int) - read_pixels("high.png")[:, split:]).max() <= 1


def test_rules_hold_at_every_level_of_a_map(here: Path) -> None:
    """Groups with their own alpha keep it while the map varies the rest: each half equals run with rule and alpha."""
    pin = ["--alpha-for", "conv:*=0.8", "--alpha-for", "bias:*=base*0.5"]
    for alpha, name in (("0.2", "low"), ("0.9", "high")):
        assert main(["run", "sr.dni", "in.png", "-o", f"ruled-{name}.png", "--alpha", alpha, *pin, "--force"]) == 0
    line = "run sr.dni in.png -o ruled.png --alpha 0.2 --alpha-map half.png --alpha-map-to 0.9 --force"
    assert main([*line.split(), *pin]) == 0
    output, split = read_pixels("ruled.png").astype(int), 12 * 4
    # As above; ignoring a rule would change far more.
    for where, name in ((np.s_[:, :split], "low"), (np.s_[:, split:], "high")):
        assert np.abs(output[where] - read_pixels(f"ruled-{name}.png")[where]).max() <= 1
    assert main(line.replace("ruled.png", "free.png").split()) == 0
    assert np.abs(output - read_pixels("free.png")).max() > 5


def test_alpha_map_report_is_json(here: Path, capsys: Capture) -> None:
    line = "run sr.dni in.png -o soft-out.png --alpha-map soft.png --levels 5 --alpha-map-error --force --json"
    assert main(line.split()) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["alpha"], report["alpha_white"]) == ({"psnr": 0.0, "gan": 1.0}, {"psnr": 1.0, "gan": 0.0})
    [row] = report["images"]
    assert (row["width"], row["height"]) == (96, 80)
    figures = row["alpha_map"]
    assert (figures["levels"], figures["exact"]) == (5, False)
    assert 0 < figures["error_mean"] <= figures["error_max"] < 5


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("--alpha-map small.png", 4, "24x10 pixels and the image 24x20 (its output 96x80)"),
        ("--alpha-map clear.png", 3, "has transparency"),
        ("--alpha-map none.png", 3, "cannot be read"),
        ("--alpha-map half.png --alpha 0.5,0.6", 2, "sum to 1.1"),
        ("--alpha-map half.png --alpha-map-to nobody=1", 2, "nobody"),
        ("--alpha-map half.png --levels 1", 2, "levels"),
        ("--alpha 0.5 --alpha-map-to 0.9", 2, "give --alpha-map"),
        ("--alpha 0.5 --levels 4", 2, "give --alpha-map"),
        ("", 2, "Which alpha?"),
    ],
)
def test_refusals_print_one_sentence_and_write_nothing(
    here: Path, capsys: Capture, options: str, code: int, words: str
) -> None:
    assert main(["run", "sr.dni", "in.png", "-o", "refused.png", *options.split()]) == code
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1
    assert not Path("refused.png").exists()


def test_a_small_mask_may_be_scaled(here: Path) -> None:
    line = "run sr.dni in.png -o fitted.png --alpha-map small.png --alpha-map-fit --force"
    assert main(line.split()) == 0
    assert read_pixels("fitted.png").shape == (80, 96, 3)
