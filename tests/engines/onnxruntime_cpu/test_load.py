"""Opening a bundle on the CPU: in place, verified, with the plan where there is one; -v says all of it."""

from __future__ import annotations

import logging
from pathlib import Path

import onnxruntime as ort
import pytest

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import BundleError, EngineError
from engines.interface import BuildOptions, EngineOptions
from engines.onnxruntime_cpu import layout, plan
from engines.onnxruntime_cpu.load import open_in_place
from engines.registry import build_engine, choose_engine, load_engine
from tests.engines.conftest import write
from tests.support.handmade_graphs import HAND


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write(HAND["conv_bn"](), tmp_path / "x.dni", members=3)


def open_and_close(bundle: Bundle) -> str:
    """The engine's update path."""
    engine = open_in_place(bundle, EngineOptions(threads=1, slots=1))
    engine.close()
    return engine.update_path


def test_auto_is_the_engine_in_place_where_there_is_no_gpu(bundle: Bundle) -> None:
    assert choose_engine("auto").name == "onnxruntime"
    engine = load_engine(bundle, options=EngineOptions(threads=1))
    assert engine.name == "onnxruntime"
    assert engine.update_path.startswith("updated in place")
    with pytest.raises(EngineError, match="Slot 0"):  # the verification's weights are not left in it
        engine.infer(0, HAND["conv_bn"]().inputs()[0])


def test_it_logs_that_no_plan_is_there_and_what_the_verification_found(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "engines"):
        open_and_close(bundle)
    absent, verified = caplog.messages
    assert absent.endswith(": the layout is found anew")
    assert verified.startswith("engine onnxruntime verified: relative error ")
    assert verified.endswith("1e-04 allowed")


def test_a_plan_that_was_built_is_found_and_saves_the_search(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engine(bundle, "onnxruntime", BuildOptions(threads=1))
    monkeypatch.setattr(layout, "_optimize_graph", None)
    with caplog.at_level(logging.INFO, "engines"):
        assert open_and_close(bundle).startswith("updated in place")
    assert caplog.messages[0].endswith(".plan found")


def test_the_plan_of_another_version_is_rejected_by_the_field_that_differs(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_engine(bundle, "onnxruntime", BuildOptions(threads=1))
    monkeypatch.setattr(plan.ort, "__version__", f"{ort.__version__}.1")
    with caplog.at_level(logging.INFO, "engines"):
        open_and_close(bundle)
    assert caplog.messages[0].endswith("absent: the layout is found anew")
    assert caplog.messages[1].endswith("rejected: it differs by its ONNX Runtime")


def test_a_damaged_plan_is_an_error_and_not_passed_over(bundle: Bundle) -> None:
    path = build_engine(bundle, "onnxruntime", BuildOptions(threads=1)).plan_path
    assert path is not None
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match="is damaged; write it again with dni-deploy build"):
        open_and_close(bundle)


def test_a_graph_that_is_rebuilt_says_why(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "MAX_WEIGHT_ELEMENTS", 100)
    with caplog.at_level(logging.INFO, "engines"):
        assert open_and_close(bundle).startswith("a new session for every alpha (weight ")
    assert caplog.messages[-1].startswith("weights are not updated in place: weight ")
