"""The effect families of benchmarks/paper: their weights, what their figures measure, and what they were trained on."""

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


def _float(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None] / 255


@pytest.mark.parametrize("family", EFFECTS)
def test_members_are_of_one_architecture_in_float16(family: str) -> None:
    from exporters.architectures.registry import find_architecture

    row = TRAINED_FAMILIES[family]
    members = {name: load_file(path) for name, path in row.members.items()}
    shapes = [{key: tensor.shape for key, tensor in tensors.items()} for tensors in members.values()]
    assert all(each == shapes[0] for each in shapes)
    assert {tensor.dtype for tensors in members.values() for tensor in tensors.values()} == {np.dtype(np.float16)}
    assert all(np.isfinite(tensor).all() for tensors in members.values() for tensor in tensors.values())
    assert find_architecture("auto", next(iter(members.values()))).name == row.architecture


def test_the_weights_are_square() -> None:
    sizes = [path.stat().st_size for family in EFFECTS for path in (WEIGHTS_FOLDER / family).glob("*.safetensors")]
    assert sum(sizes) < 10e6


def test_only_the_named_parts_were_fine_tuned() -> None:
    mosaic, norm, conv = (load_file(TRAINED_FAMILIES["style_parts"].members[name]) for name in ("mosaic", "norm", "conv"))
    for key, tensor in mosaic.items():
        in_norm = ".in" in f".{key}"
        assert np.array_equal(tensor, norm[key]) != in_norm, key
        assert np.array_equal(tensor, conv[key]) == in_norm, key


