"""Options of ONNX Runtime's CUDA provider."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.engines.conftest import Case
from tests.engines.onnxruntime_gpu.test_engine import make
from tests.fakes.gpu import FakeGpu

pytestmark = pytest.mark.parametrize("gpu", [{"tensorrt": None, "eager": True}], indirect=True)


def test_the_cuda_provider_gets_the_callers_stream(gpu: FakeGpu) -> None:
    from engines.onnxruntime_gpu.session import make_provider_options

    options = make_provider_options(1, 0xABCDEF0, tensor_cores=False, replay=False)
    assert all(isinstance(value, str) for value in options.values())
    assert options["device_id"] == "1"
    assert options["user_compute_stream"] == str(0xABCDEF0)
    assert options["enable_cuda_graph"] == "0"
    assert make_provider_options(0, 1, tensor_cores=False, replay=True)["enable_cuda_graph"] == "1"


@pytest.mark.parametrize(("precision", "use_tf32"), [("fp32", "0"), ("tf32", "1"), ("fp16", "1")])
def test_float16_and_tf32_have_the_tensor_cores(
    gpu: FakeGpu, pico_case: Callable[[str], Case], monkeypatch: pytest.MonkeyPatch, precision: str, use_tf32: str
) -> None:
    """`use_tf32` 0 would take them from convolutions of float16, too."""
    from engines.onnxruntime_gpu import engine

    given: list[Mapping[str, str]] = []
    open_on_cpu = engine.open_session

    def open_session(model: Any, provider: str, options: Mapping[str, str], threads: int) -> Any:
        given.append(options)
        return open_on_cpu(model, "CPUExecutionProvider", {}, threads)

    monkeypatch.setattr(engine, "open_session", open_session)
    make(pico_case("compact"), precision, provider=engine.CUDA_PROVIDER).close()
    assert [options["use_tf32"] for options in given] == [use_tf32]


def test_ctrl_c_waits_for_what_runs_in_the_other_thread(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.onnxruntime_gpu.session import call_in_thread

    events: list[str] = []

    def interrupt(future: Future[None], timeout: float | None = None) -> None:
        raise KeyboardInterrupt

    def work() -> None:
        time.sleep(0.05)
        events.append("ended")

    monkeypatch.setattr(Future, "result", interrupt)
    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(KeyboardInterrupt):
            call_in_thread(thread, work)
        assert events == ["ended"]


def test_channels_last_by_the_environment(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.onnxruntime_gpu.session import NHWC_VARIABLE, make_provider_options

    monkeypatch.delenv(NHWC_VARIABLE, raising=False)
    assert "prefer_nhwc" not in make_provider_options(0, 1, tensor_cores=True, replay=False)
    monkeypatch.setenv(NHWC_VARIABLE, "1")
    assert make_provider_options(0, 1, tensor_cores=True, replay=False)["prefer_nhwc"] == "1"
