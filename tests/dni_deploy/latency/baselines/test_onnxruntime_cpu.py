"""Every baseline in ONNX Runtime computes the blend that it is timed for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UsageError
from dni_deploy.latency.baselines.onnxruntime_cpu import (
    OrtConstantBaseline,
    OrtGraphBaseline,
    OrtInputsBaseline,
    open_rebuild,
)
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from engines.interface import Engine, EngineOptions
from tests.engines.conftest import write
from tests.support.handmade_graphs import HAND

TOLERANCE = 1e-5
"""Of the output's largest value: the baselines blend and add in other orders, in float32."""
X = np.random.default_rng(0).random((1, 3, 16, 12), np.float32)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(HAND["conv_bn"](), tmp_path / "x.dni", members=3)


@pytest.mark.parametrize("opener", [OrtConstantBaseline, OrtInputsBaseline, OrtGraphBaseline, open_rebuild])
def test_computes_the_blend(opener: Callable[[Bundle, EngineOptions], Engine], bundle: Bundle) -> None:
    """Each slot has its own blend; the constant baseline is the first member, whatever alpha is."""
    engine = opener(bundle, EngineOptions(threads=1, slots=2))
    assert engine.slots == 2
    members = [bundle.read_weights(name) for name in bundle.members]
    coefficients = np.array([[0.2, 0.3, 0.5], [0.0, 0.6, 0.4]])
    for slot in (0, 1):
        engine.refit(slot, coefficients[slot])
        engine.synchronize(slot)
    for slot in (0, 1):
        blended = members[0] if opener is OrtConstantBaseline else blend_float64(members, coefficients[slot])
        expected = ort_session.run_session(ort_session.open_cpu_session(bundle.read_graph_with_weights(blended), 1), X)
        assert relative_error(engine.infer(slot, X), expected) <= TOLERANCE
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="refit it first"):
        engine.infer(0, X)


@pytest.mark.parametrize("opener", [OrtInputsBaseline, OrtGraphBaseline])
def test_a_baseline_refuses_different_alphas_per_weight(
    opener: Callable[[Bundle, EngineOptions], Engine], bundle: Bundle
) -> None:
    engine = opener(bundle, EngineOptions(threads=1))
    rows = np.tile([0.2, 0.3, 0.5], (len(bundle.weight_names), 1))
    rows[0] = [1, 0, 0]
    with pytest.raises(UsageError, match="has one alpha for all weights"):
        engine.refit(0, rows)
    engine.close()
