"""Opening a bundle on the CPU: in place, verified, with the plan where there is one; -v says all of it."""

from __future__ import annotations

import logging
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from safetensors.numpy import load as load_tensors

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from dni_deploy.utils import derived_file
from engines import ort_session
from engines.interface import BuildOptions, EngineOptions
from engines.onnxruntime_cpu import layout, load, plan, runtime
from engines.onnxruntime_cpu.load import open_in_place
from engines.registry import build_engine, choose_engine, load_engine
from tests.engines.conftest import write
from tests.support.handmade_graphs import HAND, Hand


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
    monkeypatch.setattr(runtime, "optimize_with_weights", None)
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


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def put_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def let_others_write(path: Path) -> None:
    path.chmod(0o666)


def sign_as_somebody_else(path: Path) -> None:
    """Changes the plan and everything that can be computed without the key: as in a bundle that came as a folder."""
    content = path.read_bytes()[derived_file.SEAL_BYTES :]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DNI_CONFIG", str(path.parent / "of somebody else"))
        derived_file.write_derived_file(path, content, force=True)


@pytest.mark.parametrize("change", [damage, put_pipe, let_others_write, sign_as_somebody_else])
def test_a_plan_that_is_not_this_accounts_is_passed_over(
    change: Callable[[Path], None], bundle: Bundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build_engine(bundle, "onnxruntime", BuildOptions(threads=1)).plan_path
    assert path is not None
    change(path)
    found = list[object]()
    monkeypatch.setattr(load, "find_layout", lambda *arguments: found.append(1) or layout.find_layout(*arguments))
    assert open_and_close(bundle).startswith("updated in place")
    assert found == [1]
    [note] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert str(path) in note.getMessage()


def test_the_same_build_writes_the_same_bytes(bundle: Bundle) -> None:
    """ONNX Runtime numbers its nodes, and safetensors orders its metadata, as it happens."""
    contents = set[bytes]()
    for _ in range(8):
        path = build_engine(bundle, "onnxruntime", BuildOptions(threads=1, force=True)).plan_path
        assert path is not None
        contents.add(path.read_bytes())
    assert len(contents) == 1
    optimized = onnx.ModelProto.FromString(load_tensors(contents.pop()[derived_file.SEAL_BYTES :])["optimized"].tobytes())
    names = [node.name for node in optimized.graph.node]
    assert names == [f"{node.op_type}_{number}" for number, node in enumerate(optimized.graph.node)]


def test_a_graph_that_is_rebuilt_says_why(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "MAX_WEIGHT_ELEMENTS", 100)
    with caplog.at_level(logging.INFO, "engines"):
        assert open_and_close(bundle).startswith("a new session for every alpha (the weights have more than ")
    assert caplog.messages[-1].startswith("weights are not updated in place: the weights have more than ")


MEMBERS = 3


@pytest.fixture
def wide_bundle(tmp_path: Path) -> Bundle:
    """Three members of 1.2 million weights each, 4.7 MB, in eight layers."""
    hand, y = Hand(128), "x"
    for _ in range(8):
        y = hand.node("Relu", [hand.conv(y, 128)])
    return write(hand.case(y, name="wide"), tmp_path / "wide.dni", members=MEMBERS)


def weight_bytes(bundle: Bundle) -> int:
    return sum(4 * int(np.prod(weight.shape)) for weight in bundle.manifest.weights)


@pytest.mark.parametrize("has_plan", [False, True])
def test_the_graph_is_optimized_once_and_no_weight_passes_through_a_model(
    has_plan: bool, wide_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside it, a session for each slot and one to compare with each, and one for the bundle's own graph."""
    if has_plan:
        build_engine(wide_bundle, "onnxruntime", BuildOptions(threads=1))
    runtime.measure_block_size()  # once per process, in a session of its own
    opened, real = [], ort_session.create_session

    def create_session(model: onnx.ModelProto, options: ort.SessionOptions, **more: object) -> ort.InferenceSession:
        assert model.ByteSize() < weight_bytes(wide_bundle) / 100
        opened.append(options.graph_optimization_level)
        return real(model, options, **more)

    monkeypatch.setattr(ort_session, "create_session", create_session)
    open_in_place(wide_bundle, EngineOptions(threads=1, slots=2)).close()
    optimizing = [] if has_plan else [ort.GraphOptimizationLevel.ORT_ENABLE_ALL]
    assert opened == [*optimizing, *[ort.GraphOptimizationLevel.ORT_DISABLE_ALL] * 5]


@pytest.mark.parametrize("slots", [1, 2])
def test_an_engine_holds_each_member_and_slot_once_and_nothing_else_of_their_size(slots: int, wide_bundle: Bundle) -> None:
    """Bytes of NumPy's arrays: the checkpoints and the layout's map are let go, and at no time are there two copies of both."""
    unit = weight_bytes(wide_bundle)
    open_and_close(wide_bundle)  # what is allocated once per process
    tracemalloc.start()
    try:
        engine = open_in_place(wide_bundle, EngineOptions(threads=1, slots=slots))
        held, peak = (size / unit for size in tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    engine.close()
    assert MEMBERS + slots <= held < MEMBERS + slots + 0.25
    # While they are arranged, the checkpoints, the layout's map and one checkpoint in a row; later the weights of the reference.
    assert peak < 2 * MEMBERS + slots + 2


def test_no_file_is_left_behind(wide_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    open_and_close(wide_bundle)
    assert not list((tmp_path / "temporary").iterdir())
