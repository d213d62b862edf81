"""ONNX Runtime is imported in one place, without its telemetry, and its runs end when they are to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from dni_deploy.utils.native_calls import end_calls_at_signals
from dni_deploy.utils.onnxruntime_library import create_session, ort, run_session

ROOT = Path(__file__).parents[3]
LIBRARY = ROOT / "dni_deploy/utils/onnxruntime_library.py"


def test_it_is_imported_in_one_place() -> None:
    importing = re.compile(r"^\s*(?:import|from) onnxruntime\b", re.MULTILINE)
    paths = [
        path for package in ("dni_deploy", "engines", "exporters", "benchmarks") for path in (ROOT / package).rglob("*.py")
    ]
    assert [path for path in paths if importing.search(path.read_text(encoding="utf-8"))] == [LIBRARY]


@pytest.mark.parametrize(("setting", "expected"), [(None, "1"), ("0", "0")])
def test_telemetry_is_off_unless_the_user_has_set_it(setting: str | None, expected: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    code = (
        "import os, sys, importlib.abc\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'onnxruntime':\n"
        "            print(os.environ['ORT_DISABLE_TELEMETRY']); sys.exit()\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import dni_deploy.utils.onnxruntime_library\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment | ({} if setting is None else {"ORT_DISABLE_TELEMETRY": setting}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert child.stdout.strip() == expected, child.stderr


def make_endless_graph() -> onnx.ModelProto:
    """Adds 1 to y in a loop of 2^62 turns."""
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    inside = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Add", ["a", "one"], ["b"])],
        "inside",
        [
            helper.make_tensor_value_info("turn", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("still", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [1]),
        ],
        [one],
    )
    turns, on = numpy_helper.from_array(np.array(2**62), "turns"), numpy_helper.from_array(np.array(True), "go")
    loop = helper.make_node("Loop", ["turns", "go", "x"], ["y"], body=inside)
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([loop], "endless", ends[:1], ends[1:], [turns, on])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no signals of its user's")
def test_a_signal_ends_a_run() -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = create_session(make_endless_graph().SerializeToString(), options)
    previous = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        begin = time.monotonic()
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        with end_calls_at_signals((signal.SIGUSR1,)), pytest.raises(KeyboardInterrupt):
            run_session(session, None, {"x": np.zeros(1, np.float32)})
        assert time.monotonic() - begin < 1.5
    finally:
        signal.signal(signal.SIGUSR1, previous)
