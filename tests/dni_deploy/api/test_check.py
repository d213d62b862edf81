"""check: relatives blend, strangers do not, and the report says why."""

from __future__ import annotations

import json
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from dni_deploy.api.check import check
from dni_deploy.api.export import export
from dni_deploy.api.recalibrate import recalibrate
from dni_deploy.api.refit import refit
from dni_deploy.blending.batchnorm_stats_file import read_recalibration
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.checkpoints.family import Family
from dni_deploy.cli.main import main
from dni_deploy.compatibility.correlation import LayerCorrelation, find_filter_layers
from dni_deploy.compatibility.distance import measure_network_distance, measure_whiteness, order_by_shortest_path
from dni_deploy.compatibility.midpoint import (
    Barrier,
    BatchNormMismatch,
    measure_barrier,
    measure_batchnorm_mismatches,
    measure_midpoint,
)
from dni_deploy.compatibility.permutation import align_permutations
from dni_deploy.compatibility.probes import draw_test_image, make_sample_inputs
from dni_deploy.compatibility.runner import open_runner
from dni_deploy.compatibility.verdict import PairEvidence, judge_pair
from dni_deploy.errors import (
    VERDICT_EXIT_CODE,
    CheckpointError,
    EngineError,
    ImageFileError,
    InputError,
    MismatchError,
    UsageError,
)
from dni_deploy.imaging.crops import read_crops
from dni_deploy.signature import Signature

pytest.importorskip("torch")
from tests.support.pico_architectures import PICO, pico_family, pico_state


