"""Calibrated families in the engines on the CPU: the statistics of the knots everywhere, the members' own at the ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.blending.calibration_table import CalibrationTable
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import store_calibration
from dni_deploy.errors import CoefficientsError, DniError
from engines import ort_session
from engines.calibrated_network import CalibratedNetwork, list_statistics_names, read_network, serialize_calibration
from engines.interface import BuildOptions, Engine
from engines.lowering.calibration_nodes import SCALE_SUFFIX, find_convolutions, find_output_layer, parameter_names
from engines.registry import build_engine
from tests.engines.conftest import Case, open_cpu_engine, write
from tests.support.handmade_graphs import HAND

ENGINES = ("onnxruntime", "onnxruntime-rebuild")
BATCH_NORM = ("dncnn_bn", "dncnn_bn_kair", "cyclegan_bn", "dcgan")
HANDS = tuple(name for name in HAND if "bn" in name)
WITHOUT_BATCH_NORM = ("rrdbnet", "compact", "prelu_per_channel")
"""RRDBNet ends in a convolution, Compact in pixel shuffle and a residual, so that its output has a node."""

TOLERANCE = 1e-5
"""Of the output's largest value: float32 sums in another order, 1e-7 to 2e-6 over these networks; cyclegan_bn's 4e-6."""

MIXED = ([0.2, 0.3, 0.5], [0.65, 0.0, 0.35], [0.25, 0.5, 0.25])


@pytest.fixture(params=[*BATCH_NORM, *HANDS, *WITHOUT_BATCH_NORM])
def case(request: pytest.FixtureRequest, pico_case: Callable[[str], Case]) -> Case:
    return HAND[request.param]() if request.param in HAND else pico_case(request.param)


def calibrated(bundle: Bundle, steps: int = 4, seed: int = 5) -> Bundle:
    """With a calibration that is far from the blend alone, so that whoever does not use it is noticed.

    Of a network with BatchNorm, its statistics; of any other, a scale and a shift of every layer and of the output.
    """
    rng = np.random.default_rng(seed)
    names = list_statistics_names(bundle)
    layers = {} if names else find_convolutions(bundle.read_graph(), bundle.weight_names)
    if not names:
        output = find_output_layer(bundle.read_graph(), bundle.weight_names, bundle.signature.output_channels).layer
        layers[output.value] = output
    members = CalibratedNetwork(bundle, bundle.read_graph(), bundle.weight_names, tuple(layers.values())).read_members()
    shape = CalibrationTable.from_inner_statistics(members, steps, {}, {}).calibration_points
    inner = int((shape.max(axis=1) < 1).sum())
    known = {}
    for name in (*names, *(name for value in layers for name in parameter_names(value)[:2])):
        size = members[0][name].size
        is_positive = name.endswith(("running_var", SCALE_SUFFIX))
        known[name] = rng.uniform(0.3, 3.0, (inner, size)) if is_positive else rng.normal(0, 0.5, (inner, size))
    return store_calibration(
        bundle, serialize_calibration(CalibrationTable.from_inner_statistics(members, steps, known, {"pictures": []}))
    )


def opened(bundle: Bundle, name: str) -> Engine:
    return open_cpu_engine(bundle, name, slots=1)


def test_every_engine_computes_with_the_statistics_of_the_knots(case: Case, tmp_path: Path) -> None:
    bundle = calibrated(write(case, tmp_path / "x.dni", 3))
    network = read_network(bundle)
    members = network.read_members()
    known = network.make_table(members)
    engines = [opened(bundle, name) for name in ENGINES]
    x = case.inputs()[0]
    for shares in map(np.array, MIXED):
        expected = ort_session.run_session(ort_session.open_blended_session(network.graph, members, shares, known, 1), x)
        plain = ort_session.run_session(ort_session.open_blended_session(network.graph, members, shares, None, 1), x)
        size = np.abs(expected).max()
        assert np.abs(plain - expected).max() > 1e-3 * size  # there is something to get wrong
        for engine in engines:
            engine.refit(0, shares)
            assert np.abs(engine.infer(0, x) - expected).max() <= TOLERANCE * size, engine.name
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("name", ENGINES)
def test_the_members_alone_are_the_same_bits_with_and_without(case: Case, tmp_path: Path, name: str) -> None:
    bundle = write(case, tmp_path / "x.dni", 3)
    x, before = case.inputs()[0], opened(bundle, name)
    after = opened(calibrated(bundle), name)
    for shares in np.eye(3):
        before.refit(0, shares)
        after.refit(0, shares)
        assert after.infer(0, x).tobytes() == before.infer(0, x).tobytes()
    before.close()
    after.close()


@pytest.mark.parametrize("name", ENGINES)
def test_there_and_back_is_bit_identical(tmp_path: Path, name: str) -> None:
    case = HAND["conv_bn"]()
    engine = opened(calibrated(write(case, tmp_path / "x.dni", 3)), name)
    x, (a, b, _) = case.inputs()[0], map(np.array, MIXED)
    engine.refit(0, a)
    first = engine.infer(0, x)
    engine.refit(0, b)
    assert engine.infer(0, x).tobytes() != first.tobytes()
    engine.refit(0, a)
    assert engine.infer(0, x).tobytes() == first.tobytes()
    # (W, N) with equal rows is the same setting.
    engine.refit(0, np.tile(a, (len(case.weights), 1)))
    assert engine.infer(0, x).tobytes() == first.tobytes()
    engine.close()


@pytest.mark.parametrize("name", ENGINES)
def test_groups_and_what_lies_beyond_are_refused(tmp_path: Path, name: str) -> None:
    case = HAND["conv_bn"]()
    engine = opened(calibrated(write(case, tmp_path / "x.dni", 3)), name)
    rows = np.tile(MIXED[0], (len(case.weights), 1))
    rows[0] = MIXED[1]
    with pytest.raises(DniError, match=r"one alpha (for|of) all weights"):
        engine.refit(0, rows)
    with pytest.raises(CoefficientsError, match="nothing is known beyond"):
        engine.refit(0, np.array([1.2, -0.2, 0.0]))
    engine.close()


def test_a_plan_of_before_serves_and_is_verified_with_the_statistics(tmp_path: Path) -> None:
    case = HAND["conv_bn"]()
    bundle = write(case, tmp_path / "x.dni", 3)
    built = build_engine(bundle, "onnxruntime", BuildOptions(threads=1))
    changed = calibrated(bundle)
    again = build_engine(changed, "onnxruntime", BuildOptions(threads=1, force=True))
    assert again.plan_path == built.plan_path
    assert again.plan_path is not None
    engine = opened(changed, "onnxruntime")
    assert "in place" in engine.update_path
    engine.close()
