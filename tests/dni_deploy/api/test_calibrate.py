"""calibrate: statistics estimated on images, stored in the bundle, used by everything that reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file

import dni_deploy as dni
from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.blending.calibration_table import blend_tensors
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.cli.main import main
from dni_deploy.errors import CoefficientsError, InputError, LimitError, MismatchError, UsageError
from dni_deploy.imaging.crops import read_crops
from dni_deploy.imaging.image_file import ImageFile, write_image
from engines import ort_session
from engines.calibrated_network import read_network
from engines.lowering.calibration_nodes import find_convolutions
from tests.engines.conftest import Case, pico_case, write
from tests.support.handmade_graphs import HAND

torch = pytest.importorskip("torch")
from tests.support.pico_architectures import PICO  # noqa: E402

__all__ = ["pico_case"]  # a fixture of the engines


COEFFICIENTS = np.array([0.6, 0.4])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of different sizes: noise over a ramp."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate(((40, 32), (32, 33), (70, 45), (33, 90))):
        ramp = np.linspace(20, 230, width)[None, :, None]
        pixels = np.clip(ramp + rng.normal(0, 25, (height, width, 3)), 0, 255).astype(np.uint8)
        write_image(folder / f"{number}.png", ImageFile(pixels))
    return folder


@pytest.fixture
def bundle(tmp_path: Path, pico_case: Callable[[str], Case]) -> Bundle:
    return write(pico_case("dncnn_bn"), tmp_path / "x.dni")


def train_mode(name: str, weights: dict[str, Any], inputs: np.ndarray, batch: int = 8) -> dict[str, np.ndarray]:
    """Estimates the statistics with PyTorch: update_bn in float64."""
    net = PICO[name].factory().double()
    net.load_state_dict(
        {key: torch.from_numpy(np.asarray(values, np.float64)) for key, values in weights.items()}, strict=False
    )
    loader = [torch.from_numpy(inputs[start : start + batch].astype(np.float64)) for start in range(0, len(inputs), batch)]
    torch.optim.swa_utils.update_bn(loader, net)
    return {key: value.numpy() for key, value in net.state_dict().items() if "running" in key}


def test_stored_statistics_equal_corrected_pytorch_estimates(bundle: Bundle, images: Path) -> None:
    """Recomputed in float64 with PyTorch: crops, blend, update_bn at all calibration points, the correction."""
    report = dni.calibrate(bundle, images, method="channels", calibration_points=5, threads=1)
    assert report.calibration_points == 5
    network = read_network(Bundle.open(bundle.path))
    calibration = network.make_table(network.read_members())
    assert calibration is not None
    members = [
        {key: values.astype(np.float64) for key, values in bundle.read_weights(member).items()} for member in bundle.members
    ]
    inputs, _ = read_crops(sorted(images.iterdir()), bundle.signature)

    def estimate(alpha: float) -> dict[str, np.ndarray]:
        weights = {key: alpha * members[0][key] + (1 - alpha) * members[1][key] for key in members[0]}
        return train_mode("dncnn_bn", weights, inputs)

    ends, middle, alpha = (estimate(1.0), estimate(0.0)), estimate(0.75), 0.75
    statistics = calibration.interpolate(np.array([alpha, 1 - alpha]))
    for name in (key for key in statistics if key.endswith("running_var")):
        member_variances = [tensors[name] for tensors in members]
        ratios = [
            np.log((member_variance + 1e-5) / (end[name] + 1e-5))
            for member_variance, end in zip(member_variances, ends, strict=True)
        ]
        variance = (middle[name] + 1e-5) * np.exp(alpha * ratios[0] + (1 - alpha) * ratios[1]) - 1e-5
        np.testing.assert_allclose(statistics[name], variance, rtol=2e-4)  # float32 activations against float64
        mean_name = name.replace("running_var", "running_mean")
        off = [
            (tensors[mean_name] - end[mean_name]) / np.sqrt(end[name] + 1e-5)
            for tensors, end in zip(members, ends, strict=True)
        ]
        mean = middle[mean_name] + (alpha * off[0] + (1 - alpha) * off[1]) * np.sqrt(middle[name] + 1e-5)
        np.testing.assert_allclose(statistics[mean_name], mean, atol=2e-4 * float(np.sqrt(variance.max())))


def test_report_and_file_record_the_calibration(bundle: Bundle, images: Path) -> None:
    before = bundle.digest
    steps: list[tuple[int, int, str]] = []
    report = dni.calibrate(
        bundle.path,
        [images / "0.png", images / "2.png"],
        method="channels",
        calibration_points=3,
        progress=lambda *s: steps.append(s),
    )
    assert report.digest == Bundle.open(bundle.path).digest != before
    assert [layer.layer for layer in report.layers] == ["model.3", "model.6", "model.9"]
    assert all(layer.coefficients == (0.5, 0.5) for layer in report.layers)  # the only calibration point that could change
    assert all(layer.mean > 0 and layer.variance > 1 for layer in report.layers)
    assert (report.sample_count, report.sample_side_px) == (48, 32)
    assert [(source.name, source.parts) for source in report.images] == [("0.png", 24), ("2.png", 24)]
    assert report.images[0].sha256 == sha256((images / "0.png").read_bytes()).hexdigest()
    metadata = dni.inspect(bundle.path).calibration
    assert metadata is not None
    assert metadata["calibration_points"] == 3
    assert [image["sha256"] for image in metadata["pictures"]] == [source.sha256 for source in report.images]
    assert steps[-1][:2] == (2, 3)
    json.dumps(report.to_json())


def test_equal_members_keep_their_statistics(tmp_path: Path, images: Path, pico_case: Callable[[str], Case]) -> None:
    case = pico_case("dncnn_bn")
    equal_members = Case(case.name, case.graph, case.weights, [case.members[0]] * 2, case.signature, case.shapes)
    report = dni.calibrate(write(equal_members, tmp_path / "x.dni"), images, method="channels", calibration_points=3)
    # In float64 the blend of two equal float32 numbers is that number, so the estimates are equal.
    assert all(layer.mean < 1e-9 and layer.variance < 1 + 1e-9 for layer in report.layers)


def test_sessions_and_refitted_files_use_the_statistics(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    dni.calibrate(bundle, images, method="channels", calibration_points=5)
    stored_bundle = Bundle.open(bundle.path)
    members = [stored_bundle.read_weights(member) for member in stored_bundle.members]
    truth = blend_tensors(members, COEFFICIENTS, read_network(stored_bundle).make_table(members))
    x = np.random.default_rng(1).random((1, 3, 24, 32), np.float32)
    expected = ort_session.run_session(
        ort_session.open_cpu_session(ort_session.bind_initializers(stored_bundle.read_graph(), truth), 1), x
    )
    with dni.open_session(stored_bundle, engine="onnxruntime", alpha=0.6, threads=1) as session:
        np.testing.assert_allclose(session.infer(x), expected, atol=1e-5)
    dni.refit(stored_bundle.path, 0.6, tmp_path / "blended.onnx")
    model = onnx.load(tmp_path / "blended.onnx")
    np.testing.assert_allclose(ort_session.run_session(ort_session.open_cpu_session(model, 1), x), expected, atol=1e-5)
    dni.refit(stored_bundle.path, 0.6, tmp_path / "blended.safetensors")
    written = load_file(tmp_path / "blended.safetensors")
    for name, values in truth.items():
        assert written[name].tobytes() == values.astype(np.float32).tobytes()
    dni.refit(stored_bundle.path, "a=1", tmp_path / "a.safetensors")
    for name, values in load_file(tmp_path / "a.safetensors").items():
        assert values.tobytes() == stored_bundle.read_tensors("a")[name].tobytes()


def test_groups_and_extrapolation_are_refused(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    dni.calibrate(bundle, images, method="channels", calibration_points=3)
    with pytest.raises(CoefficientsError, match="groups of weights"):
        dni.open_session(bundle.path, rules=["norm:*=0.2"])
    with pytest.raises(CoefficientsError, match="groups of weights"):
        dni.refit(bundle.path, 0.5, tmp_path / "x.onnx", rules=["norm:*=0.2"])
    with pytest.raises(CoefficientsError, match="nothing is known beyond"):
        dni.open_session(bundle.path, extrapolate=True)
    with pytest.raises(CoefficientsError, match="nothing is known beyond"):
        dni.refit(bundle.path, "a=1.1,b=-0.1", tmp_path / "x.onnx", extrapolate=True)
    assert not (tmp_path / "x.onnx").exists()
    with dni.open_session(bundle.path, engine="onnxruntime") as session:
        with pytest.raises(CoefficientsError, match="groups of weights"):
            session.rules = ["norm:*=0.2"]
        session.alpha = 0.3
        assert session.alpha == Coefficients(("a", "b"), (0.3, 0.7))


def test_existing_statistics_need_force_and_absent_ones_cannot_be_removed(bundle: Bundle, images: Path) -> None:
    with pytest.raises(UsageError, match="no calibration to remove"):
        dni.calibrate(bundle, remove=True)
    first = dni.calibrate(bundle, images, method="channels", calibration_points=3)
    with pytest.raises(UsageError, match="--force"):
        dni.calibrate(bundle.path, images / "0.png", method="channels", calibration_points=3)
    assert Bundle.open(bundle.path).digest == first.digest
    assert (
        dni.calibrate(bundle.path, images / "0.png", method="channels", calibration_points=3, force=True).digest != first.digest
    )
    removed = dni.calibrate(bundle.path, remove=True)
    assert removed.removed
    assert removed.digest == bundle.digest == Bundle.open(bundle.path).digest


def test_the_same_images_give_the_same_digest(bundle: Bundle, images: Path) -> None:
    digests = {
        dni.calibrate(bundle.path, images, method="channels", calibration_points=3, threads=1, force=True).digest
        for _ in range(2)
    }
    assert len(digests) == 1


def test_bad_images_are_refused(bundle: Bundle, images: Path, tmp_path: Path, pico_case: Callable[[str], Case]) -> None:
    small = tmp_path / "small.png"
    write_image(small, ImageFile(np.zeros((15, 40, 3), np.uint8)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("text")
    attempts: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        ((), {}, UsageError, "At least one image"),
        (small, {}, MismatchError, "40x15 pixels; each image needs at least 16x16"),
        (tmp_path / "empty", {}, InputError, "holds no image"),
        (tmp_path / "text.png", {}, InputError, "not a PNG"),
        (tmp_path / "absent.png", {}, InputError, "absent.png"),
        ("noise", {}, UsageError, "takes images; name some"),
        (images, {"calibration_points": 2}, LimitError, "fewest calibration points are 3, got 2"),
        (images, {"calibration_points": 40}, LimitError, "40 calibration points are more than the 32"),
    ]
    for paths, options, kind, message in attempts:
        with pytest.raises(kind, match=message):
            dni.calibrate(bundle, paths, **options)
    assert Bundle.open(bundle.path).digest == bundle.digest
    assert set(os.listdir(bundle.path)) == {"manifest.json", *(stored.file for stored in bundle.manifest.files)}
    flat = tmp_path / "flat.png"
    write_image(flat, ImageFile(np.full((40, 40, 3), 77, np.uint8)))
    with pytest.raises(MismatchError, match="shows one color"):
        dni.calibrate(bundle, flat)
    without = write(HAND["tied_convs"](), tmp_path / "without.dni")
    assert not find_convolutions(without.read_graph(), without.weight_names)
    with pytest.raises(MismatchError, match="no BatchNorm and no convolution with a bias"):
        dni.calibrate(without, images, method="channels")


def test_a_network_that_takes_noise_is_calibrated_on_noise(
    tmp_path: Path, images: Path, pico_case: Callable[[str], Case]
) -> None:
    bundle = write(pico_case("dcgan"), tmp_path / "x.dni", 3)
    with pytest.raises(UsageError, match="give the word noise"):
        dni.calibrate(bundle, images)
    report = dni.calibrate(bundle, "noise", calibration_points=6)
    assert (report.calibration_points, report.sample_count, report.images) == (6, 256, ())
    metadata = dni.inspect(bundle.path).calibration
    assert metadata is not None
    assert metadata["pictures"] == "noise"


def test_the_command(bundle: Bundle, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(bundle.path)
    build = ["build", path, "--engine", "onnxruntime"]
    channels = ["--calibration-method", "channels"]
    assert main([*build, "--calibrate", str(images), "--knots", "3", *channels, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["calibration"]["calibration_points"] == 3
    assert report["calibration"]["method"] == "channels"
    assert not report["plan_kept"]
    assert main(["build", path, "--calibrate", str(images)]) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*build, "--no-calibration"]) == 0
    out = capsys.readouterr().out
    assert "removed" in out
    assert "kept" in out  # the earlier plan, which does not depend on them
    assert Bundle.open(path).digest == bundle.digest
    assert main([*build, "--calibrate", str(images / "1.png"), "--knots", "4", *channels]) == 0
    out = capsys.readouterr().out
    assert "all layers' channels, at 4 alphas on 48 parts of 1 image\n" in out
    assert "model.3" in out
    assert main(["inspect", path]) == 0
    assert "channels, at 4 alphas on 1 image\n" in capsys.readouterr().out
    for wrong in (["--knots", "3"], channels, ["--calibrate", str(images), "--no-calibration"]):
        assert main(["build", path, *wrong]) == 2
        assert "Nothing was written" in capsys.readouterr().err


def test_the_command_says_what_each_method_gave(
    tmp_path: Path, images: Path, pico_case: Callable[[str], Case], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write(pico_case("compact_x2"), tmp_path / "x.dni")
    path = str(bundle.path)
    assert main(["build", path, "--engine", "onnxruntime", "--calibrate", str(images), "--knots", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["calibration"]
    scores = {row["method"]: row["mean_psnr"] for row in report["scores"]}
    assert set(scores) == {"none", "output", "channels"}
    assert scores[report["method"]] >= max(scores.values()) - 0.2  # a method that changes less wins by 0.1 dB each
    arguments = ["build", path, "--engine", "onnxruntime", "--calibrate", str(images), "--knots", "3", "--force"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "against the original" in out
    assert "blend alone" in out


def test_a_blend_that_needs_no_calibration_gets_none(
    tmp_path: Path, images: Path, pico_case: Callable[[str], Case], capsys: pytest.CaptureFixture[str]
) -> None:
    case = pico_case("rrdbnet_x2")
    equal_members = Case(case.name, case.graph, case.weights, [case.members[0]] * 2, case.signature, case.shapes)
    bundle = write(equal_members, tmp_path / "x.dni")
    arguments = ["build", str(bundle.path), "--engine", "onnxruntime", "--calibrate", str(images), "--knots", "3"]
    assert main(arguments) == 0
    assert "nothing makes the blends better" in capsys.readouterr().out
    assert Bundle.open(bundle.path).manifest.calibration is None


@pytest.mark.parametrize("name", ["rrdbnet", "compact_x2"])
def test_written_weights_have_the_calibration(
    name: str, tmp_path: Path, images: Path, pico_case: Callable[[str], Case]
) -> None:
    """RRDBNet ends in a convolution, whose weights take the correction; Compact adds its input, and needs a node."""
    bundle = write(pico_case(name), tmp_path / "x.dni")
    x = np.random.default_rng(1).random((1, 3, 24, 32), np.float32)
    for method in ("output", "channels"):
        dni.calibrate(bundle.path, images, method=method, calibration_points=3, force=True)
        with dni.open_session(bundle.path, engine="onnxruntime", alpha=0.3, threads=1) as session:
            expected = session.infer(x)
        written = tmp_path / f"{method}.onnx"
        dni.refit(bundle.path, 0.3, written)
        output = ort_session.run_session(ort_session.open_cpu_session(onnx.load(written), 1), x)
        # Sums in another order: 1e-7 to 2e-6 of the largest value over these networks.
        np.testing.assert_allclose(output, expected, atol=1e-5 * np.abs(expected).max())
        checkpoint = tmp_path / f"{method}.safetensors"
        if (name, method) == ("compact_x2", "output"):
            with pytest.raises(MismatchError, match=r"write NAME\.onnx"):
                dni.refit(bundle.path, 0.3, checkpoint)
            assert not checkpoint.exists()
            continue
        dni.refit(bundle.path, 0.3, checkpoint)
        weights = {key: value for key, value in load_file(checkpoint).items() if key in bundle.weight_names}
        session = ort_session.open_cpu_session(bundle.read_graph_with_weights(weights), 1)
        np.testing.assert_allclose(ort_session.run_session(session, x), output, atol=1e-6 * np.abs(expected).max())
