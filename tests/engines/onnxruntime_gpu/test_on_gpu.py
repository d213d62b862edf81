"""On a GPU: the program of on_gpu.py, in a process without fakes; and on a fake GPU with the CPU provider, so that it is known to run."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines import registry
from tests.engines.onnxruntime_gpu.conftest import on_cpu
from tests.fakes.gpu import FakeGpu
from tests.support.needs_gpu import need_cuda_provider, run_gpu_program


@pytest.mark.gpu
def test_engine_on_this_gpu() -> None:
    need_cuda_provider()
    run_gpu_program("tests.engines.onnxruntime_gpu.on_gpu")


@pytest.mark.slow
@pytest.mark.parametrize("gpu", [{"tensorrt": None, "eager": True}], indirect=True)
def test_the_program_itself(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.engines.onnxruntime_gpu.on_gpu import run

    on_cpu(monkeypatch)
    monkeypatch.setattr(registry, "CUDA_PROVIDER_LIBRARIES", (".",))
    lines = list(run(tmp_path, size=(24, 32), rounds=2, depth=2))
    assert len(lines) == 3 * 3 * 2 * 2 + 6
