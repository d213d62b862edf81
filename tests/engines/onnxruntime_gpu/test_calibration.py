"""A calibrated network in ONNX Runtime on the GPU, over a fake GPU's memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.errors import CoefficientsError, EngineError
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from engines.calibrated_network import read_network
from engines.interface import EngineOptions
from engines.lowering.gpu import lower_for_gpu
from tests.engines.conftest import Case, write
from tests.engines.onnxruntime_cpu.test_calibration import calibrated
from tests.fakes.gpu import FakeGpu
from tests.support.handmade_graphs import HAND, RAW

TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}
"""As in test_bound.py."""


@pytest.mark.parametrize("gpu", [{"tensorrt": None, "eager": True}], indirect=True)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "name", ["dncnn_bn", "cyclegan_bn", "conv_bn", "bn_first", "transposed_bn", "shared_bn", "rrdbnet", "compact", *RAW]
)
def test_frames_with_the_statistics_of_the_knots(
    name: str, precision: str, gpu: FakeGpu, tmp_path: Path, pico_case: Callable[[str], Case]
) -> None:
    from engines.onnxruntime_gpu.engine import BoundEngine

    hand = {**HAND, **RAW}
    case = hand[name]() if name in hand else pico_case(name)
    bundle = calibrated(write(case, tmp_path / "x.dni", 3))
    network = read_network(bundle)
    members = network.read_members()
    known = network.make_table(members)
    lowered = lower_for_gpu(network.graph, network.weight_names, precision)
    engine = BoundEngine(
        lowered, members, EngineOptions(threads=1), provider="CPUExecutionProvider", device_type="cpu", calibration=known
    )
    try:
        x = case.inputs()[0]
        for shares in map(np.array, ([0.2, 0.3, 0.5], [0.65, 0.0, 0.35], [0.0, 1.0, 0.0])):
            engine.refit(0, shares)
            expected = ort_session.run_session(ort_session.open_blended_session(network.graph, members, shares, known), x)
            assert relative_error(engine.infer(0, x), expected) <= TOLERANCE[precision]
    finally:
        engine.close()


@pytest.mark.parametrize("gpu", [{"tensorrt": None, "eager": True}], indirect=True)
def test_groups_and_what_lies_beyond_are_refused(gpu: FakeGpu, tmp_path: Path) -> None:
    """And the slot keeps what it had."""
    from engines.onnxruntime_gpu.engine import BoundEngine

    case = HAND["conv_bn"]()
    bundle = calibrated(write(case, tmp_path / "x.dni", 3))
    network = read_network(bundle)
    members = network.read_members()
    known = network.make_table(members)
    lowered = lower_for_gpu(network.graph, network.weight_names, "fp32")
    engine = BoundEngine(
        lowered, members, EngineOptions(threads=1), provider="CPUExecutionProvider", device_type="cpu", calibration=known
    )
    rows = np.tile([0.2, 0.3, 0.5], (len(bundle.weight_names), 1))
    rows[0] = 0.65, 0.0, 0.35
    refused = ((rows, "one alpha of all weights"), (np.array([1.2, -0.2, 0.0]), "nothing is known beyond"))
    try:
        x = case.inputs()[0]
        for shares, sentence in refused:
            with pytest.raises(CoefficientsError, match=sentence):
                engine.refit(0, shares)
            with pytest.raises(EngineError, match="Slot 0 has no weights"):
                engine.infer(0, x)
        engine.refit(0, np.array([0.2, 0.3, 0.5]))
        before, queued = engine.infer(0, x), dict(gpu.launches)
        for shares, sentence in refused:
            with pytest.raises(CoefficientsError, match=sentence):
                engine.refit(0, shares)
            assert np.array_equal(engine.infer(0, x), before)
        assert gpu.launches == queued
    finally:
        engine.close()
