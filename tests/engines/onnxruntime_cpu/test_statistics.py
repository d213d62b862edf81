"""BatchNorm statistics: those of PyTorch in train and in eval mode, without PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import EngineError
from engines.onnxruntime_cpu.statistics import BatchNormEstimator
from tests.engines.conftest import Case
from tests.support.handmade_graphs import HAND

BATCH_NORM = ("dncnn_bn", "dncnn_bn_kair", "dncnn_bn_port", "cyclegan_bn", "dcgan")


def batches(case: Case, count: int = 3) -> list[NDArray[np.float32]]:
    """Of one size, which is what a mean over batches is right for."""
    random = np.random.default_rng(7)
    shape = (4, *case.shapes[0][1:])
    low, high = (-1, 1) if case.signature.kind == "latent" else (case.signature.low, case.signature.high)
    return [random.uniform(low, high, shape).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("name", BATCH_NORM)
def test_batch_statistics_are_those_of_pytorch_in_train_mode(name: str, pico_case: Callable[[str], Case]) -> None:
    """Every BatchNorm behind ones that normalise by the batch, over three batches, momentum None (a cumulative average)."""
    torch = pytest.importorskip("torch")
    from tests.support.pico_architectures import PICO

    case = pico_case(name)
    weights = blend_float64(case.members, np.array([0.5, 0.3, 0.2]))
    found = BatchNormEstimator(case.graph, case.weights, threads=1).estimate(weights, batches(case))
    net = PICO[name].factory().double()
    net.load_state_dict({key: torch.from_numpy(values) for key, values in weights.items()}, strict=False)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        for batch in batches(case):
            net(torch.from_numpy(batch.astype(np.float64)))
    expected = {key: value.numpy() for key, value in net.state_dict().items()}
    assert found
    assert set(found) == {key for key in case.weights if key.endswith("running_mean")}
    for key, (mean, variance) in found.items():
        truth = expected[key.replace("running_mean", "running_var")]
        # float32 arithmetic through a few layers, against float64: 1e-6 to 1e-5 of a deviation.
        np.testing.assert_allclose(variance, truth, rtol=1e-4)
        assert np.abs(mean - expected[key]).max() <= 1e-4 * np.sqrt(truth.max())


@pytest.mark.parametrize("name", BATCH_NORM)
def test_running_statistics_measure_what_pytorch_computes_in_eval_mode(name: str, pico_case: Callable[[str], Case]) -> None:
    """Every BatchNorm behind ones that use their running statistics, over inputs of two sizes that count alike."""
    torch = pytest.importorskip("torch")
    from tests.support.pico_architectures import PICO

    case = pico_case(name)
    weights = blend_float64(case.members, np.array([0.5, 0.3, 0.2]))
    inputs = [*batches(case, 2), *case.inputs()]
    estimate = BatchNormEstimator(case.graph, case.weights, threads=1, statistics="running").estimate(weights, inputs)
    net = PICO[name].factory().double().eval()
    net.load_state_dict({key: torch.from_numpy(values) for key, values in weights.items()}, strict=False)
    moments: dict[str, list[Any]] = {}

    def record(rows: list[Any], module: Any, x: tuple[Any]) -> None:
        rows.append((x[0].mean(dim=(0, 2, 3)), x[0].square().mean(dim=(0, 2, 3))))

    for layer, module in net.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(partial(record, moments.setdefault(f"{layer}.running_mean", [])))
    with torch.no_grad():
        for x in inputs:
            net(torch.from_numpy(x.astype(np.float64)))
    assert estimate
    assert set(estimate) == set(moments)
    for key, (mean, variance) in estimate.items():
        first, second = (torch.stack(rows).mean(dim=0).numpy() for rows in zip(*moments[key], strict=True))
        # float32 arithmetic through a few layers, against float64: 1e-6 to 1e-5 of a deviation.
        np.testing.assert_allclose(variance, second - first**2, rtol=1e-4)
        assert np.abs(mean - first).max() <= 1e-4 * np.sqrt(variance.max())


def test_a_network_without_batchnorm_has_no_statistics(pico_case: Callable[[str], Case]) -> None:
    case = pico_case("compact")
    estimator = BatchNormEstimator(case.graph, case.weights, threads=1, statistics="running")
    assert estimator.layers == ()
    assert estimator.estimate(case.members[0], case.inputs()) == {}


@pytest.mark.parametrize("name", ["linear_bn", "bn_without_affine", "bn_first"])
def test_layers_of_every_kind(name: str) -> None:
    """The first BatchNorm sees what no other BatchNorm has touched: its statistics are those of the graph's own values."""
    case = HAND[name]()
    shape = (8, *case.shapes[0][1:])
    x = np.random.default_rng(3).normal(0.5, 2.0, shape).astype(np.float32)
    estimator = BatchNormEstimator(case.graph, case.weights, threads=1)
    found = estimator.estimate(case.members[0], [x])
    first = estimator.layers[0]
    if name == "bn_first":
        seen = x.astype(np.float64)
    elif name == "linear_bn":
        gemm = next(node for node in case.graph.graph.node if node.op_type == "Gemm")
        weight, bias = (case.members[0][key].astype(np.float64) for key in gemm.input[1:3])
        transposed = any(a.name == "transB" and a.i for a in gemm.attribute)
        seen = x.astype(np.float64) @ (weight.T if transposed else weight) + bias
    else:
        torch = pytest.importorskip("torch")
        conv = next(node for node in case.graph.graph.node if node.op_type == "Conv")
        weight, bias = (torch.from_numpy(case.members[0][key]).double() for key in conv.input[1:3])
        seen = torch.nn.functional.conv2d(torch.from_numpy(x).double(), weight, bias, padding=1).numpy()
    axes = tuple(axis for axis in range(seen.ndim) if axis != 1)
    count = seen.size // seen.shape[1]
    np.testing.assert_allclose(found[first.mean][0], seen.mean(axis=axes), rtol=1e-5, atol=1e-5)  # float32 sums
    np.testing.assert_allclose(found[first.mean][1], seen.var(axis=axes) * count / (count - 1), rtol=1e-4)


