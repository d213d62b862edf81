"""Opening ONNX Runtime on the GPU: verified, without weights, and an error where it cannot run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from dni_deploy.errors import EngineError, UnavailableError
from engines.interface import EngineOptions
from tests.engines.conftest import Case, write
from tests.engines.onnxruntime_gpu.conftest import on_cpu
from tests.fakes.gpu import FakeGpu
from tests.support.handmade_graphs import HAND

pytestmark = pytest.mark.parametrize("gpu", [{"tensorrt": None, "eager": True}], indirect=True)


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has it")
def test_a_provider_that_is_not_there_is_an_error(gpu: FakeGpu, case: Case, tmp_path: Path) -> None:
    """ONNX Runtime would run on the CPU with a warning."""
    from engines.onnxruntime_gpu.load import open_bound

    with pytest.raises(UnavailableError, match="could not load its CUDA provider"):
        open_bound(write(case, tmp_path / "x.dni", 2), EngineOptions(threads=1))


@pytest.mark.parametrize("precision", [None, "tf32", "fp16"])
def test_opening_verifies_and_leaves_no_weights(
    gpu: FakeGpu, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str | None
) -> None:
    from engines.onnxruntime_gpu.load import open_bound

    on_cpu(monkeypatch)
    bundle = write(case, tmp_path / "x.dni", 3)
    engine = open_bound(bundle, EngineOptions(threads=1, precision=precision, cuda_graph=True))
    try:
        assert engine.name == "onnxruntime-gpu"
        assert engine.slots == 1
        assert (precision or "fp32") in engine.update_path
        with pytest.raises(EngineError, match="refit it first"):
            engine.infer(0, case.inputs()[0])
    finally:
        engine.close()


def test_an_engine_that_computes_something_else_is_refused(
    gpu: FakeGpu, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engines.cuda.blender import DeviceBlender
    from engines.onnxruntime_gpu.load import open_bound

    on_cpu(monkeypatch)
    bundle = write(case, tmp_path / "x.dni", 3)
    queue = DeviceBlender.enqueue_blend
    monkeypatch.setattr(DeviceBlender, "enqueue_blend", lambda self, shares, *rest: queue(self, np.eye(3)[0], *rest))
    with pytest.raises(EngineError, match="another output"):
        open_bound(bundle, EngineOptions(threads=1))


def test_a_weight_that_float16_cannot_hold_is_named(gpu: FakeGpu, tmp_path: Path) -> None:
    from engines.onnxruntime_gpu.load import open_bound

    case = HAND["conv_bn"]()
    case.members[1]["conv2.bias"][0] = 1e5
    with pytest.raises(EngineError, match=r"'conv2\.bias'; use tf32 or fp32"):
        open_bound(write(case, tmp_path / "x.dni", 2), EngineOptions(threads=1, precision="fp16"))
