"""The effect families of benchmarks/paper_reproduction: their weights, the measures of their figures, and their training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("scipy")
pytest.importorskip("skimage")
torch = pytest.importorskip("torch")

from safetensors.numpy import load_file  # noqa: E402

from benchmarks.families import TRAINED_FAMILIES, WEIGHTS_FOLDER  # noqa: E402
from benchmarks.paper_reproduction import measures, scenes, styles  # noqa: E402
from benchmarks.paper_reproduction.bench import open_bench  # noqa: E402
from benchmarks.paper_reproduction.figures.style import corner_shares  # noqa: E402
from benchmarks.paper_reproduction.square import square  # noqa: E402
from benchmarks.paper_reproduction.train.texture import StyleDistance  # noqa: E402
from benchmarks.photographs import TEST_PHOTOGRAPHS  # noqa: E402

EFFECTS = ("style", "style_parts", "scenes", "digits")
ROOT = Path(__file__).resolve().parents[3]


def _to_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None] / 255


@pytest.mark.parametrize("family", EFFECTS)
def test_members_share_one_architecture_and_are_float16(family: str) -> None:
    from exporters.architectures.registry import find_architecture

    row = TRAINED_FAMILIES[family]
    members = {name: load_file(path) for name, path in row.members.items()}
    shapes = [{key: tensor.shape for key, tensor in tensors.items()} for tensors in members.values()]
    assert all(each == shapes[0] for each in shapes)
    assert {tensor.dtype for tensors in members.values() for tensor in tensors.values()} == {np.dtype(np.float16)}
    assert all(np.isfinite(tensor).all() for tensors in members.values() for tensor in tensors.values())
    assert find_architecture("auto", next(iter(members.values()))).name == row.architecture


def test_effect_weights_stay_below_10_mb() -> None:
    sizes = [path.stat().st_size for family in EFFECTS for path in (WEIGHTS_FOLDER / family).glob("*.safetensors")]
    assert sum(sizes) < 10e6


def test_partial_members_differ_only_in_the_fine_tuned_layers() -> None:
    mosaic, norm, conv = (load_file(TRAINED_FAMILIES["style_parts"].members[name]) for name in ("mosaic", "norm", "conv"))
    for key, tensor in mosaic.items():
        in_norm = ".in" in f".{key}"
        assert np.array_equal(tensor, norm[key]) != in_norm, key
        assert np.array_equal(tensor, conv[key]) == in_norm, key


def test_scenes_members_have_equal_batchnorm_statistics() -> None:
    members = [load_file(path) for path in TRAINED_FAMILIES["scenes"].members.values()]
    statistics = [key for key in members[0] if key.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(np.array_equal(members[0][key], other[key]) for other in members[1:] for key in statistics)


def test_alpha_changes_ink_and_slant_in_the_exported_engine() -> None:
    latents = np.random.default_rng(5).normal(size=(8, 32, 1, 1)).astype(np.float32)
    with open_bench() as bench:
        frames = [bench.between("digits", "thin", "bold", alpha).infer(latents) for alpha in (0.0, 0.5, 1.0)]
        slanted = bench.at("digits", "slanted").infer(latents)
    inks = np.array([measures.ink(frame) for frame in frames])
    assert (np.diff(inks, axis=0) > 0).all()
    assert measures.lean(slanted).mean() - measures.lean(frames[0]).mean() > 12


@given(st.floats(0, 1), st.floats(0, 1))
def test_corner_coefficients_are_on_the_simplex(fire: float, large: float) -> None:
    coefficients = corner_shares(fire, large)
    assert set(coefficients) < set(TRAINED_FAMILIES["style"].members)
    assert min(coefficients.values()) >= 0
    assert sum(coefficients.values()) == pytest.approx(1, abs=4 * np.finfo(float).eps)  # four products, three sums
    assert coefficients["fire_small"] + coefficients["fire_large"] == pytest.approx(fire, abs=1e-15)
    assert coefficients["mosaic_large"] + coefficients["fire_large"] == pytest.approx(large, abs=1e-15)


def test_color_distance_ignores_pixel_positions() -> None:
    pixels = square(TEST_PHOTOGRAPHS[0], 64)
    shuffled = np.random.default_rng(0).permutation(pixels.reshape(-1, 3)).reshape(pixels.shape)
    assert measures.color_distance(pixels, shuffled) < 1e-7  # the same sums, each rounded to float32
    assert measures.color_distance(pixels, pixels[..., ::-1]) > 0.02


def test_texture_distance_ignores_tone_and_color() -> None:
    pixels = square(TEST_PHOTOGRAPHS[0], 128)
    gray = np.rint(measures.luminance(pixels) * 100).astype(np.uint8)
    plain, toned = (np.repeat(each[..., None], 3, axis=2) for each in (gray, (gray.astype(int) ** 2 // 64).astype(np.uint8)))
    tinted = (plain * np.array([1, 0, 2], np.uint8)).astype(np.uint8)
    moved = measures.texture_distance(np.roll(plain, 1, axis=0) // 2 * 2, styles.STYLE_IMAGES["fire_large"])
    assert measures.texture_distance(tinted, plain) < 1e-6  # ranks are the same; float32 sorting
    assert moved > 0.01
    assert (
        measures.texture_distance(toned, plain) < 0.1 * moved
    )  # squares of small integers collide, so a few ranks become tied


def test_large_styles_have_longer_strokes() -> None:
    for style in ("mosaic", "fire"):
        lengths = [measures.stroke_length(styles.STYLE_IMAGES[f"{style}_{stroke}"]) for stroke in ("small", "large")]
        assert lengths[1] > 1.2 * lengths[0]


def test_lean_measures_the_angle_of_a_bar() -> None:
    rows, columns = np.mgrid[:32, :32]
    for degrees in (-20.0, 0.0, 20.0):
        middle = 15.5 - np.tan(np.radians(degrees)) * (rows - 15.5)
        bar = (np.abs(columns - middle) < 2) & (np.abs(rows - 15.5) < 10)
        digit = np.where(bar, 1.0, -1.0).astype(np.float32)[None, None]
        assert measures.lean(digit)[0] == pytest.approx(degrees, abs=1.5)  # the bar's edges are whole pixels
    assert measures.ink(digit)[0] == pytest.approx(bar.mean(), abs=1e-6)


def test_rise_depends_only_on_the_order_of_values() -> None:
    assert measures.rise([0.0, 0.1, 5.0]) == pytest.approx(1)
    assert measures.rise([3.0, 2.9, -1.0]) == pytest.approx(-1)
    assert np.isnan(measures.rise([2.0, 2.0, 2.0]))


def test_night_darkens_and_shallow_keeps_salient_pixels() -> None:
    images = torch.cat([_to_tensor(square(name, 96)) for name in TEST_PHOTOGRAPHS])
    mask, soft = scenes.saliency(images), scenes.blur_background(images)
    assert (scenes.darken_to_night(images).mean((1, 2, 3)) < 0.6 * images.mean((1, 2, 3))).all()
    assert mask.min() >= 0
    assert mask.max() <= 1
    salient, background = (mask == 1).expand_as(soft), (mask == 0).expand_as(soft)
    assert salient.any()
    assert torch.equal(soft[salient], images[salient])
    # float32: 0 * image + 1 * blur
    assert torch.allclose(soft[background], scenes.blur_images(images, scenes.BACKGROUND_SIGMA_PX)[background], atol=1e-6)


@pytest.mark.slow
def test_style_distance_is_smaller_to_the_style_than_to_a_photograph() -> None:
    for name in ("mosaic_small", "fire_small"):
        pixels = styles.STYLE_IMAGES[name]
        distance = StyleDistance(_to_tensor(pixels), seed=0)
        itself, photograph = (
            float(distance(_to_tensor(pixels[:128, 64:192]))),
            float(distance(_to_tensor(square("coffee", 128)))),
        )
        # A quarter of a style differs from the whole: the large fire has 0.46, the others less.
        assert itself < 0.6 * photograph, name


@pytest.mark.slow
@pytest.mark.parametrize("family", ["style", "scenes", "digits"])
def test_short_training_writes_all_members(family: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.paper_reproduction.train.{family}", "-o", str(tmp_path), "--steps", "0.004"]
    training = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert training.returncode == 0, training.stderr
    written = {path.relative_to(tmp_path).as_posix(): load_file(path) for path in tmp_path.rglob("*.safetensors")}
    committed = {path.relative_to(WEIGHTS_FOLDER if family == "style" else WEIGHTS_FOLDER / family).as_posix(): load_file(path)
            for folder in (("style", "style_parts") if family == "style" else (family,))
            for path in (WEIGHTS_FOLDER / folder).glob("*.safetensors")}  # fmt: skip
    assert set(written) == set(committed)
    for name, tensors in written.items():
        assert {key: t.shape for key, t in tensors.items()} == {key: t.shape for key, t in committed[name].items()}


@pytest.mark.slow
def test_commands_of_the_effect_families_page_run(tmp_path: Path) -> None:
    """Runs the last block of docs/effect-families.md as printed, on one of the test photographs."""
    import re
    import shlex

    from PIL import Image

    from dni_deploy.cli.main import main

    *_, block = re.findall(
        r"^```sh\n(.*?)^```$", (ROOT / "docs" / "effect-families.md").read_text(encoding="utf-8"), re.S | re.M
    )
    Image.fromarray(square(TEST_PHOTOGRAPHS[2], 96)).save(tmp_path / "photograph.png")
    for line in block.splitlines():
        program, *words = shlex.split(line)
        assert program == "dni-deploy"
        arguments = [str(ROOT / word) if word.startswith("benchmarks/") else word for word in words]
        arguments = [str(tmp_path / word) if word.endswith((".dni", ".png")) else word for word in arguments]
        assert main(arguments) == 0, line
    dusk, day = (np.asarray(Image.open(tmp_path / name)).mean() for name in ("dusk.png", "photograph.png"))
    assert dusk < 0.8 * day
