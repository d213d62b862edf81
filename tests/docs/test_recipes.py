"""docs/recipes.md: every example is parsed or run as printed, and its figures equal the benchmark's."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dni_deploy as dni
from dni_deploy.blending.group_rules import AlphaRules
from dni_deploy.blending.preset import Preset
from dni_deploy.blending.weight_groups import WeightGroups
from dni_deploy.cli.main import main

pytest.importorskip("torch", reason="the bundle is exported by PyTorch (extra `export`)")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
FIGURES = ROOT / "benchmarks" / "results" / "groups.json"


def block(language: str) -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.S | re.M)
    assert len(blocks) == 1, language
    return str(blocks[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sr.dni, whose layers are named body.0 to body.8, and in.png."""
    from tests.support.pico_architectures import pico_family

    path = tmp_path_factory.mktemp("recipes")
    dni.export(dict(zip(("psnr", "gan"), pico_family("compact", 2), strict=True)), path / "sr.dni")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)).save(path / "in.png")
    return path


def test_documented_commands_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for line in block("sh").splitlines():
        program, *arguments = shlex.split(line)
        assert program == "dni-deploy"
        assert main(arguments) == 0
    assert (folder / "blended.safetensors").exists()


def test_documented_python_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    frame = np.asarray(Image.open("in.png"))
    exec(block("python"), {"dni": dni, "frame": frame})


def test_documented_rules_are_parsed(folder: Path) -> None:
    bundle = dni.Bundle.open(folder / "sr.dni")
    groups = WeightGroups.from_graph(bundle.read_graph(), bundle.weight_names)
    for line in block("rules").splitlines():
        rows = AlphaRules.parse([line], groups, ("psnr", "gan")).compute_coefficients(np.array([0.4, 0.6]))
        assert (rows != [0.4, 0.6]).any() == (not line.endswith("=base"))


def test_documented_preset_applies(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "look.json"
    path.write_text(block("json"))
    recipe = Preset.read(path)
    with dni.open_session(folder / "sr.dni", alpha=recipe.alpha, rules=recipe.rules) as session:
        assert session.rules is not None
        assert [rule.count for rule in session.rules.describe_rules()] == [5, 9]  # biases; convolutions and slopes


def test_page_figures_equal_the_benchmark_results() -> None:
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) ms \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.M)
    networks = json.loads(FIGURES.read_text())["networks"].values()
    assert rows == [
        (network["title"], f"{network['ms']['plain']:.2f}", *(f"{ratio:.2f}" for ratio in network["ratio"].values()))
        for network in networks
    ]
