"""OpenVINO computes the first member, and says in one sentence what it cannot do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UnavailableError
from dni_deploy.latency.modes import BACKEND_MODES, OPENVINO_BASELINES
from dni_deploy.utils.compare_arrays import relative_error
from engines import ort_session
from engines.interface import EngineOptions
from tests.engines.conftest import write
from tests.support.handmade_graphs import HAND

MAX_RELATIVE_ERROR = {"openvino": 1e-5, "openvino bf16": 0.05}
"""Of the output's largest value. float32 is added in another order; bfloat16 rounds each value by up to 2**-9, and two layers with
cancellation add up to a few of them."""
X = np.random.default_rng(0).random((1, 3, 16, 12), np.float32)
MODES = {mode.name: mode for mode in BACKEND_MODES if mode.name in MAX_RELATIVE_ERROR}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(HAND["conv_bn"](), tmp_path / "x.dni", members=2)


class FakeOpenVino(ModuleType):
    """An `openvino` that doubles its input, records its properties and compiles nothing else than 1 x 3 x 16 x 12."""

    def __init__(self) -> None:
        super().__init__("openvino")
        self.properties: list[dict[str, str]] = []
        self.InferRequest = object
        self.Core = lambda: self

    def read_model(self, graph: Any) -> FakeOpenVino:
        assert graph.read()
        return self

    def reshape(self, shape: list[int]) -> None:
        if shape != list(X.shape):
            raise RuntimeError("Exception from src/core.cpp:105:\nCheck 'a == b' failed at src/b.cpp:1:\nWrong\nshape.\n\n")

    def compile_model(self, model: Any, device: str, properties: dict[str, str]) -> FakeOpenVino:
        self.properties.append(properties)
        return self

    def create_infer_request(self) -> FakeOpenVino:
        return self

    def infer(self, inputs: dict[int, Any], share_inputs: bool) -> list[Any]:
        return [2 * inputs[0]]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenVino]:
    module = FakeOpenVino()
    monkeypatch.setitem(sys.modules, "openvino", module)
    monkeypatch.delitem(sys.modules, OPENVINO_BASELINES, raising=False)
    yield module
    sys.modules.pop(OPENVINO_BASELINES, None)


@pytest.mark.parametrize(("name", "precision"), [("openvino", "f32"), ("openvino bf16", "bf16")])
def test_precision_and_threads_are_set_and_a_shape_is_compiled_once(
    name: str, precision: str, bundle: Bundle, fake: FakeOpenVino
) -> None:
    engine = MODES[name].open_engine(bundle, EngineOptions(threads=3, slots=1))
    engine.refit(0, np.array([0.5, 0.5]))
    for _ in range(2):
        assert np.array_equal(engine.infer(0, X), 2 * X)
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": "3"}
    assert fake.properties == [hints]


def test_what_openvino_cannot_compile_is_an_engine_error_without_its_source_files(bundle: Bundle, fake: FakeOpenVino) -> None:
    engine = MODES["openvino"].open_engine(bundle, EngineOptions())
    with pytest.raises(EngineError, match=r"input of shape \(1, 3, 8, 8\): Wrong shape\.$"):
        engine.infer(0, X[:, :, :8, :8])
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(0, X)


def test_an_openvino_that_does_not_import_is_unavailable(
    bundle: Bundle, fake: FakeOpenVino, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UnavailableError, match="openvino cannot run here: ModuleNotFoundError"):
        MODES["openvino"].open_engine(bundle, EngineOptions())


@pytest.mark.parametrize("name", MODES)
def test_computes_the_first_member_at_every_shape(name: str, bundle: Bundle) -> None:
    pytest.importorskip("openvino")
    if (reason := MODES[name].unavailable_reason(bundle)) is not None:
        pytest.skip(reason)
    engine = MODES[name].open_engine(bundle, EngineOptions(threads=1, slots=1))
    session = ort_session.open_cpu_session(bundle.read_graph_with_weights(bundle.members[0]), 1)
    engine.refit(0, np.array([0.0, 1.0]))
    results = []
    for x in (X, X[:, :, :8], X):
        results.append(engine.infer(0, x))
        assert (
            relative_error(results[-1], ort_session.run_session(session, np.ascontiguousarray(x))) <= MAX_RELATIVE_ERROR[name]
        )
    assert np.array_equal(results[0], results[2])  # a fresh array each: the frames after it left it alone
    with pytest.raises(EngineError, match=r"OpenVINO could not run an input of shape \(1, 4, 8, 8\)"):
        engine.infer(0, np.zeros((1, 4, 8, 8), np.float32))
    engine.close()