def named(states: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(zip("abcdefgh", states, strict=False))


@pytest.mark.parametrize("name", PICO)
def test_relatives_blend(name: str) -> None:
    report = check(named(pico_family(name, 2)))
    assert report.verdict == "blends well", report.reasons
    assert report.architecture == PICO[name].architecture
    assert report.median is not None
    assert report.median > 0.98  # a tenth of noise leaves 1 / sqrt(1 + 0.01) = 0.995
    assert len(report.midpoints) == (1 if PICO[name].architecture == "dcgan" else 2)
    assert report.notes == ()
    assert set(report.pairs[0].causes) <= {"drift", "noise"}  # the members differ by noise, and random BatchNorms drift


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
    assert [row.pair for row in check(named(states[:3])).pairs] == ["a - b", "a - c", "b - c"]
    assert [row.pair for row in check(named(states)).pairs] == ["a - b", "a - c", "a - d", "a - e", "a - f"]


def test_an_unknown_network_is_judged_by_its_filters() -> None:
    """No architecture, so nothing runs: the verdict stands on the index, and the report says so."""
    random = np.random.default_rng(0)
    state = {"strange.weight": random.standard_normal((8, 8, 3, 3)), "strange.bias": random.standard_normal(8)}
    report = check({"a": state, "b": {key: value + 0.01 for key, value in state.items()}})
    assert (report.verdict, report.architecture, report.midpoints) == ("blends well", None, ())
    assert any("No midpoint was computed" in note for note in report.notes)


def test_an_engine_that_fails_its_verification_gives_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With a verdict, `check --strict` would pass on a machine whose engine computes something else than the reference."""

    def open_broken(*arguments: object, **options: object) -> None:
        raise EngineError("The engine differs from ONNX Runtime by 3.0e-01 of the largest value.")

    monkeypatch.setattr("dni_deploy.api.check.open_runner", open_broken)
    files = []
    for name, state in named(pico_family("srcnn_959", 2)).items():
        save_file(state, tmp_path / f"{name}.safetensors")
        files.append(f"{name}={tmp_path / name}.safetensors")
    with pytest.raises(EngineError, match="differs from ONNX Runtime"):
        check(dict(member.split("=") for member in files))
    assert main(["check", *files, "--strict", "--json"]) == 11
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["error"]["kind"] == "EngineError"


def test_an_engine_that_fails_while_it_runs_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise EngineError("The GPU failed.")

    monkeypatch.setattr("dni_deploy.api.check.measure_pairs", fail)
    with pytest.raises(EngineError, match="GPU failed"):
        check(named(pico_family("srcnn_959", 2)))


def test_nothing_to_compare() -> None:
    report = check({"a": {"scale": np.ones(3)}, "b": {"scale": np.zeros(3)}})
    assert (report.verdict, report.median) == ("blends with caveats", None)


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
    family = Family.from_checkpoints(named(pico_family("dncnn_bn", 2)))
    assert check(family, report=path).report == str(path)
    data = path.read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "html": b"<!doctype html>"}[suffix])
    if suffix == "html":
        text = data.decode()
        assert text.count("data:image/png;base64,") == 2 * 4  # two pictures: first, halfway, mean of the pixels, second
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
    with pytest.raises(ImageFileError):
        check(family, image=tmp_path / "no.png")
    with pytest.raises(CheckpointError, match="does not exist"):
        check({"a": tmp_path / "a.pth", "b": tmp_path / "b.pth"})


def test_a_picture_of_ones_own(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    family = named(pico_family("transformer_net", 2))
    assert check(family, image=tmp_path / "x.png").midpoints != check(family).midpoints


def test_a_bundle_runs_on_its_engine(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from tests.support import pico_bundle

    bundle = pico_bundle.write(tmp_path / "x.dni", count=3)
    report = check(bundle.path)
    assert (report.members, report.architecture) == (("a", "b", "c"), "pico")
    assert len(report.midpoints) == 2 * 3  # pictures and pairs
    assert all(row.finite for row in report.midpoints)


@pytest.mark.parametrize(
    ("signature", "shape"),
    [
        (Signature(), (1, 3, 96, 96)),
        (Signature(input_channels=1, multiple=10), (1, 1, 90, 90)),
        (Signature(input_channels=4, multiple=128), (1, 4, 128, 128)),
        (Signature(scale=4), (1, 3, 48, 48)),
        (Signature(input_channels=7, kind="latent"), (16, 7, 1, 1)),
    ],
)
def test_the_input_of_the_probe(signature: Signature, shape: tuple[int, ...]) -> None:
    [probe] = make_sample_inputs(signature, [("drawn", draw_test_image(96 * min(signature.scale, 2)))])
    assert (probe.x.shape, probe.x.dtype) == (shape, np.float32)
    assert (probe.reference is None) == (signature.scale == 1)
    if probe.reference is not None:
        assert probe.reference.shape == (1, 3, 192, 192)
    if signature.kind == "image":
        assert 0 <= probe.x.min() < 0.2 < 0.8 < probe.x.max() <= 1
        small = np.full((5, 300, 3), 255, np.uint8)
        assert (make_sample_inputs(Signature(low=-1.0, high=1.0, multiple=4), [("white", small)])[0].x == 1).all()


def test_figures_of_the_midpoint() -> None:
    random = np.random.default_rng(0)
    ends = [random.standard_normal((1, 1, 64, 64)).astype(np.float32) for _ in range(2)]
    mean = (ends[0] + ends[1]) / 2
    exact = measure_midpoint("a - b", ends[0], mean, ends[1])
    assert (exact.error, exact.departure, exact.is_collapsed) == (0, 0, False)
    same = measure_midpoint("a - b", mean, mean, mean)
    assert (same.error, same.departure, same.contrast, same.is_collapsed) == (0, 0, pytest.approx(1), False)
    assert measure_midpoint("a - b", ends[0], np.zeros_like(mean), ends[1]).is_collapsed
    assert measure_midpoint("a - b", mean, 3 * mean, mean).is_collapsed
    assert measure_midpoint("a - b", mean, mean + 0.1 * mean.std(), mean).is_outside_ends
    assert measure_midpoint("a - b", mean, np.full_like(mean, np.nan), mean).is_collapsed
    assert measure_midpoint("a - b", ends[0], mean + 0.5, ends[1], span=2).brightness == pytest.approx(
        0.25, abs=1e-6
    )  # float32 sums


@pytest.mark.parametrize(
    ("median", "verdict"),
    [
        (1.0, "blends well"),
        (0.689, "blends well"),
        (0.688, "blends with caveats"),
        (0.1, "blends with caveats"),
        (0.099, "will not blend"),
    ],
)
def test_the_bounds_of_the_paper(median: float, verdict: str) -> None:
    found = judge_pair("a - b", PairEvidence([layer(median)], median))
    assert found.verdict == verdict
    assert found.reasons
    assert bool(found.advice) == (verdict != "blends well")


def layer(median: float, **more: Any) -> LayerCorrelation:
    return LayerCorrelation("a - b", "w", (40, 4, 3, 3), 40, 0, (median,) * 5, **more)


def test_the_picture_halfway_outweighs_the_index() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)

    def verdict(*outputs: Any) -> str:
        return judge_pair("a - b", PairEvidence([layer(0.99)], 0.99, midpoints=[measure_midpoint("a - b", *outputs)])).verdict

    assert verdict(x, x, x) == "blends well"
    assert verdict(x, x * 0, x) == "will not blend"  # faded
    assert verdict(x, x[..., ::-1], x) == "will not blend"  # another picture, with the same contrast
    assert verdict(x, x + 0.3, x) == "blends with caveats"
    assert verdict(x, x[..., ::-1] * 1.2, -x) == "blends with caveats"  # the ends are as far from each other


def test_what_is_wrong_has_a_name() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    astray = [measure_midpoint("a - b", x, x + 0.1, x)]
    flipped = judge_pair("a - b", PairEvidence([layer(0.99, flipped=8)], 0.99, midpoints=astray))
    assert (flipped.verdict, flipped.causes) == ("will not blend", ("flipped",))
    permuted = judge_pair("a - b", PairEvidence([layer(0.3, aligned_median=0.99, chance=0.2)], 0.3, midpoints=astray))
    assert (permuted.verdict, permuted.causes) == ("will not blend", ("permuted",))
    lucky = judge_pair("a - b", PairEvidence([layer(0.05, aligned_median=0.8, chance=0.75)], 0.05))
    assert (lucky.verdict, lucky.causes) == ("will not blend", ("apart",))
    scaled = judge_pair("a - b", PairEvidence([layer(0.99, scale=10.0)], 0.99))
    assert (scaled.verdict, scaled.causes) == ("blends with caveats", ("scale",))
    noise = judge_pair("a - b", PairEvidence([layer(0.9)], 0.9, distance=0.3, whiteness=1.0))
    assert (noise.verdict, noise.causes) == ("blends with caveats", ("noise",))
    wall = judge_pair("a - b", PairEvidence([layer(0.9)], 0.9, barriers=[Barrier("a - b", "x", 0.01, 0.03, 0.01)]))
    assert (wall.verdict, wall.causes) == ("will not blend", ("barrier",))
    hill = judge_pair("a - b", PairEvidence([layer(0.9)], 0.9, barriers=[Barrier("a - b", "x", 0.01, 0.015, 0.01)]))
    assert (hill.verdict, hill.causes) == ("blends with caveats", ("barrier",))
    drift = judge_pair("a - b", PairEvidence([layer(0.9)], 0.9, norm_mismatches=[BatchNormMismatch("a - b", "bn", 0.3, 0.0)]))
    assert (drift.verdict, drift.causes) == ("blends well", ("drift",))
    assert any("recalibration" in sentence for sentence in drift.advice)
    left = judge_pair(
        "a - b",
        PairEvidence([layer(0.9)], 0.9, norm_mismatches=[BatchNormMismatch("a - b", "bn", 0.3, 0.0)], is_recalibrated=True),
    )
    assert any("what its re-estimated statistics say" in sentence for sentence in left.reasons)
    assert any("--force" in sentence for sentence in left.advice)


def test_the_loss_barrier() -> None:
    clean = np.full((1, 3, 4, 4), 0.25, np.float32)
    outputs = (clean + np.float32(0.1), clean + np.float32(0.2), clean - np.float32(0.1))
    found = measure_barrier("a - b", "x", outputs, clean, -1.0, 1.0)  # a range of 2: an error of 0.1 is 0.05 of it
    assert found.first == pytest.approx(0.0025, rel=1e-5)  # float32 inputs
    assert found.barrier == pytest.approx(0.01 - 0.0025, rel=1e-5)
    assert found.decibels == found.beyond == pytest.approx(20 * np.log10(2), abs=1e-4)
    assert found.is_blocking
    assert measure_barrier("a - b", "x", (clean, clean, clean), clean, 0, 1).decibels == 0


def test_a_network_that_restores_is_tried_with_noise() -> None:
    """The pico DnCNN with its last layer a hundredth gives back its input nearly: noise stays, so ends and middle err alike."""
    family = pico_family("dncnn", 2)
    for state in family:
        state["model.6.weight"], state["model.6.bias"] = state["model.6.weight"] / 100, state["model.6.bias"] / 100
    report = check(named(family))
    assert [row.test_image for row in report.barriers] == [f"astronaut, noise {sigma}" for sigma in (20, 40, 60)]
    # Clipped noise of sigma 20 of 255: a mean squared error of (20 / 255)^2 less what the clipping takes, a fifth at most here.
    assert report.barriers[0].first == pytest.approx((20 / 255) ** 2, rel=0.2)
    assert all(abs(row.decibels) < 0.5 for row in report.barriers)
    assert check(named(pico_family("cyclegan", 2))).barriers == ()


def test_references(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    for folder in ("in", "clean"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            Image.fromarray(pixels if number else pixels[::-1]).save(tmp_path / folder / f"{number}.png")
    family = named(pico_family("srcnn_959", 2))
    report = check(family, image=tmp_path / "in", reference=tmp_path / "clean")
    assert [row.test_image for row in report.barriers] == ["0.png", "1.png"]
    assert report.to_json()["barriers"][0]["decibels"] == report.barriers[0].decibels
    with pytest.raises(MismatchError, match="1 images and 2 references"):
        check(family, image=tmp_path / "in" / "0.png", reference=tmp_path / "clean")
    with pytest.raises(UsageError, match="give --image"):
        check(family, reference=tmp_path / "clean")
    Image.fromarray(pixels[:50]).save(tmp_path / "half.png")
    with pytest.raises(MismatchError, match="is 96x50; the network makes 96x96 of 96x96"):
        check(family, image=tmp_path / "in" / "0.png", reference=tmp_path / "half.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        check(family, image=tmp_path / "empty")


def test_another_network_is_a_verdict() -> None:
    state = pico_state("dncnn")
    report = check({"a": state, "b": pico_state("compact"), "c": pico_family("dncnn", 2)[1]})
    assert report.verdict == "will not blend"
    assert [(row.pair, row.verdict) for row in report.pairs] == [("a - c", "blends well"), ("a - b", "will not blend")]
    assert (report.mismatches[0].member, report.mismatches[0].differences[0].key) == ("b", "model.0.weight")
    assert "does not fit" in report.reasons[0]
    assert report.members == ("a", "c", "b")
    alone = check({"a": state, "b": pico_state("dncnn_bn")})
    assert (alone.verdict, alone.median, alone.layers) == ("will not blend", None, ())
    json.dumps(alone.to_json(), allow_nan=False)


def test_a_family_of_one_is_no_family() -> None:
    with pytest.raises(UsageError, match="2 to 16 members, 1 given"):
        check({"a": pico_state("dncnn")})


def test_the_order_of_members() -> None:
    """Members along a straight line, given out of order."""
    first, second = pico_family("srcnn_919", 2)
    states = {name: {key: first[key] + way * (second[key] - first[key]) for key in first} for name, way in
              {"far": 3.0, "first": 0.0, "second": 1.0}.items()}  # fmt: skip
    report = check(states)
    assert report.order == ("far", "second", "first")
    assert report.distances[0][1] > report.distances[0][2] > report.distances[1][2] > 0
    assert any("in the order far, second, first" in sentence for sentence in report.advice)


def test_shortest_way_is_the_shortest() -> None:
    for seed in range(20):
        points = np.random.default_rng(seed).random((6, 3))
        table = np.linalg.norm(points[:, None] - points[None], axis=2)
        best = min(sum(table[a, b] for a, b in pairwise(way)) for way in permutations(range(6)))
        way = order_by_shortest_path(table)
        assert sorted(way) == list(range(6))
        assert sum(table[a, b] for a, b in pairwise(way)) == pytest.approx(best, rel=1e-12)  # other order of a float64 sum
        assert way[0] < way[-1]


def test_anchors_of_the_distance() -> None:
    random = np.random.default_rng(0)
    state = {f"{layer}.weight": random.standard_normal((64, 64, 3, 3)) for layer in "ab"}
    other = {f"{layer}.weight": random.standard_normal((64, 64, 3, 3)) for layer in "ab"}
    assert measure_network_distance(state, state) == 0
    assert measure_network_distance(state, other) == pytest.approx(1, abs=0.01)  # 1 / sqrt(73,728 numbers) is 0.004
    assert measure_network_distance(state, {key: -value for key, value in state.items()}) == pytest.approx(np.sqrt(2))
    half = {key: (value + other[key]) / 2 for key, value in state.items()}
    moved = {**state, "a.running_mean": np.ones(64)}
    assert measure_network_distance(moved, {**moved, "a.running_mean": np.zeros(64)}) == 0  # measured, not learned
    assert measure_network_distance(state, half) < measure_network_distance(state, other)


def test_whiteness_tells_noise_from_training() -> None:
    random = np.random.default_rng(0)
    state = {"w": random.standard_normal((64, 32, 3, 3))}
    noisy = {"w": state["w"] + 0.1 * random.standard_normal(state["w"].shape)}
    trained = {"w": state["w"] + np.einsum("i,jkl->ijkl", random.standard_normal(64), random.standard_normal((32, 3, 3)))}
    assert measure_whiteness(state, noisy, {"w": 0}) == pytest.approx(1, abs=0.05)
    assert (measure_whiteness(state, trained, {"w": 0}) or 0) > 5
    assert measure_whiteness(state, state, {"w": 0}) is None


def test_norm_inputs_are_those_of_torch(tmp_path: Path) -> None:
    """The same statistics from the exported graph and from PyTorch's modules; and half of both where the members are equal."""
    pytest.importorskip("onnxruntime")
    states = named(pico_family("dncnn_bn", 2))
    bundle = export(states, tmp_path / "x.dni")
    in_torch, in_onnx = check(states), check(bundle.path)
    assert len(in_torch.norms) == 3
    for one, other in zip(in_torch.norms, in_onnx.norms, strict=True):
        assert one.layer == other.layer
        assert one.variance == pytest.approx(other.variance, rel=1e-4)  # float32 activations in another order of sums
        assert one.mean == pytest.approx(other.mean, abs=1e-4)
    same = check({"a": states["a"], "b": dict(states["a"])})
    assert all(row.variance == pytest.approx(1, abs=1e-9) and row.mean == 0 for row in same.norms)


def test_norm_drift_against_float64() -> None:
    """A single BatchNorm whose ends fit their statistics, and whose middle has a quarter of the variance it is told."""
    ones, zeros = np.ones(4), np.zeros(4)
    ends = ({"n.running_mean": zeros, "n.running_var": ones}, {"n.running_mean": 2 * ones, "n.running_var": 3 * ones})
    measured = ({"n": (zeros, ones)}, {"n": (2 * ones, 3 * ones)})
    middle = {"n": (3 * ones, ones / 2)}
    blend = {"n.running_mean": ones, "n.running_var": 2 * ones}
    [row] = measure_batchnorm_mismatches("a - b", (ends[0], blend, ends[1]), (measured[0], middle, measured[1]))
    assert row.variance == pytest.approx(0.25, rel=1e-4)  # EPSILON over 2
    assert row.mean == pytest.approx(2 / np.sqrt(2), rel=1e-4)
    assert row.has_drifted
    estimated = {"n.running_mean": 3 * ones, "n.running_var": ones / 2}
    [row] = measure_batchnorm_mismatches("a - b", (ends[0], estimated, ends[1]), (measured[0], middle, measured[1]))
    assert row.variance == pytest.approx(1, rel=1e-12)  # the same float64 numbers, divided by each other
    assert (row.mean, row.has_drifted) == (0, False)


def drifting(pictures: Path) -> dict[str, Any]:
    """Two of one descent that went far, each with the statistics that it has on these pictures.

    b's filters are a's by 0.4 and noise: those of the blend have 0.7 of the variance of either, layer after layer.
    """
    torch = pytest.importorskip("torch")
    first = pico_state("dncnn_bn")
    random = np.random.default_rng(1)
    second = {key: value.copy() for key, value in first.items()}
    for key, value in first.items():
        if value.ndim == 4:
            second[key] = (0.4 * value + np.sqrt(1 - 0.4**2) * value.std() * random.standard_normal(value.shape)).astype(
                np.float32
            )
    inputs, _ = read_crops(sorted(pictures.iterdir()), Signature())
    for state in (first, second):
        net = PICO["dncnn_bn"].factory()
        net.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
        torch.optim.swa_utils.update_bn([torch.from_numpy(inputs)], net)
        state.update({key: value.numpy().copy() for key, value in net.state_dict().items() if "running" in key})
    return {"a": first, "b": second}


@pytest.fixture
def noisy_pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(2):
        pixels = np.linspace(40, 210, 96)[None, :, None] + random.normal(0, 30, (96, 96, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def test_a_recalibrated_bundle_is_measured_as_it_runs(
    tmp_path: Path, noisy_pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    bundle = export(drifting(noisy_pictures), tmp_path / "x.dni")
    plain = check(bundle.path, image=noisy_pictures)
    assert "drift" in plain.pairs[0].causes
    assert any("--recalibrate" in sentence for sentence in plain.advice)
    assert plain.recalibration is None
    assert not any("re-estimated" in sentence for sentence in (*plain.notes, *plain.reasons))
    recalibrate(bundle.path, noisy_pictures, calibration_points=3)
    again = check(bundle.path, image=noisy_pictures)
    assert "drift" not in again.pairs[0].causes
    assert not any("recalibrat" in sentence for sentence in again.advice)
    assert any("re-estimated for its blends, at 3 alphas" in note for note in again.notes)
    assert again.recalibration is not None
    assert again.recalibration["calibration_points"] == 3
    # The statistics come from 48 parts of 64 pixels of the very pictures, and 0.5 is a knot: what is left is that
    # the parts are not the whole, and that a median over channels does not divide as each of them does: 0.08 here.
    assert all(row.variance == pytest.approx(1, abs=0.1) and row.mean < 0.1 for row in again.norms)
    assert min(row.variance for row in plain.norms) < 0.5
    assert main(["check", str(bundle.path), "--image", str(noisy_pictures)]) == 0
    assert "re-estimated for its blends" in capsys.readouterr().out
    assert main(["check", str(bundle.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recalibration"]["calibration_points"] == 3


def test_the_tensors_that_are_measured_are_those_that_refit_writes(tmp_path: Path, noisy_pictures: Path) -> None:
    pytest.importorskip("onnxruntime")
    states = drifting(noisy_pictures)
    bundle = export(states, tmp_path / "x.dni")
    recalibrate(bundle.path, noisy_pictures, calibration_points=4)
    opened = Bundle.open(bundle.path)
    with open_runner(Family.from_checkpoints(states), opened, read_recalibration(opened)) as runner:
        used = runner.blend_tensors({"a": 0.5, "b": 0.5})
    refit(bundle.path, 0.5, tmp_path / "half.safetensors")
    written = load_file(tmp_path / "half.safetensors")
    assert set(used) == set(opened.weight_names)
    assert all(values.tobytes() == written[name].tobytes() for name, values in used.items())


def test_matching_finds_a_permutation() -> None:
    """An RRDBNet whose residual stream is in another order, and the first dense layer's growth: dense and residual, names out of order."""
    state = pico_state("rrdbnet")
    random = np.random.default_rng(1)
    stream, growth = random.permutation(8), random.permutation(4)
    moved = dict(state)
    for name, weight in state.items():
        if weight.ndim != 4:
            continue
        place = name.split(".")[-2]
        if place != "conv_first":
            inside = np.arange(weight.shape[1])
            if ".rdb" in name or place in ("conv_body", "conv_up1"):
                inside[:8] = stream
            if ".rdb" in name and place != "conv1":
                inside[8:12] = 8 + growth
            weight = weight[:, inside]
        order = stream if place in ("conv_first", "conv5", "conv_body") else growth if place == "conv1" else None
        moved[name] = weight if order is None else weight[order]
        if order is not None:
            moved[name.replace("weight", "bias")] = state[name.replace("weight", "bias")][order]
    report = check({"a": state, "b": moved})
    assert report.midpoints[0].departure > 100  # the ends are the same function, or this would be no permutation
    assert (report.verdict, report.pairs[0].causes[0]) == ("will not blend", "permuted")
    assert all(row.aligned_median is not None and row.aligned_median > 0.999 for row in report.layers)
    stranger = align_permutations(state, pico_state("rrdbnet", 1), find_filter_layers(state))
    assert max(abs(row.median - row.chance_median) for row in stranger.values()) < 0.3  # what luck finds, no more


def test_a_page_of_other_networks(tmp_path: Path) -> None:
    check({"a": pico_state("dncnn"), "b": pico_state("compact")}, report=tmp_path / "x.html")
    assert "Members of another network" in (tmp_path / "x.html").read_text()


def test_strict_is_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, seed in enumerate((0, 1)):
        save_file(pico_state("srcnn_919", seed), tmp_path / f"{number}.safetensors")
    files = [f"{name}={tmp_path}/{number}.safetensors" for number, name in enumerate("ab")]
    assert main(["check", *files]) == 0
    assert main(["check", *files, "--strict", "--json"]) == VERDICT_EXIT_CODE == 10
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["verdict"] == "will not blend"
    assert main(["check", files[0], f"c={tmp_path}/0.safetensors", "--strict"]) == 0
