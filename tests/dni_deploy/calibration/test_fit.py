"""What the methods of a calibration fit, against what it has to be in float64 and on inputs that no fit has seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.calibration.candidate_network import CandidateNetwork
from dni_deploy.calibration.channels import find_correctable_layers, fit_channels
from dni_deploy.calibration.fit import fit_calibration
from dni_deploy.calibration.output import fit_output
from dni_deploy.calibration.score import blend_outputs, make_held_back
from dni_deploy.errors import UsageError
from dni_deploy.signature import Signature
from engines.calibrated_network import CalibratedNetwork
from engines.lowering.calibration_nodes import insert_calibration_nodes, make_neutral_tensors, parameter_names
from engines.onnxruntime_cpu.statistics import BatchNormEstimator
from tests.engines.conftest import Case, pico_case, write

__all__ = ["pico_case"]  # a fixture of the engines

HALF = np.array([0.5, 0.5])


def make_inputs(seed: int, count: int = 12, side: int = 32) -> np.ndarray:
    """Makes smooth pictures with edges: what a network's layers see of photographs is not white either."""
    rng = np.random.default_rng(seed)
    noise = rng.random((count, 3, side, side)).cumsum(axis=2).cumsum(axis=3)
    noise -= noise.min(axis=(2, 3), keepdims=True)
    return (noise / noise.max(axis=(2, 3), keepdims=True)).astype(np.float32)


def test_output_is_fitted_as_by_float64_regression() -> None:
    rng = np.random.default_rng(0)
    output = rng.random((2, 3, 8, 9), np.float32)
    target = output * np.float32(1.3) + rng.normal(0, 0.1, output.shape).astype(np.float32)
    scale, shift = fit_output(output, target, (0, 0, 1, 1, 2, 2))
    for channel in range(3):
        slope, offset = np.polyfit(output[:, channel].ravel().astype(float), target[:, channel].ravel().astype(float), 1)
        np.testing.assert_allclose(scale[[2 * channel, 2 * channel + 1]], slope, rtol=1e-9)
        np.testing.assert_allclose(shift[[2 * channel, 2 * channel + 1]], offset, atol=1e-9)
    flat = np.full((1, 3, 4, 4), 0.5, np.float32)
    scale, shift = fit_output(flat, flat + 0.25, (0, 1, 2))
    np.testing.assert_allclose((scale, shift), [[1] * 3, [0.25] * 3], atol=1e-7)


