"""Lowering: another graph of the same function, which ONNX Runtime keeps in its blocked layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from dni_deploy.blending.blend import blend_float64
from engines import ort_session
from engines.onnxruntime_cpu.layout import find_layout
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from tests.engines.conftest import NAMES, Case
from tests.support.handmade_graphs import HAND
from tests.support.pico_architectures import RRDBNet, SRVGGNetCompact

TOLERANCE = 1e-5
"""Of the output's largest value. A fold or a depthwise convolution rounds each activation once or twice more (6e-8 each);
measured 1e-7 to 2e-6 over these networks."""


@pytest.fixture(params=[*NAMES, *HAND])
def case(request: pytest.FixtureRequest, pico_case: Callable[[str], Case]) -> Case:
    return HAND[request.param]() if request.param in HAND else pico_case(request.param)


def test_the_lowered_graph_computes_the_same(case: Case) -> None:
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    shares = np.array([0.5, 0.2, 0.3])
    blended = blend_float64(case.members, shares)
    before = ort_session.open_cpu_session(ort_session.bind_initializers(case.graph, blended))
    after = ort_session.open_cpu_session(ort_session.bind_initializers(lowered, recipes.compute_values(blended)))
    for x in case.inputs():
        expected, got = ort_session.run_session(before, x), ort_session.run_session(after, x)
        assert got.shape == expected.shape
        error = np.abs(got - expected).max() / np.abs(expected).max()
        assert error <= TOLERANCE


def test_recipes_and_graph_fit_each_other(case: Case) -> None:
    before = case.graph.SerializeToString(deterministic=True)
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    assert case.graph.SerializeToString(deterministic=True) == before
    initializers = {tensor.name: tensor for tensor in lowered.graph.initializer}
    assert len(initializers) == len(lowered.graph.initializer)
    for name, recipe in recipes.linear.items():
        assert tuple(initializers[name].dims) == recipe.shape
        assert not initializers[name].raw_data
    assert {fold.weight for fold in recipes.folds} | {fold.bias for fold in recipes.folds} <= set(recipes.linear)
    onnx.checker.check_model(ort_session.bind_initializers(lowered, recipes.compute_values(case.members[0])))


@pytest.mark.parametrize("name", [name for name in HAND if "bn" in name and name != "bn_without_affine"])
def test_no_batch_norm_of_a_picture_is_left(name: str) -> None:
    lowered, _ = lower_for_cpu(HAND[name]().graph, HAND[name]().weights)
    left = sum(node.op_type == "BatchNormalization" for node in lowered.graph.node)
    assert left == (1 if name == "linear_bn" else 0)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("conv_bn", {"Conv": 2}),
        ("transposed_bn", {"Conv": 1, "ConvTranspose": 1}),
        ("bn_first", {"Conv": 2}),  # the BatchNorm has become a depthwise one
        ("mul_after_conv", {"Conv": 1}),
        ("bn_after_grouped_conv", {"Conv": 3}),
        ("mul_of_odd_channels", {"Conv": 1, "Relu": 1, "Mul": 1}),  # outside the blocked layout there is nothing to gain
        ("prelu_odd_channels", {"Conv": 1, "PRelu": 1, "Reshape": 1}),
    ],
)
def test_what_is_folded(name: str, kinds: dict[str, int]) -> None:
    lowered, _ = lower_for_cpu(HAND[name]().graph, HAND[name]().weights)
    assert Counter(node.op_type for node in lowered.graph.node) == kinds


def test_a_node_that_nothing_reads_is_left_out() -> None:
    """Its weights and folds too."""
    case = HAND["conv_bn"]()
    extra = [onnx.helper.make_node("Conv", ["x", "spare.weight"], ["spare"], kernel_shape=[1, 1])]
    extra.append(onnx.helper.make_node("BatchNormalization", ["spare", *(f"spare.{part}" for part in "gbmv")], ["spare2"]))
    case.graph.graph.node.extend(extra)
    names = ["spare.weight", *(f"spare.{part}" for part in "gbmv")]
    for name in names:
        dims = (4, 3, 1, 1) if name == "spare.weight" else (4,)
        case.graph.graph.initializer.append(onnx.TensorProto(name=name, dims=dims, data_type=onnx.TensorProto.FLOAT))
    lowered, recipes = lower_for_cpu(case.graph, (*case.weights, *names))
    assert not any("spare" in name for node in lowered.graph.node for name in (*node.input, *node.output))
    assert not any("spare" in name for name in recipes.linear)
    assert len(recipes.folds) == 1


# ----- reorders


def reorders(model: onnx.ModelProto) -> Counter[str]:
    kinds = Counter(node.op_type for node in model.graph.node)
    return Counter({kind: kinds[kind] for kind in ("ReorderInput", "ReorderOutput")})


def blocked() -> bool:
    """Whether this machine's ONNX Runtime has the blocked layout at all (x86 with AVX2 or better)."""
    case = HAND["conv_bn"]()
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    return bool(reorders(find_layout(lowered, recipes).optimized).total())


@pytest.fixture(scope="module")
def wide(pico_case: Callable[[str], Case]) -> dict[str, tuple[onnx.ModelProto, tuple[str, ...], dict[str, np.ndarray]]]:
    """Compact and RRDB of 16 channels, as wide as a block."""
    from exporters.architectures.registry import find_architecture
    from exporters.cache import export_graph_cached

    made = {}
    for name, net in (("compact", SRVGGNetCompact(3, 16, 3, 4)), ("rrdbnet", RRDBNet(3, 16, 2, 16))):
        net.eval().requires_grad_(False)
        tensors = {key: value.numpy() for key, value in net.state_dict().items()}
        lifted, _ = export_graph_cached(name, net, find_architecture(name, tensors).resolve_signature(net))
        made[name] = (lifted.graph, lifted.names, tensors)
    return made


@pytest.mark.parametrize("name", ["compact", "rrdbnet"])
@pytest.mark.slow
def test_reorders_are_gone(name: str, wide: dict[str, tuple[onnx.ModelProto, tuple[str, ...], dict[str, np.ndarray]]]) -> None:
    """One into the blocked layout and one out of it; stock ONNX Runtime has some at each PRelu and each scalar Mul."""
    if not blocked():
        pytest.skip("ONNX Runtime has no blocked layout on this processor")
    graph, names, tensors = wide[name]
    lowered, recipes = lower_for_cpu(graph, names)
    ours = reorders(find_layout(lowered, recipes).optimized)
    stock = reorders(_stock(ort_session.bind_initializers(graph, tensors)))
    # RRDBNet's two nearest-neighbour Resizes are outside the layout in both.
    resizes = sum(node.op_type == "Resize" for node in graph.graph.node) if name == "rrdbnet" else 0
    assert max(ours.values()) <= 2 + resizes
    assert ours.total() < stock.total() / 2
    assert stock.total() > 6


def _stock(model: onnx.ModelProto) -> onnx.ModelProto:
    """What ONNX Runtime makes of the model at its default options."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(folder) / "stock.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)
