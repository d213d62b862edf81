"""Options of ONNX Runtime's CUDA provider."""

from __future__ import annotations

import pytest

from tests.fakes.gpu import FakeGpu

pytestmark = pytest.mark.parametrize("gpu", [{"tensorrt": None, "eager": True}], indirect=True)


def test_the_cuda_provider_gets_the_callers_stream(gpu: FakeGpu) -> None:
    from engines.onnxruntime_gpu.session import make_provider_options

    options = make_provider_options(1, 0xABCDEF0, replay=False)
    assert all(isinstance(value, str) for value in options.values())
    assert options["device_id"] == "1"
    assert options["user_compute_stream"] == str(0xABCDEF0)
    assert options["use_tf32"] == "0"
    assert options["enable_cuda_graph"] == "0"
    assert make_provider_options(0, 1, replay=True)["enable_cuda_graph"] == "1"
