"""check: related networks blend, unrelated ones do not, and the report says why."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from dni_deploy.api.calibrate import calibrate
from dni_deploy.api.check import check
from dni_deploy.api.export import export
from dni_deploy.api.refit import refit
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.checkpoints.family import Family
from dni_deploy.cli.main import main
from dni_deploy.compatibility.runner import open_runner
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
from exporters.architectures.rrdbnet import RRDBNet

pytest.importorskip("torch")
import torch

from tests.support.graph_files import write_model
from tests.support.pico_architectures import PICO, pico_family, pico_state
from tests.support.torchvision_stub import import_spandrel


def named(states: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(zip("abcdefgh", states, strict=False))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith(("rrdbnet_old", "rrdbnet_esrgan"))) for name in PICO]
)
def test_related_networks_blend(name: str) -> None:
    report = check(named(pico_family(name, 2)))
    assert report.verdict == "blends well", report.reasons
    assert report.architecture == PICO[name].architecture
    assert report.median is not None
    assert report.median > 0.98  # a tenth of noise leaves 1 / sqrt(1 + 0.01) = 0.995
    assert len(report.midpoints) == (1 if PICO[name].architecture == "dcgan" else 2)
    assert report.notes == ()
    assert set(report.pairs[0].causes) <= {"drift", "noise"}  # the members differ by noise, and random BatchNorms drift


@pytest.mark.parametrize("name", ["srcnn_959", "dncnn_bn", "rrdbnet_x2", "compact", "cyclegan", "transformer_net", "dcgan"])
def test_unrelated_networks_do_not_blend(name: str) -> None:
    report = check(named([pico_state(name, 0), pico_state(name, 1)]))
    assert report.verdict == "will not blend"
    assert report.median is not None
    assert report.median < 0.1
    assert any("Fine-tune" in sentence for sentence in report.advice)


def permuted(state: dict[str, Any]) -> dict[str, Any]:
    """Returns the same function with the filters of the first layer permuted, as independent training does."""
    order = np.random.default_rng(1).permutation(len(state["model.0.weight"]))
    changed = dict(state)
    changed["model.0.weight"], changed["model.0.bias"] = state["model.0.weight"][order], state["model.0.bias"][order]
    changed["model.2.weight"] = state["model.2.weight"][:, order]
    return changed


def test_one_permuted_layer_gives_at_least_a_warning() -> None:
    state = pico_state("dncnn_bn")
    report = check({"a": state, "b": permuted(state)})
    assert report.verdict != "blends well"
    assert any("model.0.weight" in sentence for sentence in report.reasons)


def test_all_pairs_of_few_members_and_the_neighbors_of_many_are_compared() -> None:
    states = pico_family("srcnn_959", 6)
    assert [row.pair for row in check(named(states[:3])).pairs] == ["a - b", "a - c", "b - c"]
    report = check(named(states))
    assert report.path is not None
    assert report.path.members == report.order
    assert [row.pair for row in report.pairs] == list(report.path.pairs)
    assert list(report.path.pairs) == [f"{first} - {second}" for first, second in pairwise(report.order)]


def test_of_a_network_without_architecture_nothing_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Filters alone decide nothing: public members with an index of 0.83 lose 12 dB, and such with 0.09 lose 1."""
    random = np.random.default_rng(0)
    state = {"strange.weight": random.standard_normal((8, 8, 3, 3)), "strange.bias": random.standard_normal(8)}
    states = {"a": state, "b": {key: value + 0.01 for key, value in state.items()}}
    report = check(states)
    assert (report.verdict, report.architecture, report.midpoints) == ("not known", None, ())
    assert report.reasons[0].startswith("Nothing was run")
    assert "--arch package.module:factory" in report.reasons[0]
    for name, tensors in states.items():
        save_file({key: value.astype(np.float32) for key, value in tensors.items()}, tmp_path / f"{name}.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in states]
    assert main(["check", *files]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0].split(maxsplit=1) == ["verdict", "not known"]
    assert lines[2].startswith("Nothing was run")
    assert lines.count(lines[2]) == 1
    assert main(["check", *files, "--strict"]) == VERDICT_EXIT_CODE


class Plain(torch.nn.Sequential):
    """A network of the user's own."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 3, padding=1))


@pytest.mark.usefixtures("export_in_this_process")
def test_a_network_of_ones_own_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arch, files = "tests.dni_deploy.api.test_check:Plain", {}
    torch.manual_seed(0)
    state = Plain().state_dict()
    for name, factor in (("a", 1.0), ("b", 1.01)):
        files[name] = tmp_path / f"{name}.pth"
        torch.save({key: factor * value for key, value in state.items()}, files[name])
    report = check(files, arch=arch)
    assert report.architecture == arch
    assert len(report.midpoints) == 2
    assert main(["check", *(f"{name}={path}" for name, path in files.items()), "--arch", arch, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == arch
    with pytest.raises(MismatchError, match="not of architecture 'rrdbnet'"):
        check(files, arch="rrdbnet")
    with pytest.raises(UsageError, match="no architecture 'strange'"):
        check(files, arch="strange")


def test_files_with_graphs_are_run_without_an_architecture(tmp_path: Path) -> None:
    def scale_weights(model: Any) -> None:
        for tensor in model.graph.initializer:
            if tensor.name.endswith("weight"):
                tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * 1.01).tobytes()

    def widen(model: Any) -> None:
        model.graph.node[0].attribute[0].ints[:] = [0, 2, 1, 1]

    files = {"a": write_model(tmp_path / "a.onnx"), "b": write_model(tmp_path / "b.onnx", change=scale_weights)}
    report = check(files)
    assert (report.architecture, report.mismatches, len(report.midpoints)) == ("onnx", (), 2)
    assert {row.layer for row in report.layers} == {"first.weight", "second.weight"}
    expected = check(export(files, tmp_path / "x.dni").path)
    assert [row.error for row in report.midpoints] == pytest.approx([row.error for row in expected.midpoints], abs=1e-6)
    files["c"] = write_model(tmp_path / "c.onnx", change=widen)
    mixed = check(files)
    assert mixed.verdict == "will not blend"
    assert [(row.pair, row.causes) for row in mixed.pairs][1:] == [("a - c", ("other network",))]
    assert "'pads' is [0, 2, 1, 1] instead of [1, 1, 1, 1]" in mixed.reasons[0]
    assert mixed.midpoints == report.midpoints
    assert check({name: files[name] for name in "ac"}).layers == ()
    with pytest.raises(UsageError, match="are for checkpoints"):
        check(files, arch="compact")
    with pytest.raises(UsageError, match="give all members in one form"):
        check({"a": files["a"], "b": pico_state("dncnn")})


def test_loss_pixel_blending_and_path_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Networks that nearly return their input, against a brighter image: near it, so the loss is known."""
    files = [str(write_model(tmp_path / f"{name}.onnx", seed)) for seed, name in enumerate("abc")]
    pixels = np.random.default_rng(0).integers(60, 180, (40, 40, 3), np.uint8)
    for name, image in (("in", pixels), ("clean", pixels + np.uint8(50))):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    images = ["--image", str(tmp_path / "in.png"), "--reference", str(tmp_path / "clean.png")]
    assert main(["check", *files, *images]) == 0
    text = capsys.readouterr().out
    assert main(["check", *files, *images, "--json"]) == 0
    fields = json.loads(capsys.readouterr().out)
    loss = fields["pairs"][0]["loss"]
    assert loss["loss"] == pytest.approx(min(loss["first"], loss["second"]) - loss["middle"])
    assert loss["pixel_blend_loss"] == pytest.approx(min(loss["first"], loss["second"]) - loss["pixel_blend"])
    figures = [
        "-" if loss[name] is None else f"{loss[name]:.2f}"
        for name in ("first", "middle", "second", "calibrated", "pixel_blend")
    ]
    assert figures[3] == "-"  # one image has no other to be calibrated on
    assert any(line.split()[3:] == ["1", *figures, f"{loss['loss']:+.2f}"] for line in text.splitlines())
    assert f"path       {' - '.join(fields['path']['members'])}" in text
    assert f"weak link  {fields['path']['weak_link']}: {fields['path']['verdict']}" in text
    assert fields["path"]["weak_link"] in fields["path"]["pairs"]


def test_a_graph_that_takes_one_size_alone_has_no_midpoint(tmp_path: Path) -> None:
    fixed = {name: write_model(tmp_path / f"{name}.onnx", seed, sizes=(1, 3, 8, 8)) for seed, name in enumerate("ab")}
    report = check(fixed)
    assert report.midpoints == ()
    assert any("takes images of 8 x 8 pixels alone" in sentence for sentence in (*report.reasons, *report.notes))


def test_an_engine_that_fails_its_verification_gives_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With a verdict, `check --strict` would pass on a machine whose engine disagrees with the reference."""

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


def test_nothing_to_compare_is_refused() -> None:
    report = check({"a": {"scale": np.ones(3)}, "b": {"scale": np.zeros(3)}})
    assert (report.verdict, report.median) == ("not known", None)


def test_the_report_is_json_with_the_figures(tmp_path: Path) -> None:
    fields = json.loads(json.dumps(check(named(pico_family("dncnn_bn", 2))).to_json(), allow_nan=False))
    assert fields["verdict"] == "blends well"
    assert [row["layer"] for row in fields["layers"]] == [f"model.{place}.weight" for place in (0, 2, 5, 8, 11)]
    assert all(row["median"] == row["quantiles"][2] for row in fields["layers"])
    assert [row["layer"] for row in fields["drifts"]] == ["model.3", "model.6", "model.9"]
    assert all(row["variance"] >= 1 for row in fields["drifts"])


@pytest.mark.parametrize("suffix", ["png", "svg", pytest.param("pdf", marks=pytest.mark.slow), "html"])
def test_check_writes_plots_and_pages(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"report.{suffix}"
    family = Family.from_checkpoints(named(pico_family("dncnn_bn", 2)))
    assert check(family, report=path).report == str(path)
    data = path.read_bytes()
    assert data.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF", "html": b"<!doctype html>"}[suffix])
    if suffix == "html":
        text = data.decode()
        assert text.count("data:image/png;base64,") == 2 * 4  # two images: first, midpoint, mean of the pixels, second
        assert "blends well" in text
        assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
            "http://creativecommons.org", ""
        )
        assert "<script" not in text
    with pytest.raises(UsageError, match="exists"):
        check(family, report=path)
    check(family, report=path, force=True)
    assert path.read_bytes() == data  # the same family gives the same bytes
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    family = named(pico_family("dncnn", 2))
    with pytest.raises(UsageError, match=r"\.html, \.png"):
        check(family, report=tmp_path / "report.txt")
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(ImageFileError):
        check(family, image=tmp_path / "no.png")
    with pytest.raises(CheckpointError, match="does not exist"):
        check({"a": tmp_path / "a.pth", "b": tmp_path / "b.pth"})


def test_a_user_image_is_used(tmp_path: Path) -> None:
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
    assert len(report.midpoints) == 2 * 3  # images and pairs
    assert all(row.finite for row in report.midpoints)


def test_check_uses_reference_images(tmp_path: Path) -> None:
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


def test_a_different_network_is_a_verdict() -> None:
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


def test_one_network_under_two_namings_and_a_prefix_is_checked_as_one() -> None:
    first = pico_state("rrdbnet_esrgan")
    renamed = dict(zip(RRDBNet(3, 8, 1, 4).state_dict(), first.values(), strict=True))
    prefixed = {f"net.{key}": value for key, value in renamed.items()}
    report = check({"a": {"A": first}, "b": {"A": prefixed, "B": first}}, key="A")
    assert (report.mismatches, report.architecture, report.distances[0][1]) == ((), "rrdbnet", 0)
    assert any("under other names" in note for note in report.notes)


@pytest.mark.usefixtures("export_in_this_process")
def test_a_network_that_changes_its_input_in_place_is_judged_by_its_output() -> None:
    """spandrel's RCAN begins with `x *= 255`: each test image has to be its own copy."""
    try:
        import_spandrel()
    except ModuleNotFoundError as error:
        pytest.skip(f"spandrel is not installed: {error}")
    from spandrel.architectures.RCAN import RCAN

    torch.manual_seed(0)
    net = RCAN(n_resgroups=1, n_resblocks=1, n_feats=8, reduction=4, scale=2).requires_grad_(False)
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    report = check({"a": state, "b": state})
    assert (report.verdict, report.architecture) == ("blends well", "spandrel.RCAN")
    assert [row.departure for row in report.midpoints] == [0, 0]


def test_a_family_of_one_member_is_refused() -> None:
    with pytest.raises(UsageError, match="2 to 16 members, 1 given"):
        check({"a": pico_state("dncnn")})


def test_members_are_ordered_by_distance() -> None:
    """Members along a straight line, given out of order."""
    first, second = pico_family("srcnn_919", 2)
    states = {name: {key: first[key] + fraction * (second[key] - first[key]) for key in first} for name, fraction in
              {"far": 3.0, "first": 0.0, "second": 1.0}.items()}  # fmt: skip
    report = check(states)
    assert report.order == ("far", "second", "first")
    assert report.distances[0][1] > report.distances[0][2] > report.distances[1][2] > 0
    assert any("in the order far, second, first" in sentence for sentence in report.advice)
    assert report.path is not None
    assert (report.path.members, report.path.pairs) == (report.order, ("far - second", "first - second"))
    assert report.path.weak_link == "far - second"  # twice as far as the other
    assert check({name: states[name] for name in ("far", "first")}).path is None


def test_checkpoints_and_their_bundle_give_the_same_batchnorm_inputs(tmp_path: Path) -> None:
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


def make_drifting_pair(images: Path) -> dict[str, Any]:
    """Makes two distant fine-tunings of one network, each with its own statistics on these images.

    b's filters are 0.4 times a's plus noise: those of the blend have 0.7 of the variance of either, in every layer.
    """
    first = pico_state("dncnn_bn")
    random = np.random.default_rng(1)
    second = {key: value.copy() for key, value in first.items()}
    for key, value in first.items():
        if value.ndim == 4:
            second[key] = (0.4 * value + np.sqrt(1 - 0.4**2) * value.std() * random.standard_normal(value.shape)).astype(
                np.float32
            )
    inputs, _ = read_crops(sorted(images.iterdir()), Signature())
    for state in (first, second):
        net = PICO["dncnn_bn"].factory()
        net.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
        torch.optim.swa_utils.update_bn([torch.from_numpy(inputs)], net)
        state.update({key: value.numpy().copy() for key, value in net.state_dict().items() if "running" in key})
    return {"a": first, "b": second}


@pytest.fixture
def noisy_images(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(2):
        pixels = np.linspace(40, 210, 96)[None, :, None] + random.normal(0, 30, (96, 96, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def test_a_calibrated_bundle_is_measured_as_it_runs(
    tmp_path: Path, noisy_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    bundle = export(make_drifting_pair(noisy_images), tmp_path / "x.dni")
    plain = check(bundle.path, image=noisy_images)
    assert "drift" in plain.pairs[0].causes
    assert any("--calibrate" in sentence for sentence in plain.advice)
    assert plain.calibration is None
    assert not any("calibrated" in sentence for sentence in (*plain.notes, *plain.reasons))
    calibrate(bundle.path, noisy_images, method="channels", calibration_points=3)
    again = check(bundle.path, image=noisy_images)
    assert "drift" not in again.pairs[0].causes
    assert not any("calibrat" in sentence for sentence in again.advice)
    assert any("blends are calibrated, at 3 alphas" in note for note in again.notes)
    assert again.calibration is not None
    assert again.calibration["calibration_points"] == 3
    # The statistics come from 48 crops of 64 pixels of these images, and 0.5 is a calibration point. What remains:
    # crops are not the whole images, and a median over channels is not the ratio of each channel: 0.08 here.
    assert all(row.variance == pytest.approx(1, abs=0.1) and row.mean < 0.1 for row in again.norms)
    assert min(row.variance for row in plain.norms) < 0.5
    assert main(["check", str(bundle.path), "--image", str(noisy_images)]) == 0
    assert "blends are calibrated" in capsys.readouterr().out
    assert main(["check", str(bundle.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"]["calibration_points"] == 3


def test_check_measures_the_tensors_that_refit_writes(tmp_path: Path, noisy_images: Path) -> None:
    pytest.importorskip("onnxruntime")
    states = make_drifting_pair(noisy_images)
    bundle = export(states, tmp_path / "x.dni")
    calibrate(bundle.path, noisy_images, method="channels", calibration_points=4)
    stored_bundle = Bundle.open(bundle.path)
    with open_runner(Family.from_checkpoints(states), stored_bundle) as runner:
        used = runner.blend_tensors({"a": 0.5, "b": 0.5})
    refit(bundle.path, 0.5, tmp_path / "half.safetensors")
    written = load_file(tmp_path / "half.safetensors")
    assert set(used) == set(stored_bundle.weight_names)
    assert all(values.tobytes() == written[name].tobytes() for name, values in used.items())


def test_strict_sets_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, seed in enumerate((0, 1)):
        save_file(pico_state("srcnn_919", seed), tmp_path / f"{number}.safetensors")
    files = [f"{name}={tmp_path}/{number}.safetensors" for number, name in enumerate("ab")]
    assert main(["check", *files]) == 0
    assert main(["check", *files, "--strict", "--json"]) == VERDICT_EXIT_CODE == 10
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :])["verdict"] == "will not blend"
    assert main(["check", files[0], f"c={tmp_path}/0.safetensors", "--strict"]) == 0
