"""Every engine of the CPU gives the same pictures; and a graph that cannot be refitted in place is rebuilt, and says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from dni_deploy.blending.blend import blend_float64
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, UnavailableError, UsageError
from engines import ort_session
from engines.interface import Engine, EngineOptions
from engines.onnxruntime_cpu import layout
from engines.registry import choose_engine, load_engine
from tests.engines.conftest import Case, open_cpu_engine, write
from tests.support.handmade_graphs import HAND, Hand, clamped_weight, weight_norm

TOLERANCE = 1e-5
"""Of the output's largest value: the engines blend and add in other orders, in float32."""
BLENDING = ("onnxruntime", "onnxruntime-rebuild")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, pico_case: Callable[[str], Case]) -> dict[str, tuple[Case, Bundle]]:
    folder = tmp_path_factory.mktemp("engines")
    made = [pico_case("compact"), pico_case("dncnn_bn"), HAND["conv_bn"]()]
    return {case.name: (case, write(case, folder / f"{case.name}.dni", 3)) for case in made}


@pytest.fixture(params=["compact", "dncnn_bn", "hand"])
def opened(request: pytest.FixtureRequest, cases: dict[str, tuple[Case, Bundle]]) -> tuple[Case, Bundle]:
    return cases[request.param]


@pytest.fixture(params=BLENDING)
def engine(request: pytest.FixtureRequest, opened: tuple[Case, Bundle]) -> Iterator[Engine]:
    engine = open_cpu_engine(opened[1], request.param)
    assert engine.name == request.param
    yield engine
    engine.close()


def test_every_engine_computes_the_blend(engine: Engine, opened: tuple[Case, Bundle]) -> None:
    case, _ = opened
    assert engine.slots == 2
    assert engine.update_path
    for slot, shares in ((1, [0.2, 0.3, 0.5]), (0, [0.0, 0.6, 0.4]), (1, [1.0, 0.0, 0.0])):
        engine.refit(slot, np.array(shares))
        stock = ort_session.open_cpu_session(
            ort_session.bind_initializers(case.graph, blend_float64(case.members, np.array(shares))), 1
        )
        for x in case.inputs():
            expected, got = ort_session.run_session(stock, x), engine.infer(slot, x)
            assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_every_engine_keeps_slots_apart_and_comes_back(engine: Engine, opened: tuple[Case, Bundle]) -> None:
    x = opened[0].inputs()[0]
    a, b = np.array([0.25, 0.25, 0.5]), np.array([0.5, 0.5, 0.0])
    engine.refit(0, a)
    with pytest.raises(EngineError, match="Slot 1"):
        engine.infer(1, x)
    first = engine.infer(0, x)
    engine.refit(1, b)
    np.testing.assert_array_equal(engine.infer(0, x), first)
    assert not np.array_equal(engine.infer(1, x), first)
    for shares in (b, a):
        engine.refit(0, shares)
    np.testing.assert_array_equal(engine.infer(0, x), first)


def test_every_engine_closes_twice_and_refuses_afterwards(engine: Engine, opened: tuple[Case, Bundle]) -> None:
    engine.refit(0, np.eye(3)[0])
    engine.close()
    engine.close()
    with pytest.raises(EngineError):
        engine.infer(0, opened[0].inputs()[0])


def test_every_engine_says_in_a_sentence_that_an_input_does_not_fit(engine: Engine) -> None:
    engine.refit(0, np.eye(3)[0])
    with pytest.raises(EngineError, match="could not run"):
        engine.infer(0, np.zeros((1, 7, 8, 8), np.float32))


# ----- the list


def test_auto_is_the_one_in_place(cases: dict[str, tuple[Case, Bundle]]) -> None:
    assert choose_engine("auto").name == "onnxruntime"
    engine = load_engine(cases["hand"][1], options=EngineOptions(threads=1))
    assert engine.name == "onnxruntime"
    assert engine.update_path.startswith("in place")
    with pytest.raises(EngineError, match="Slot 0"):  # the verification's weights are not left in it
        engine.infer(0, cases["hand"][0].inputs()[0])


def test_an_unknown_engine_and_an_absent_package_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"no engine 'vulkan'; there are auto, tensorrt, onnxruntime-gpu, onnxruntime\."):
        choose_engine("vulkan")
    monkeypatch.setattr("engines.registry.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"pip install 'dni-deploy\[cpu\]'"):
        choose_engine("onnxruntime")
    with pytest.raises(UnavailableError, match=r"No engine can run"):
        choose_engine()


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


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-rebuild"])
def test_sessions_that_take_turns_leave_each_other_the_cores(
    name: str, cases: dict[str, tuple[Case, Bundle]], monkeypatch: pytest.MonkeyPatch
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
    assert asked.count("1") == 2