def test_corrected_channels_have_the_blend_of_the_members_statistics(pico_case: Callable[[str], Case]) -> None:
    """Measured in the corrected network itself, layer by layer, not while it is fitted."""
    case = pico_case("rrdbnet")
    inputs = make_inputs(0)
    members = case.members[:2]
    corrections = fit_channels(case.graph, members, HALF[None], [inputs])
    layers = list(corrections)
    assert {layer.value for layer in layers} == set(find_correctable_layers(case.graph, case.weights))
    neutral = make_neutral_tensors(layers)
    names = (*case.weights, *neutral)

    def measure(tensors: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        graph = insert_calibration_nodes(case.graph, layers)
        return BatchNormEstimator(graph, names, 1, statistics="running").estimate({**neutral, **tensors}, [inputs])

    ends = [measure(tensors) for tensors in members]
    blended = {name: (members[0][name].astype(float) + members[1][name]) / 2 for name in case.weights}
    corrected = dict(blended)
    for layer, rows in corrections.items():
        scale, shift = parameter_names(layer.value)[:2]
        corrected |= {scale: rows[0].scale, shift: rows[0].shift}
    moments, plain = measure(corrected), measure(blended)
    plain_errors, errors = [], []
    for layer in layers:
        scale, shift, mean, _ = parameter_names(layer.value)
        target = sum(np.sqrt(end[mean][1]) for end in ends) / 2
        errors.append(np.abs(np.sqrt(moments[mean][1]) * corrected[scale] / target - 1).max())
        plain_errors.append(np.abs(np.sqrt(plain[mean][1]) / target - 1).max())
        np.testing.assert_allclose(
            moments[mean][0] * corrected[scale] + corrected[shift], sum(end[mean][0] for end in ends) / 2, atol=1e-3
        )
    # Variances come from batch statistics with n - 1 in place of n, over 12 pictures of 32 x 32 pixels: 1e-4.
    assert max(errors) < 1e-3 < max(plain_errors)


@pytest.mark.parametrize(("name", "method"), [("rrdbnet", "output"), ("compact_x2", "output"), ("compact_x2", "channels")])
def test_a_calibration_helps_on_inputs_that_it_has_not_seen(
    name: str, method: str, tmp_path: Path, pico_case: Callable[[str], Case]
) -> None:
    """Of members that were drawn apart, whose blends lose the most."""
    bundle = write_unrelated(pico_case(name), tmp_path)
    fit = fit_calibration(bundle, make_inputs(1, 16), 4, method)
    assert fit.table is not None
    assert fit.scores == ()
    layers = [key.removesuffix("@calibration.scale") for key in fit.table.statistics if key.endswith(".scale")]
    unseen = [make_inputs(2, 4)]
    plain = CandidateNetwork(bundle.read_graph(), bundle.read_all_weights())
    target = blend_outputs([plain.run(row, unseen) for row in np.eye(2)], HALF)
    network = corrected_network(bundle, fit.table, layers)
    before, after = (((run.run(HALF, unseen) - target) ** 2).mean() for run in (plain, network))
    assert after < 0.8 * before  # 1 dB and more


def write_unrelated(case: Case, folder: Path) -> Bundle:
    """Writes the case with a second member whose weights are drawn anew at the same size."""
    rng = np.random.default_rng(3)
    first = case.members[0]
    second = {name: (rng.permutation(tensor.ravel()).reshape(tensor.shape)) for name, tensor in first.items()}
    return write(Case(case.name, case.graph, case.weights, [first, second], case.signature, case.shapes), folder / "x.dni")


def corrected_network(bundle: Bundle, table: object, values: list[str]) -> CandidateNetwork:
    from dni_deploy.bundle.writer import store_calibration
    from engines.calibrated_network import read_network, serialize_calibration

    network = read_network(store_calibration(bundle, serialize_calibration(table)))  # type: ignore[arg-type]
    assert isinstance(network, CalibratedNetwork)
    assert {layer.value for layer in network.layers} == set(values)
    members = network.read_members()
    return CandidateNetwork(network.graph, members, network.make_table(members))


@pytest.mark.slow
def test_the_chosen_method_is_the_best_on_held_back_inputs(tmp_path: Path, pico_case: Callable[[str], Case]) -> None:
    bundle = write_unrelated(pico_case("rrdbnet"), tmp_path)
    fit = fit_calibration(bundle, make_inputs(1, 16), 4)
    scores = {score.method: score.mean_psnr for score in fit.scores}
    assert list(scores) == ["none", "output", "channels"]
    assert fit.method != "none"
    assert scores[fit.method] > scores["none"] + 0.1
    assert fit.table is not None
    assert fit.table.about["method"] == fit.method
    with pytest.raises(UsageError, match="auto, output or channels"):
        fit_calibration(bundle, make_inputs(1, 4), 4, "both")
    with pytest.raises(UsageError, match="at least two"):
        fit_calibration(bundle, make_inputs(1, 1), 4)


def test_networks_that_enlarge_are_scored_against_originals() -> None:
    crops = make_inputs(0, 3, 48)
    batches, originals = make_held_back(crops, Signature(scale=2), 2)
    assert originals is not None
    assert [batch.shape for batch in batches] == [(2, 3, 24, 24), (1, 3, 24, 24)]
    np.testing.assert_allclose(batches[1][0, 1, 3, 5], originals[2, 1, 6:8, 10:12].mean(), rtol=1e-6)
    batches, originals = make_held_back(crops, Signature(scale=4), 8)
    assert originals is None  # 12 pixels are mostly border
    assert batches[0].shape == crops.shape
    assert make_held_back(crops, Signature(scale=2, minimum=32), 8).originals is None
    assert make_held_back(crops, Signature(), 8).originals is None
