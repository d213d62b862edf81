"""A calibrated network through the TensorRT engines, on the fake for each version, against ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.writer import store_calibration
from dni_deploy.errors import DniError, EngineError
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from engines.calibrated_network import read_network
from tests.engines.conftest import write
from tests.engines.onnxruntime_cpu.test_calibration import calibrated
from tests.engines.trt.conftest import TOLERANCE, build, everywhere, opened, picture, serialize_refitted
from tests.fakes.gpu import FakeGpu
from tests.support.handmade_graphs import RAW

MIXED = ([0.2, 0.3, 0.5], [0.65, 0.0, 0.35], [0.25, 0.5, 0.25])


def truth(bundle: Bundle, shares: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    network = read_network(bundle)
    members = network.read_members()
    session = ort_session.open_blended_session(
        network.graph, members, np.array(shares, np.float64), network.make_table(members)
    )
    return ort_session.run_session(session, x)


@everywhere
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_frames_with_the_statistics_of_the_knots(precision: str, bundle: Bundle, gpu: FakeGpu) -> None:
    changed = calibrated(bundle)
    built = build(changed, precision=precision)
    assert built.max_relative_error <= TOLERANCE[precision]
    x, outputs = picture(), []
    with opened(changed, slots=2) as engine:
        for number, shares in enumerate((*MIXED, *np.eye(3), MIXED[0])):
            engine.refit(number % 2, np.array(shares, np.float64))
            outputs.append(engine.infer(number % 2, x))
            assert relative_error(outputs[-1], truth(changed, shares, x)) <= TOLERANCE[precision]
            if max(shares) < 1:
                assert relative_error(truth(bundle, shares, x), truth(changed, shares, x)) > 3 * TOLERANCE[precision]
    assert np.array_equal(outputs[0], outputs[-1])


@everywhere
def test_the_members_alone_are_the_same_bits_with_and_without(bundle: Bundle, gpu: FakeGpu) -> None:
    build(bundle)
    changed = calibrated(bundle)
    x = picture()

    def ends(of: Bundle) -> list[NDArray[np.float32]]:
        outputs = []
        with opened(of) as engine:
            for shares in np.eye(3):
                engine.refit(0, shares)
                outputs.append(engine.infer(0, x))
        return outputs

    plain = Bundle.open(store_calibration(changed, None).path)
    before = ends(plain)
    changed = calibrated(plain)
    assert all(map(np.array_equal, ends(changed), before))


@everywhere
def test_a_plan_of_before_is_kept_and_verified_with_them(bundle: Bundle, gpu: FakeGpu) -> None:
    first = build(bundle)
    before = first.plan_path.read_bytes()
    changed = calibrated(bundle)
    kept = build(changed, keep=True)
    assert kept.plan_kept
    assert kept.plan_path == first.plan_path
    after = first.plan_path.read_bytes()
    assert after != before  # the sample of the expected output is the new one
    assert len(after) == pytest.approx(len(before), rel=0.01)
    with opened(changed) as engine:
        engine.refit(0, np.array(MIXED[0]))
        assert relative_error(engine.infer(0, picture()), truth(changed, MIXED[0], picture())) <= TOLERANCE["fp32"]
    with pytest.raises(DniError, match="exists; give --force"):
        build(changed)


@everywhere
def test_an_engine_that_ignored_them_would_not_open(bundle: Bundle, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = calibrated(bundle)
    build(changed)
    monkeypatch.setattr("engines.trt.network.read_network", lambda bundle: replace(read_network(bundle), inner_statistics=None))
    with pytest.raises(EngineError, match="gives another output"), opened(changed):
        pass


@everywhere
def test_a_refitted_engine_is_written_with_them(bundle: Bundle, gpu: FakeGpu) -> None:
    changed = calibrated(bundle)
    build(changed)
    with_them = serialize_refitted(changed, np.array(MIXED[0]))
    assert with_them != serialize_refitted(store_calibration(changed, None), np.array(MIXED[0]))


@everywhere
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_groups_and_what_lies_beyond_are_refused(cuda_graph: bool, bundle: Bundle, gpu: FakeGpu) -> None:
    """And the slot keeps what it had: nothing was queued, and frames go on with the same bits."""
    changed = calibrated(bundle)
    build(changed)
    rows, x = np.tile(MIXED[0], (len(changed.weight_names), 1)), picture()
    apart = rows.copy()
    apart[0] = MIXED[1]
    refused = (
        (apart, r"one alpha (for|of) all weights"),
        (np.array([1.2, -0.2, 0.0]), "nothing is known beyond"),
        (np.tile([1.2, -0.2, 0.0], (len(rows), 1)), "nothing is known beyond"),
    )
    with opened(changed, slots=2, cuda_graph=cuda_graph) as engine:
        engine.refit(0, rows)  # equal rows are one alpha
        before = engine.infer(0, x)
        assert relative_error(before, truth(changed, MIXED[0], x)) <= TOLERANCE["fp32"]
        for shares, sentence in refused:
            queued = dict(gpu.launches)
            with pytest.raises(DniError, match=sentence):
                engine.refit(0, shares)
            assert gpu.launches == queued
            assert np.array_equal(engine.infer(0, x), before)
            with pytest.raises(DniError, match=sentence):
                engine.refit(1, shares)
            with pytest.raises(EngineError, match="it has no weights yet; refit it first"):
                engine.infer(1, x)
        engine.refit(0, np.array(MIXED[1]))
        assert relative_error(engine.infer(0, x), truth(changed, MIXED[1], x)) <= TOLERANCE["fp32"]


@everywhere
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("make", RAW)
def test_statistics_that_no_fold_takes_up(make: str, precision: str, gpu: FakeGpu, tmp_path: Path) -> None:
    """They are weights of the graph as they are, and blended over the knots too."""
    case = RAW[make]()
    case.graph.opset_import[0].version = 17  # which TensorRT 8.6 reads; these operators are the same there
    bundle = calibrated(write(case, tmp_path / "x.dni", members=3))
    build(bundle, precision=precision)
    x, outputs = picture(), []
    with opened(bundle) as engine:
        for shares in (*MIXED, *np.eye(3), MIXED[0]):
            engine.refit(0, np.array(shares, np.float64))
            outputs.append(engine.infer(0, x))
            assert relative_error(outputs[-1], truth(bundle, shares, x)) <= TOLERANCE[precision]
        with pytest.raises(DniError, match="nothing is known beyond"):
            engine.refit(0, np.array([1.2, -0.2, 0.0]))
        assert np.array_equal(engine.infer(0, x), outputs[-1])
    assert np.array_equal(outputs[0], outputs[-1])
