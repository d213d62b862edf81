"""The modes that `bench` compares: each opens the engine it names, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.latency import modes
from dni_deploy.latency.modes import BACKEND_MODES, make_copy_baseline
from dni_deploy.utils.install_line import format_install_line
from engines.interface import EngineOptions
from engines.registry import ENGINES
from tests.engines.conftest import write
from tests.engines.trt.conftest import bn

BY_NAME = {mode.name: mode for mode in BACKEND_MODES}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(bn(), tmp_path / "bn.dni", members=2)


def test_bench_compares_every_engine_that_users_can_choose() -> None:
    assert len(BY_NAME) == len(BACKEND_MODES)
    assert {mode.name for mode in BACKEND_MODES if mode.build_plan} == {"trt constant", "trt inputs", "trt in graph"}
    assert {mode.name for mode in BACKEND_MODES if not mode.changes_alpha} == {
        "constant",
        "trt constant",
        "openvino",
        "openvino bf16",
    }
    engine_by_mode = {"in place": "onnxruntime", "ort gpu": "onnxruntime-gpu"}
    engine_by_mode |= {name: name for name in ("tensorrt", "tensorrt-rtx")}
    assert set(engine_by_mode.values()) == set(ENGINES)
    assert set(engine_by_mode) <= set(BY_NAME)


@pytest.mark.parametrize("name", ["in place", "constant", "rebuild", "inputs", "in graph"])
def test_a_mode_opens_its_engine_with_the_given_number_of_slots(name: str, bundle: Bundle) -> None:
    assert BY_NAME[name].unavailable_reason(bundle) is None
    engine = BY_NAME[name].open_engine(bundle, EngineOptions(threads=1, slots=1))
    assert engine.slots == 1
    engine.refit(0, np.array([0.25, 0.75]))
    assert engine.infer(0, np.zeros((1, 3, 8, 8), np.float32)).shape == (1, 3, 8, 8)
    engine.close()


@pytest.mark.parametrize("name", ["torch", "torch channels last", "torch compile"])
def test_without_torch_its_modes_name_the_extra(name: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes.importlib.util, "find_spec", lambda name: None)
    assert BY_NAME[name].unavailable_reason(bundle) == f"torch not installed: {format_install_line('export')}"


@pytest.mark.parametrize("name", ["openvino", "openvino bf16"])
def test_without_openvino_its_modes_name_the_package(name: str, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes.importlib.util, "find_spec", lambda name: None)
    assert BY_NAME[name].unavailable_reason(bundle) == "openvino not installed: pip install openvino"


def test_bfloat16_needs_a_processor_that_has_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO would emulate it elsewhere, slower than float32."""
    monkeypatch.setattr(modes.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(modes, "has_bfloat16", lambda: False)
    assert BY_NAME["openvino bf16"].unavailable_reason(bundle) == "this processor does not compute in bfloat16"
    assert BY_NAME["openvino"].unavailable_reason(bundle) is None


def test_only_an_in_place_engine_has_a_copy_baseline(bundle: Bundle) -> None:
    engine = BY_NAME["in place"].open_engine(bundle, EngineOptions(threads=1, slots=1))
    copy = make_copy_baseline(engine)
    assert copy is not None
    copy()
    engine.close()
    other = BY_NAME["constant"].open_engine(bundle, EngineOptions(threads=1, slots=1))
    assert make_copy_baseline(other) is None
    other.close()
