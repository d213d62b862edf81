"""Shares for each weight: what the engines of the CPU compute is the network with every tensor blended by its own row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import EngineError
from engines import ort_session
from engines.interface import Engine
from engines.onnxruntime_cpu.blender import Blender
from engines.onnxruntime_cpu.layout import allocate_aligned, find_layout
from engines.onnxruntime_cpu.lowering.passes import lower_for_cpu
from tests.engines.conftest import NAMES, Case, in_place, open_cpu_engine, write
from tests.engines.onnxruntime_cpu.test_blender import FOLDED, fresh
from tests.engines.onnxruntime_cpu.test_engine import TOLERANCE, WITH_INSTANCE_NORM
from tests.support.handmade_graphs import HAND

HANDS = ("transposed_bn", "bn_first", "shared_bn", "shared_single_prelu", "linear_bn", "upsampled_conv")
ENGINES = ("onnxruntime", "onnxruntime-rebuild")


def drawn(case: Case, seed: int = 0) -> NDArray[np.float64]:
    """A row for each weight: every third one member alone, every fifth without one of the members, the others all three."""
    rng = np.random.default_rng((seed, len(case.weights)))
    shares = rng.dirichlet(np.ones(3), len(case.weights))
    shares[::3] = np.eye(3)[rng.integers(3, size=len(shares[::3]))]
    shares[::5] = [0.4, 0.0, 0.6]
    return shares


@pytest.fixture(params=[*NAMES, *HANDS])
def case(request: pytest.FixtureRequest, pico_case: Callable[[str], Case]) -> Case:
    return HAND[request.param]() if request.param in HAND else pico_case(request.param)


@pytest.fixture(params=ENGINES)
def opened(request: pytest.FixtureRequest, case: Case, tmp_path: Path) -> Iterator[tuple[Engine, Case]]:
    """As a user opens it, verified; what cannot be done in place is rebuilt. The case has its weights in the bundle's order."""
    bundle = write(case, tmp_path / "case.dni", 3)
    engine = open_cpu_engine(bundle, request.param)
    members = [{name: tensors[name] for name in bundle.weight_names} for tensors in case.members]
    yield engine, replace(case, weights=bundle.weight_names, members=members)
    engine.close()


def test_outputs_are_those_of_every_tensor_blended_by_itself(opened: tuple[Engine, Case]) -> None:
    engine, case = opened
    normalizes = any(node.op_type == "InstanceNormalization" for node in case.graph.graph.node)
    tolerance = WITH_INSTANCE_NORM if normalizes else TOLERANCE
    for slot in (0, 1):
        shares = drawn(case, slot)
        engine.refit(slot, shares)
        stock = ort_session.open_cpu_session(ort_session.bind_initializers(case.graph, blend_float64(case.members, shares)), 1)
        for x in case.inputs():
            expected, got = ort_session.run_session(stock, x), engine.infer(slot, x)
            assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def test_there_and_back_is_bit_identical_and_plain_shares_are_as_without(opened: tuple[Engine, Case]) -> None:
    """A -> B -> A by rows; plain shares after rows give the bytes that they give alone, and so do rows that are all equal."""
    engine, case = opened
    x = case.inputs()[0]
    plain, a, b = np.array([0.2, 0.3, 0.5]), drawn(case, 1), drawn(case, 2)
    outputs = []
    for shares in (plain, a, b, a, plain, np.tile(plain, (len(case.weights), 1))):
        engine.refit(0, shares)
        outputs.append(engine.infer(0, x))
    assert not np.array_equal(outputs[1], outputs[2])
    np.testing.assert_array_equal(outputs[3], outputs[1])
    np.testing.assert_array_equal(outputs[4], outputs[0])
    np.testing.assert_array_equal(outputs[5], outputs[0])


@pytest.mark.parametrize("name", [*NAMES, *FOLDED])
def test_the_arena_is_a_fresh_build_of_the_blended_tensors(name: str, pico_case: Callable[[str], Case]) -> None:
    """To float32's roundings, as for plain shares: test_blender.py."""
    case = HAND[name]() if name in HAND else pico_case(name)
    lowered, recipes = lower_for_cpu(case.graph, case.weights)
    layout = find_layout(lowered, recipes)
    blender = Blender(layout, recipes, case.members)
    got = allocate_aligned((layout.size,))
    for seed in range(3):
        shares = drawn(case, seed)
        blender.blend(shares, got)
        expected = fresh(layout, recipes, blend_float64(case.members, shares))
        members = [fresh(layout, recipes, blend_float64([member], np.ones(1))) for member in case.members]
        scale = np.maximum.reduce([*np.abs(members), np.abs(expected)]) + 1e-3 * np.abs(expected).max()
        assert (np.abs(got - expected) <= 16 * 2.0**-24 * scale).all()


def test_rows_that_are_all_one_member_are_that_member_bit_for_bit(case: Case) -> None:
    """With one weight off, so that rows differ: everything else keeps the member's bits."""
    engine = in_place(case, slots=1)
    alone = engine.weight_buffers[0].flat.copy()
    for member in range(3):
        engine.refit(0, np.eye(3)[member])
        alone[:] = engine.weight_buffers[0].flat
        shares = np.tile(np.eye(3)[member], (len(case.weights), 1))
        shares[-1] = [0.25, 0.5, 0.25]
        engine.refit(0, shares)
        changed = np.flatnonzero(engine.weight_buffers[0].flat.view(np.uint32) != alone.view(np.uint32))
        engine.refit(0, np.array([0.25, 0.5, 0.25]))
        assert 0 < len(changed) < alone.size
        last, tensor = list(case.members[0].items())[-1]
        fold = any(last in (f.gamma, f.beta, f.mean, f.variance) for f in lower_for_cpu(case.graph, case.weights)[1].folds)
        if not fold:  # a fold's tensors change the whole convolution before them
            assert len(changed) <= 64 * tensor.size  # a narrow output is copied to up to 16 places, a slope to all channels
    engine.close()


def test_a_variance_that_one_row_makes_negative_is_an_error() -> None:
    case = HAND["conv_bn"]()
    variance = next(index for index, name in enumerate(case.members[0]) if "var" in name)
    engine = in_place(case)
    shares = np.tile([0.5, 0.5, 0.0], (len(case.weights), 1))
    engine.refit(0, shares)
    first, second = (list(tensors.values())[variance] for tensors in case.members[:2])
    shares[variance] = [-1000.0, 1001.0, 0.0] if (first > 1.01 * second).any() else [1001.0, -1000.0, 0.0]
    with pytest.raises(EngineError, match="variance is not positive"):
        engine.refit(0, shares)
    with pytest.raises(EngineError, match="refit it first"):
        engine.infer(0, case.inputs()[0])
    engine.close()


def test_pieces_where_one_optimized_weight_is_made_of_several() -> None:
    """No graph that was seen does so; the rule of the layout's map holds all the same."""
    from engines.onnxruntime_cpu.layout import Layout, WeightSpan

    gather = np.array([1, 2, 0, 3, 4, 0, 0, 5, 3, 1], np.int64)
    layout = Layout(
        onnx.ModelProto(), (WeightSpan("joined", (7,), 0, 7), WeightSpan("both", (3,), 7, 10)), gather, {"a": 0, "b": 2, "c": 4}
    )
    assert layout.split_blocks() == ([0, 3, 7, 8, 9], ["a", "b", "c", "b", "a"])
