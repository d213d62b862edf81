"""refit writes files that hold the float64 blend, rounded once, and that other programs can read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors import safe_open

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.api.refit import refit
from dni_deploy.blending.variance_guard import VarianceGuard
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.errors import BundleError, CoefficientsError, UsageError
from tests.support import pico_bundle as pico


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return pico.write(tmp_path / "x.dni", count=3)


def compute_blend(coefficients: tuple[float, ...], dtype: type = np.float32) -> dict[str, np.ndarray]:
    """Computes the exact blend in float64, independently of the library."""
    members = [pico.tensors(seed, dtype) for seed in range(len(coefficients))]
    return {
        name: sum(
            coefficient * member[name].astype(np.float64) for coefficient, member in zip(coefficients, members, strict=True)
        )
        for name in pico.SHAPES
    }


def test_onnx_file_holds_the_rounded_blend_and_is_self_contained(bundle: Bundle, tmp_path: Path) -> None:
    coefficients = (0.2, 0.3, 0.5)
    report = refit(bundle.path, "a=0.2,b=0.3,c=0.5", tmp_path / "out.onnx")
    model = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for name in pico.USED:
        truth = compute_blend(coefficients)[name]
        # One rounding to float32 of a float64 sum, which itself may be off in its last bit: slightly more than half an ulp.
        assert np.all(np.abs(tensors[name] - truth) <= np.spacing(np.abs(truth).astype(np.float32)) * 0.5001)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["dni_deploy.members"]) == ["a", "b", "c"]
    assert json.loads(metadata["dni_deploy.shares"]) == list(coefficients)
    assert metadata["dni_deploy.bundle_sha256"] == bundle.digest
    x = np.random.default_rng(3).random((1, 1, 8, 9), np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    y = session.run(None, {"x": x})[0]
    # Nine products of numbers below 1, a scale and a slope: about ten float32 roundings of numbers of magnitude 1.
    np.testing.assert_allclose(y, forward(compute_blend(coefficients), x), atol=2e-6)
    assert report.coefficients == Coefficients.parse(list(coefficients), bundle.members)
    assert sorted(os.listdir(tmp_path)) == ["out.onnx", "x.dni"]


def forward(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The pico network in float64: x (1, 1, H, W) -> (1, 2, H, W)."""
    height, width = x.shape[2:]
    padded = np.pad(x[0, 0].astype(np.float64), 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    column = (slice(None), None, None)
    y = np.einsum("hwij,oij->ohw", windows, weights["conv.weight"][:, 0]) + weights["conv.bias"][column]
    scale = weights["bn.weight"] / np.sqrt(weights["bn.running_var"] + 1e-5)
    y = (y - weights["bn.running_mean"][column]) * scale[column] + weights["bn.bias"][column]
    y = np.where(y > 0, y, y * weights["prelu.weight"])
    return 0.5 * y.reshape(1, 2, height, width)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_safetensors_is_a_checkpoint_of_the_first_members_dtypes(tmp_path: Path, dtype: type) -> None:
    bundle = pico.write(tmp_path / "x.dni", dtype=dtype)
    refit(bundle.path, 0.25, tmp_path / "out.safetensors")
    checkpoint = Checkpoint.read(tmp_path / "out.safetensors")
    assert checkpoint.tensors.keys() == pico.tensors(0).keys()
    assert checkpoint.tensors["bn.num_batches_tracked"] == 7
    for name, truth in compute_blend((0.25, 0.75), dtype).items():  # spare.weight too, which the graph does not use
        # Quarters of multiples of 1/128 below 2 are exact in float64 and round once.
        np.testing.assert_array_equal(checkpoint.tensors[name], truth.astype(dtype))
        assert checkpoint.tensors[name].dtype == dtype
    with safe_open(tmp_path / "out.safetensors", "numpy") as tensor_file:
        metadata = json.loads(tensor_file.metadata()["dni_deploy"])
    assert metadata["shares"] == [0.25, 0.75]
    assert metadata["bundle_sha256"] == bundle.digest


@pytest.mark.parametrize(("member", "seed"), [("a", 0), ("b", 1), ("c", 2)])
def test_refit_to_a_single_member_is_that_member_bit_for_bit(bundle: Bundle, tmp_path: Path, member: str, seed: int) -> None:
    report = refit(bundle.path, {member: 1.0}, tmp_path / "out.safetensors")
    for name, values in Checkpoint.read(tmp_path / "out.safetensors").tensors.items():
        assert values.tobytes() == pico.tensors(seed)[name].tobytes()
    refit(bundle.path, {member: 1.0}, tmp_path / "out.onnx")
    model = onnx.load(tmp_path / "out.onnx")
    alone = bundle.read_graph_with_weights(member)
    assert model.graph == alone.graph
    assert (report.numbers_changed == 0) == (member == "a")


def test_the_report_counts_what_changed(tmp_path: Path) -> None:
    other = {name: values.copy() for name, values in pico.tensors(0).items()}
    other["conv.bias"][1] += 0.5
    bundle = pico.write(tmp_path / "x.dni", b=other)
    report = refit(bundle.path, "a=0.5,b=0.5", tmp_path / "out.onnx")
    assert (report.tensors, report.tensors_changed, report.numbers_changed) == (len(pico.USED), 1, 1)
    assert (report.largest_change, report.largest_change_tensor) == (0.25, "conv.bias")
    assert report.numbers == sum(int(np.prod(pico.SHAPES[name])) for name in pico.USED)
    assert report.size == (tmp_path / "out.onnx").stat().st_size
    assert report.seconds > 0
    assert json.loads(json.dumps(report.to_json()))["alpha"] == {"a": 0.5, "b": 0.5}
    again = refit(bundle.path, 0.5, tmp_path / "out.onnx", force=True)
    assert again.sha256 == report.sha256


def test_a_refused_refit_writes_nothing(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"NAME\.onnx or NAME\.safetensors, and NAME\.plan .*, not '\.pth'"):
        refit(bundle.path, {"a": 1}, tmp_path / "out.pth")
    with pytest.raises(CoefficientsError, match="this family has 3"):
        refit(bundle.path, 0.5, tmp_path / "out.onnx")
    with pytest.raises(CoefficientsError, match="outside 0 to 1"):
        refit(bundle.path, {"a": 1.5, "b": -0.5}, tmp_path / "out.onnx")
    with pytest.raises(BundleError):
        refit(tmp_path / "absent.dni", 0.5, tmp_path / "out.onnx")
    (tmp_path / "out.onnx").write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        refit(bundle.path, {"a": 1}, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["out.onnx", "x.dni"]


def variances(first: list[float], second: list[float]) -> dict[str, dict[str, np.ndarray]]:
    key = "bn.running_var"
    return {"a": {key: np.array(first, np.float32)}, "b": {key: np.array(second, np.float32)}}


def test_extrapolation_stops_where_a_variance_would_not_be_positive(tmp_path: Path) -> None:
    # Channel 0: alpha * 2 + (1 - alpha) * 1 > 0 above -1;
    # channel 1: alpha * 0.5 + (1 - alpha) * 1 > 0 below 2.
    bundle = pico.write(tmp_path / "x.dni", **variances([2, 0.5], [1, 1]))
    assert refit(bundle.path, 1.75, tmp_path / "a.onnx", extrapolate=True).alpha == {"a": 1.75, "b": -0.75}
    refit(bundle.path, -0.75, tmp_path / "b.onnx", extrapolate=True)
    for alpha, channel in ((2.0, 1), (2.5, 1), (-1.0, 0), (-1.5, 0)):
        with pytest.raises(CoefficientsError) as raised:
            refit(bundle.path, alpha, tmp_path / "c.onnx", extrapolate=True)
        assert f"'bn.running_var', channel {channel}" in str(raised.value)
        assert "between -1.0000 and 2.0000" in str(raised.value)
    assert not (tmp_path / "c.onnx").exists()


def test_extrapolation_beyond_the_dtype_is_refused(tmp_path: Path) -> None:
    large = {"conv.bias": np.full(2, 60000, np.float16)}
    small = {"conv.bias": np.full(2, 10, np.float16)}
    bundle = pico.write(tmp_path / "x.dni", dtype=np.float16, a=large, b=small)
    with pytest.raises(CoefficientsError, match=r"'conv\.bias' are beyond the range of float16"):
        refit(bundle.path, 1.2, tmp_path / "out.safetensors", extrapolate=True)
    refit(bundle.path, 1.2, tmp_path / "out.onnx", extrapolate=True)  # float32 has room for it


def test_the_safe_interval_is_rounded_inward() -> None:
    guard = VarianceGuard([{"running_var": np.array([3.0])}, {"running_var": np.array([2.0])}], ["running_var"])
    assert guard.compute_safe_interval() == (-2.0, np.inf)
    third = VarianceGuard([{"running_var": np.array([1.0])}, {"running_var": np.array([4.0])}], ["running_var"])
    with pytest.raises(CoefficientsError, match=r"between -infinity and 1\.3333"):
        third.check(Coefficients.parse(1.4, ("a", "b"), extrapolate=True))
