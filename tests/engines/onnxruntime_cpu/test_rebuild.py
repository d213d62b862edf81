"""A graph that cannot be refitted in place gets a new session for every alpha, and the engine says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from engines import ort_session
from engines.interface import Engine, EngineOptions
from engines.onnxruntime_cpu import layout
from engines.registry import load_engine
from tests.engines.conftest import Case, open_cpu_engine, write
from tests.support.handmade_graphs import HAND, Hand, clamped_weight, weight_norm


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, pico_case: Callable[[str], Case]) -> dict[str, tuple[Case, Bundle]]:
    folder = tmp_path_factory.mktemp("engines")
    made = [pico_case("compact"), pico_case("dncnn_bn"), HAND["conv_bn"]()]
    return {case.name: (case, write(case, folder / f"{case.name}.dni", 3)) for case in made}


@pytest.fixture(params=["compact", "dncnn_bn", "hand"])
def opened(request: pytest.FixtureRequest, cases: dict[str, tuple[Case, Bundle]]) -> tuple[Case, Bundle]:
    return cases[request.param]


def test_it_computes_the_blend(opened: tuple[Case, Bundle]) -> None:
    case, bundle = opened
    engine = open_cpu_engine(bundle, "onnxruntime-rebuild")
    for slot, shares in ((1, [0.2, 0.3, 0.5]), (0, [0.0, 0.6, 0.4]), (1, [1.0, 0.0, 0.0])):
        engine.refit(slot, np.array(shares))
        stock = ort_session.open_blended_session(case.graph, case.members, np.array(shares), threads=1)
        for x in case.inputs():
            np.testing.assert_array_equal(engine.infer(slot, x), ort_session.run_session(stock, x))
    engine.close()


# ----- what cannot be refitted in place


def rebuilt(case: Case, path: Path) -> Engine:
    """The engine that `auto` gives; its outputs are right and it is the rebuilding one."""
    engine = load_engine(write(case, path, 3), options=EngineOptions(threads=1))
    assert engine.name == "onnxruntime-rebuild"
    for slot, shares in enumerate(([0.2, 0.3, 0.5], [0.5, 0.0, 0.5])):
        engine.refit(slot, np.array(shares))
        stock = ort_session.open_cpu_session(
            ort_session.bind_initializers(case.graph, blend_float64(case.members, np.array(shares))), 1
        )
        for x in case.inputs():
            np.testing.assert_array_equal(engine.infer(slot, x), ort_session.run_session(stock, x))
    return engine


def test_a_product_of_two_weights(tmp_path: Path) -> None:
    assert "computes" in rebuilt(weight_norm(), tmp_path / "x.dni").update_path


@pytest.mark.parametrize("op", ["Abs", "Relu"])
def test_a_weight_that_is_changed_on_its_way(op: str, tmp_path: Path) -> None:
    assert "a new session for every alpha (" in rebuilt(clamped_weight(op), tmp_path / "x.dni").update_path


def test_a_weight_beyond_the_range_of_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_WEIGHT_ELEMENTS", 100)
    assert "more than 100 elements" in rebuilt(HAND["conv_bn"](), tmp_path / "x.dni").update_path


def test_a_weight_without_effect(tmp_path: Path) -> None:
    """Its output is multiplied by 0, so that nobody could tell whether it is live."""
    hand = Hand()
    y = hand.node("Add", [hand.times(hand.node("Relu", [hand.conv("x", 3, weight="dead")]), 0.0), "x"])
    assert "no usable output" in rebuilt(hand.case(y, name="dead"), tmp_path / "x.dni").update_path


# In place: two slots, and the three sessions of their verification.
@pytest.mark.parametrize(("name", "sessions"), [("onnxruntime", 5), ("onnxruntime-rebuild", 2)])
def test_sessions_that_take_turns_leave_each_other_the_cores(
    name: str, sessions: int, cases: dict[str, tuple[Case, Bundle]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that spin on after a frame would take a core from the other slot's session. Not timed: what is asked for is looked at."""
    opened, asked = ort_session.create_session, []

    def spy(model: onnx.ModelProto, options: ort.SessionOptions, **named: Any) -> ort.InferenceSession:
        try:
            asked.append(options.get_session_config_entry("session.force_spinning_stop"))
        except RuntimeError:  # not among its entries
            asked.append("")
        return opened(model, options, **named)

    monkeypatch.setattr(ort_session, "create_session", spy)
    engine = open_cpu_engine(cases["compact"][1], name, threads=0)
    for slot in range(2):
        engine.refit(slot, np.array([0.2, 0.3, 0.5]))
    engine.close()
    assert asked.count("1") == sessions
