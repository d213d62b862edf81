"""The paper's page: weights, images and text match the results, and a number outside its bound is reported as not reached."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("skimage")
pytest.importorskip("matplotlib")

from benchmarks import photographs
from benchmarks.families import ROOT, TRAINED_FAMILIES, WEIGHTS_FOLDER, bundle, weights
from benchmarks.paper_reproduction.__main__ import IMAGES_FOLDER, PAGE_PATH, RESULT_PATH
from benchmarks.paper_reproduction.drawing import MAX_PNG_BYTES, canvas, png
from benchmarks.paper_reproduction.figures import FIGURE_MODULES
from benchmarks.paper_reproduction.page import page, sentence, verdict
from benchmarks.paper_reproduction.section import ReproductionGoal, Section, Table
from dni_deploy.checkpoints.family import Family


@pytest.mark.parametrize("family", TRAINED_FAMILIES)
def test_each_family_matches_and_is_stored_as_float16(family: str) -> None:
    row = TRAINED_FAMILIES[family]
    assert Family.from_checkpoints(row.members).names == tuple(row.members)
    assert set(row.controls) < set(row.members)
    assert len(row.tuned_members) >= 2
    for member in row.members:
        tensors = weights(family, member)
        assert all(np.isfinite(tensor).all() for tensor in tensors.values())
        # The files store float16, so every value is exactly a float16.
        assert all(np.array_equal(tensor, tensor.astype(np.float16)) for tensor in tensors.values())


def test_stored_weights_are_small_and_listed_in_the_table() -> None:
    stored = set(WEIGHTS_FOLDER.rglob("*.safetensors"))
    assert stored <= {path for row in TRAINED_FAMILIES.values() for path in row.members.values()}
    assert sum(path.stat().st_size for path in stored) < 25e6
    assert sum(path.stat().st_size for path in (ROOT / "dni_deploy" / "data").rglob("*") if path.is_file()) < 5e6


def test_no_test_photograph_is_used_for_training() -> None:
    assert not set(photographs.TRAIN_PHOTOGRAPHS) & set(photographs.TEST_PHOTOGRAPHS)
    assert set(photographs.TEXTURE_PHOTOGRAPHS) < set(photographs.TRAIN_PHOTOGRAPHS)
    # Also not under another name: two photographs of one scene would correlate.
    small = {
        name: np.asarray(Image.fromarray(photographs.photograph(name)).convert("L").resize((32, 32)), np.float64).ravel()
        for name in (*photographs.TRAIN_PHOTOGRAPHS, *photographs.TEST_PHOTOGRAPHS)
    }
    for test in photographs.TEST_PHOTOGRAPHS:
        for train in photographs.TRAIN_PHOTOGRAPHS:
            assert np.corrcoef(small[test], small[train])[0, 1] < 0.9, (test, train)
    with pytest.raises(KeyError):
        photographs.photograph("cat")


def test_added_noise_has_the_requested_sigma() -> None:
    gray = np.full((64, 64, 3), 128, np.uint8)
    noise = photographs.add_noise(gray, 20).astype(np.float64) - 128
    # 12288 samples: the standard error of sigma is 0.13.
    assert abs(noise.std() - 20) < 0.5
    assert abs(noise.mean()) < 0.8
    assert np.array_equal(photographs.add_noise(gray, 20), photographs.add_noise(gray, 20))


@pytest.mark.parametrize(
    ("direction", "value", "holds"),
    [
        ("at least", 1.0, True), ("at least", 0.99, False), ("above", 1.0, False), ("above", 1.01, True),
        ("at most", 1.0, True), ("at most", 1.01, False), ("below", 1.0, False), ("below", 0.99, True),
        ("at least", math.nan, False), ("at most", math.nan, False), ("below", math.nan, False), ("above", math.nan, False),
    ],
)  # fmt: skip
def test_goal_holds_only_within_its_bound(direction: str, value: float, holds: bool) -> None:
    goal = ReproductionGoal("figure", value, direction, 1.0)  # type: ignore[arg-type]
    assert goal.holds is holds
    assert ("**not reached**" in sentence(goal)) is not holds
    assert verdict([goal]) == ("It holds here." if holds else "It does not hold here.")


def make_result(*values: float) -> dict[str, object]:
    goals = tuple(ReproductionGoal(f"goal {index}", value, "at least", 0.0, "dB") for index, value in enumerate(values))
    section = Section("Title", "claims.", "done.", goals, tables=(Table(("a", "b"), (("x", 1.5),)),), otherwise="Because.")
    entry = section.to_json() | {"commit": "c", "date": "d", "seconds": 1.0}
    machine = {"cpu": "c", "cores": 2, "onnxruntime": "1", "numpy": "2", "python": "3"}
    return {"machine": machine, "sections": {"only": entry}}


def test_page_verdicts_follow_the_numbers() -> None:
    good, mixed, bad = (page(make_result(*values)) for values in ((1.0, 0.0), (1.0, -0.1), (-1.0, -0.1)))
    assert "It holds here." in good
    assert "| holds | 2 of 2 |" in good
    assert "Because." not in good
    assert "It holds in part here: 1 of 2 goals" in mixed
    assert "| holds in part | 1 of 2 |" in mixed
    assert "goal 1: -0.1 dB, to be at least 0 dB: **not reached**" in mixed
    assert "It does not hold here." in bad
    assert "| does not hold | 0 of 2 |" in bad
    assert "Because." in bad
    assert "| x | 1.50 |" in bad


def test_section_without_goals_is_an_error() -> None:
    with pytest.raises(ValueError, match="claims nothing"):
        Section("Title", "claims.", "done.", ())


def test_paper_page_in_docs_matches_the_stored_results() -> None:
    result = json.loads(RESULT_PATH.read_bytes())
    assert PAGE_PATH.read_text(encoding="utf-8") == page(result)
    assert tuple(result["sections"]) == FIGURE_MODULES
    names = {image["name"] for section in result["sections"].values() for image in section["pictures"]}
    assert names == {path.stem for path in IMAGES_FOLDER.glob("*.png")}
    assert all(path.stat().st_size < MAX_PNG_BYTES for path in IMAGES_FOLDER.glob("*.png"))


@pytest.mark.parametrize("name", FIGURE_MODULES)
def test_each_figure_module_has_a_figure_function(name: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.paper_reproduction.figures.{name}").figure)


@pytest.mark.slow
def test_large_png_is_quantized_or_an_error() -> None:
    def draw_noise(height: float) -> bytes:
        figure, axes = canvas(1, 1, height)
        side = (round(height * 110), 990, 3)
        axes[0, 0].imshow(np.random.default_rng(0).integers(0, 256, side, dtype=np.uint8), interpolation="nearest")
        return png(figure)

    assert len(draw_noise(1.5)) < MAX_PNG_BYTES
    with pytest.raises(ValueError, match="draw it smaller"):
        draw_noise(12.0)


@pytest.mark.slow
@pytest.mark.parametrize("family", TRAINED_FAMILIES)
def test_each_family_exports_to_a_bundle(family: str, tmp_path: Path) -> None:
    assert bundle(family, tmp_path).members == tuple(TRAINED_FAMILIES[family].members)
