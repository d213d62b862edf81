"""On a GPU: the program of on_gpu.py, in a process without fakes; and with them, so that it is known to run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.trt.conftest import VERSIONS, engine_name
from tests.fakes.gpu import FakeGpu
from tests.support.needs_gpu import need_gpu, run_gpu_program


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
def test_engines_on_this_gpu(library: str) -> None:
    need_gpu(library.replace("-", "_"), "polygraphy", "onnxruntime")
    run_gpu_program("tests.engines.trt.on_gpu", library, timeout_s=1800)


@pytest.mark.slow
@pytest.mark.parametrize("gpu", VERSIONS, indirect=True)
def test_the_program_itself(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.engines.trt import on_gpu

    monkeypatch.setattr(on_gpu, "LIBRARY", engine_name())
    assert len(list(on_gpu.run(tmp_path))) >= 2 * 3 * 14