def test_the_members_of_scenes_share_their_statistics() -> None:
    members = [load_file(path) for path in TRAINED_FAMILIES["scenes"].members.values()]
    statistics = [key for key in members[0] if key.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(np.array_equal(members[0][key], other[key]) for other in members[1:] for key in statistics)


def test_alpha_moves_the_ink_in_the_exported_engine() -> None:
    latents = np.random.default_rng(5).normal(size=(8, 32, 1, 1)).astype(np.float32)
    with open_bench() as bench:
        frames = [bench.between("digits", "thin", "bold", alpha).infer(latents) for alpha in (0.0, 0.5, 1.0)]
        slanted = bench.at("digits", "slanted").infer(latents)
    inks = np.array([measures.ink(frame) for frame in frames])
    assert (np.diff(inks, axis=0) > 0).all()
    assert measures.lean(slanted).mean() - measures.lean(frames[0]).mean() > 12


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_corners_shares_are_on_the_simplex(fire: float, large: float) -> None:
    shares = corner_shares(fire, large)
    assert set(shares) < set(TRAINED_FAMILIES["style"].members)
    assert min(shares.values()) >= 0
    assert sum(shares.values()) == pytest.approx(1, abs=4 * np.finfo(float).eps)  # four products, three sums
    assert shares["fire_small"] + shares["fire_large"] == pytest.approx(fire, abs=1e-15)
    assert shares["mosaic_large"] + shares["fire_large"] == pytest.approx(large, abs=1e-15)


def test_colours_do_not_depend_on_places() -> None:
    pixels = square(TEST_PHOTOGRAPHS[0], 64)
    shuffled = np.random.default_rng(0).permutation(pixels.reshape(-1, 3)).reshape(pixels.shape)
    assert measures.color_distance(pixels, shuffled) < 1e-7  # the same sums, each rounded in float32 as the other
    assert measures.color_distance(pixels, pixels[..., ::-1]) > 0.02


def test_texture_does_not_depend_on_tone_or_colour() -> None:
    pixels = square(TEST_PHOTOGRAPHS[0], 128)
    grey = np.rint(measures.luminance(pixels) * 100).astype(np.uint8)
    plain, toned = (np.repeat(each[..., None], 3, axis=2) for each in (grey, (grey.astype(int) ** 2 // 64).astype(np.uint8)))
    tinted = (plain * np.array([1, 0, 2], np.uint8)).astype(np.uint8)
    moved = measures.texture_distance(np.roll(plain, 1, axis=0) // 2 * 2, styles.STYLE_IMAGES["fire_large"])
    assert measures.texture_distance(tinted, plain) < 1e-6  # ranks are the same; float32 sorting
    assert moved > 0.01
    assert measures.texture_distance(toned, plain) < 0.1 * moved  # squares of small integers meet: few ranks are tied anew


def test_strokes_are_longer_in_a_larger_picture() -> None:
    for style in ("mosaic", "fire"):
        lengths = [measures.stroke_length(styles.STYLE_IMAGES[f"{style}_{stroke}"]) for stroke in ("small", "large")]
        assert lengths[1] > 1.2 * lengths[0]


def test_lean_is_the_angle_of_a_leaning_bar() -> None:
    rows, columns = np.mgrid[:32, :32]
    for degrees in (-20.0, 0.0, 20.0):
        middle = 15.5 - np.tan(np.radians(degrees)) * (rows - 15.5)
        bar = (np.abs(columns - middle) < 2) & (np.abs(rows - 15.5) < 10)
        digit = np.where(bar, 1.0, -1.0).astype(np.float32)[None, None]
        assert measures.lean(digit)[0] == pytest.approx(degrees, abs=1.5)  # the bar's edges are whole pixels
    assert measures.ink(digit)[0] == pytest.approx(bar.mean(), abs=1e-6)


def test_rise_is_of_the_order_alone() -> None:
    assert measures.rise([0.0, 0.1, 5.0]) == pytest.approx(1)
    assert measures.rise([3.0, 2.9, -1.0]) == pytest.approx(-1)
    assert np.isnan(measures.rise([2.0, 2.0, 2.0]))


def test_night_is_dark_and_shallow_keeps_what_is_salient() -> None:
    pictures = torch.cat([_float(square(name, 96)) for name in TEST_PHOTOGRAPHS])
    mask, soft = scenes.saliency(pictures), scenes.blur_background(pictures)
    assert (scenes.darken_to_night(pictures).mean((1, 2, 3)) < 0.6 * pictures.mean((1, 2, 3))).all()
    assert mask.min() >= 0
    assert mask.max() <= 1
    kept, lost = (mask == 1).expand_as(soft), (mask == 0).expand_as(soft)
    assert kept.any()
    assert torch.equal(soft[kept], pictures[kept])
    assert torch.allclose(
        soft[lost], scenes.blur_images(pictures, scenes.BACKGROUND_SIGMA_PX)[lost], atol=1e-6
    )  # 0 * image + 1 * blur, float32


def test_a_style_is_nearer_to_itself_than_a_photograph_is() -> None:
    for name in ("mosaic_small", "fire_small"):
        pixels = styles.STYLE_IMAGES[name]
        distance = StyleDistance(_float(pixels), seed=0)
        itself, photograph = float(distance(_float(pixels[:128, 64:192]))), float(distance(_float(square("coffee", 128))))
        assert itself < 0.6 * photograph, (
            name
        )  # a quarter of a style is not all of it: the large fire has 0.46, the others less


@pytest.mark.slow
@pytest.mark.parametrize("family", ["style", "scenes", "digits"])
def test_a_training_of_a_few_steps_writes_the_family(family: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.paper_reproduction.train.{family}", "-o", str(tmp_path), "--steps", "0.004"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    written = {path.relative_to(tmp_path).as_posix(): load_file(path) for path in tmp_path.rglob("*.safetensors")}
    kept = {path.relative_to(WEIGHTS_FOLDER if family == "style" else WEIGHTS_FOLDER / family).as_posix(): load_file(path)
            for folder in (("style", "style_parts") if family == "style" else (family,))
            for path in (WEIGHTS_FOLDER / folder).glob("*.safetensors")}  # fmt: skip
    assert set(written) == set(kept)
    for name, tensors in written.items():
        assert {key: t.shape for key, t in tensors.items()} == {key: t.shape for key, t in kept[name].items()}


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    """docs/effect-families.md: the last block, as printed, with one of its photographs."""
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
        there = [str(ROOT / word) if word.startswith("benchmarks/") else word for word in words]
        there = [str(tmp_path / word) if word.endswith((".dni", ".png")) else word for word in there]
        assert main(there) == 0, line
    dusk, day = (np.asarray(Image.open(tmp_path / name)).mean() for name in ("dusk.png", "photograph.png"))
    assert dusk < 0.8 * day
