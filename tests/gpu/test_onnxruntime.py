"""ONNX Runtime on the GPU: from a bundle to frames through Session, against ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni_deploy.session.session import open_session
from tests.engines.conftest import write
from tests.engines.trt.conftest import CASES
from tests.gpu.conftest import USES_FAKES
from tests.gpu.test_tensorrt import TOLERANCE, pictures, truth
from tests.support.needs_gpu import need_cuda_provider


@pytest.fixture(autouse=True)
def on_the_device(gpu: Any) -> None:
    if USES_FAKES:
        pytest.skip("ONNX Runtime itself has no fake")
    need_cuda_provider()


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("case", list(CASES))
def test_frames_have_the_alpha_that_was_set(case: str, precision: str, cuda_graph: bool, tmp_path: Path) -> None:
    bundle = write(CASES[case](), tmp_path / "case.dni", members=3)
    with open_session(bundle, engine="onnxruntime-gpu", precision=precision, cuda_graph=cuda_graph, slots=2) as session:
        for shares in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.2, 0.3, 0.5), (0.0, 0.75, 0.25), (1.0, 0.0, 0.0)):
            session.alpha = dict(zip(bundle.members, shares, strict=True))
            for x in pictures():
                expected = truth(bundle, shares, x)
                assert np.abs(session.infer(x) - expected).max() <= TOLERANCE[precision] * np.abs(expected).max()
