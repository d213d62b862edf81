"""check: relatives blend, strangers do not, and the report says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dni_deploy.agreement import LayerIndex
from dni_deploy.errors import CheckpointError, MismatchError, PictureError, UsageError
from dni_deploy.family import Family
from dni_deploy.midpoint import midpoint, probe_input
from dni_deploy.signature import Signature
from dni_deploy.verbs.check import check
from dni_deploy.verdict import judged

pytest.importorskip("torch")
from tests.exporters.pico import PICO, pico_family, pico_state


def named(states: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(zip("abcdefgh", states, strict=False))


@pytest.mark.parametrize("name", PICO)
def test_relatives_blend(name: str) -> None:
    report = check(named(pico_family(name, 2)))
    assert report.verdict == "blends well", report.reasons
    assert report.architecture == PICO[name].architecture
    assert report.median is not None
    assert report.median > 0.98  # a tenth of noise leaves 1 / sqrt(1 + 0.01) = 0.995
    assert len(report.midpoints) == 1
    assert report.advice == report.notes == ()


@pytest.mark.parametrize("name", PICO)
def test_strangers_do_not(name: str) -> None:
    report = check(named([pico_state(name, 0), pico_state(name, 1)]))
    assert report.verdict == "will not blend"
    assert report.median is not None
    assert report.median < 0.1
    assert any("Fine-tune" in sentence for sentence in report.advice)


def permuted(state: dict[str, Any]) -> dict[str, Any]:
    """The same function with the filters of the first layer in another order: what training apart does."""
    order = np.random.default_rng(1).permutation(len(state["model.0.weight"]))
    changed = dict(state)
    changed["model.0.weight"], changed["model.0.bias"] = state["model.0.weight"][order], state["model.0.bias"][order]
    changed["model.2.weight"] = state["model.2.weight"][:, order]
    return changed


def test_one_layer_out_of_order_asks_for_care_at_least() -> None:
    state = pico_state("dncnn_bn")
    report = check({"a": state, "b": permuted(state)})
    assert report.verdict != "blends well"
    assert any("model.0.weight" in sentence for sentence in report.reasons)


def test_pairs() -> None:
    states = pico_family("srcnn_959", 6)
    assert [row.pair for row in check(named(states[:3])).midpoints] == ["a - b", "a - c", "b - c"]
    assert [row.pair for row in check(named(states)).midpoints] == ["a - b", "a - c", "a - d", "a - e", "a - f"]


def test_an_unknown_network_is_judged_by_its_filters() -> None:
    """No architecture, so nothing runs: the verdict stands on the index, and the report says so."""
    random = np.random.default_rng(0)
    state = {"strange.weight": random.standard_normal((8, 8, 3, 3)), "strange.bias": random.standard_normal(8)}
    report = check({"a": state, "b": {key: value + 0.01 for key, value in state.items()}})
    assert (report.verdict, report.architecture, report.midpoints) == ("blends well", None, ())
    assert any("No midpoint was computed" in note for note in report.notes)


def test_nothing_to_compare() -> None:
    report = check({"a": {"scale": np.ones(3)}, "b": {"scale": np.zeros(3)}})
    assert (report.verdict, report.median) == ("blends with care", None)


def test_the_report_is_json_with_the_figures(tmp_path: Path) -> None:
    fields = json.loads(json.dumps(check(named(pico_family("dncnn_bn", 2))).to_json(), allow_nan=False))
    assert fields["verdict"] == "blends well"
    assert [row["layer"] for row in fields["layers"]] == [f"model.{place}.weight" for place in (0, 2, 5, 8, 11)]
    assert all(row["median"] == row["quantiles"][2] for row in fields["layers"])
    assert [row["layer"] for row in fields["drifts"]] == ["model.3", "model.6", "model.9"]
    assert all(row["variance"] >= 1 for row in fields["drifts"])


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "html"])
def test_reports(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"report.{suffix}"
    family = Family.of(named(pico_family("dncnn_bn", 2)))
    assert check(family, report=path).report == str(path)
    data = path.read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "html": b"<!doctype html>"}[suffix])
    if suffix == "html":
        text = data.decode()
        assert "<svg" in text
        assert "blends well" in text
        assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
            "http://creativecommons.org", ""
        )
        assert "<script" not in text
    with pytest.raises(UsageError, match="exists"):
        check(family, report=path)
    check(family, report=path, force=True)
    assert path.read_bytes() == data  # the same family, the same bytes
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_bad_requests(tmp_path: Path) -> None:
    family = named(pico_family("dncnn", 2))
    with pytest.raises(UsageError, match=r"\.html, \.png"):
        check(family, report=tmp_path / "report.txt")
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(PictureError):
        check(family, image=tmp_path / "no.png")
    with pytest.raises(MismatchError):
        check({"a": pico_state("dncnn"), "b": pico_state("compact")})
    with pytest.raises(CheckpointError, match="does not exist"):
        check({"a": tmp_path / "a.pth", "b": tmp_path / "b.pth"})


def test_a_picture_of_ones_own(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    family = named(pico_family("transformer_net", 2))
    assert check(family, image=tmp_path / "x.png").midpoints != check(family).midpoints


def test_a_bundle_runs_on_its_engine(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from tests import pico_bundle

    bundle = pico_bundle.write(tmp_path / "x.dni", count=3)
    report = check(bundle.path)
    assert (report.members, report.architecture) == (("a", "b", "c"), "pico")
    assert len(report.midpoints) == 3
    assert all(row.finite for row in report.midpoints)


@pytest.mark.parametrize(
    ("signature", "shape"),
    [
        (Signature(), (1, 3, 96, 96)),
        (Signature(input_channels=1, multiple=10), (1, 1, 90, 90)),
        (Signature(input_channels=4, multiple=128), (1, 4, 128, 128)),
        (Signature(input_channels=7, kind="latent"), (1, 7, 1, 1)),
    ],
)
def test_the_input_of_the_probe(signature: Signature, shape: tuple[int, ...]) -> None:
    x = probe_input(signature)
    assert (x.shape, x.dtype) == (shape, np.float32)
    if signature.kind == "image":
        small = np.full((5, 300, 3), 255, np.uint8)
        span = Signature(low=-1.0, high=1.0, multiple=4)
        assert (probe_input(span, small) == 1).all()
        assert 0 <= x.min() < 0.2 < 0.8 < x.max() <= 1


def test_figures_of_the_midpoint() -> None:
    random = np.random.default_rng(0)
    ends = [random.standard_normal((1, 1, 64, 64)).astype(np.float32) for _ in range(2)]
    mean = (ends[0] + ends[1]) / 2
    exact = midpoint("a - b", ends[0], mean, ends[1])
    assert (exact.error, exact.departure, exact.collapsed) == (0, 0, False)
    same = midpoint("a - b", mean, mean, mean)
    assert (same.error, same.departure, same.contrast, same.collapsed) == (0, 0, pytest.approx(1), False)
    assert midpoint("a - b", ends[0], np.zeros_like(mean), ends[1]).collapsed
    assert midpoint("a - b", mean, 3 * mean, mean).collapsed
    assert midpoint("a - b", mean, mean + 0.1 * mean.std(), mean).departed
    assert midpoint("a - b", mean, np.full_like(mean, np.nan), mean).collapsed
    assert midpoint("a - b", ends[0], mean + 0.5, ends[1], span=2).brightness == pytest.approx(0.25, abs=1e-6)  # float32 sums


@pytest.mark.parametrize(
    ("median", "verdict"),
    [
        (1.0, "blends well"),
        (0.689, "blends well"),
        (0.688, "blends with care"),
        (0.1, "blends with care"),
        (0.099, "will not blend"),
    ],
)
def test_the_bounds_of_the_paper(median: float, verdict: str) -> None:
    row = LayerIndex("a - b", "w", (4, 4, 3, 3), 4, 0, (median,) * 5)
    found, reasons, advice = judged([row], {"a - b": median}, [])
    assert found == verdict
    assert reasons
    assert bool(advice) == (verdict != "blends well")


def test_a_collapsed_midpoint_outweighs_the_index() -> None:
    row = LayerIndex("a - b", "w", (4, 4, 3, 3), 4, 0, (0.99,) * 5)
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    assert judged([row], {"a - b": 0.99}, [midpoint("a - b", x, x * 0, x)])[0] == "will not blend"
    assert judged([row], {"a - b": 0.99}, [midpoint("a - b", x, x + 0.3, x)])[0] == "blends with care"
