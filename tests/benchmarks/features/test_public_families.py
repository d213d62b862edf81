"""The evaluation on public families: figures against hand-computed ones, and the page against the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("skimage")
from benchmarks.features import public_families
from benchmarks.features.public_families import FAMILIES, compute_loss, expected_verdict, format_summary, format_table
from dni_deploy.checkpoints.graph_family import read_graph_family, read_graph_files
from dni_deploy.compatibility.verdict import VERDICTS
from tests.support.graph_files import write_model

RESULT = json.loads(public_families.RESULT_PATH.read_text(encoding="utf-8"))


def test_a_loss_is_that_of_the_mean_error_against_the_worse_member() -> None:
    one = {"first": 1.0, "halfway": 3.0, "second": 2.0, "pixel_blend": 1.0}
    other = {"first": 3.0, "halfway": 5.0, "second": 1.0, "pixel_blend": 1.0}
    assert compute_loss({"a": one, "b": other, "c": {}}, ("a", "b")) == pytest.approx(10 * np.log10(4 / 2))
    assert [expected_verdict(loss) for loss in (1.0, 1.1, 3.0, 3.1)] == [
        "blends well", "blends with caveats", "blends with caveats", "will not blend",
    ]  # fmt: skip
    assert {expected_verdict(loss) for loss in (0, 2, 4)} <= set(VERDICTS)


def test_errors_are_measured_at_scale_1_with_noise(tmp_path: Path) -> None:
    def keep_image(model: Any) -> None:
        for tensor in model.graph.initializer:
            tensor.raw_data = np.zeros_like(np.frombuffer(tensor.raw_data, np.float32)).tobytes()

    files = {name: write_model(tmp_path / f"{name}.onnx", change=keep_image) for name in "ab"}
    family = read_graph_family(read_graph_files(files))
    with public_families.open_runner(family.family, family) as runner:
        errors = public_families.measure_errors(runner, ("a", "b"), np.full((192, 192, 3), 128, np.uint8))
    # The network returns its input, so what remains is the noise.
    assert errors == dict.fromkeys(("first", "halfway", "second", "pixel_blend"), pytest.approx((10 / 255) ** 2, rel=0.02))


def test_the_page_shows_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = public_families.PAGE_PATH.read_text(encoding="utf-8")
    assert format_table(RESULT) in page
    assert format_summary(RESULT) in page
    monkeypatch.setattr(public_families, "PAGE_PATH", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(page, encoding="utf-8")
    public_families.write_page(RESULT)
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page


def test_every_pair_is_in_the_result_and_agrees_where_the_rules_were_set() -> None:
    count = sum(len(family.members) * (len(family.members) - 1) // 2 for family in FAMILIES)
    assert len(RESULT["pairs"]) == count
    assert all(row["agrees"] for row in RESULT["pairs"] if row["listed"])
    assert all(row["agrees"] == (row["verdict"] == expected_verdict(row["loss"])) for row in RESULT["pairs"])