def test_a_layer_that_is_run_through_twice_has_the_mean_of_both() -> None:
    case = HAND["shared_bn"]()
    found = BatchNormEstimator(case.graph, case.weights, threads=1).estimate(case.members[0], [case.inputs()[0]])
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(case.inputs()[0]).double()
    means = []
    for node in (node for node in case.graph.graph.node if node.op_type == "Conv"):
        weight, bias = (torch.from_numpy(case.members[0][key]).double() for key in node.input[1:3])
        means.append(torch.nn.functional.conv2d(x, weight, bias, padding=1).mean(dim=(0, 2, 3)).numpy())
    assert list(found) == ["bn.running_mean"]
    np.testing.assert_allclose(found["bn.running_mean"][0], np.mean(means, axis=0), rtol=1e-5, atol=1e-5)
    assert np.abs(means[0] - means[1]).max() > 0.01  # or the mean of both would be each


def test_the_graph_that_was_passed_in_is_not_changed() -> None:
    case = HAND["conv_bn"]()
    before = case.graph.SerializeToString(deterministic=True)
    BatchNormEstimator(case.graph, case.weights, threads=1)
    assert case.graph.SerializeToString(deterministic=True) == before


def test_activations_that_are_not_finite_raise() -> None:
    case = HAND["conv_bn"]()
    estimator = BatchNormEstimator(case.graph, case.weights, threads=1)
    broken = {
        name: np.full_like(values, np.inf) if name.startswith("conv0") else values for name, values in case.members[0].items()
    }
    with pytest.raises(EngineError, match="not finite"):
        estimator.estimate(broken, [case.inputs()[0]])
    with pytest.raises(EngineError, match=r"could not run an input of shape \(1, 99, 8, 8\)"):
        estimator.estimate(case.members[0], [np.zeros((1, 99, 8, 8), np.float32)])
