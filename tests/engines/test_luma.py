"""Engines on a GPU convert frames of luma networks on the host: their kernels know channels."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from dni_deploy.imaging.frames import from_network, to_network
from dni_deploy.signature import Signature
from tests.fakes.gpu import FakeGpu


@pytest.mark.parametrize(("module", "name"), [("onnxruntime_gpu.engine", "BoundEngine"), ("trt.engine", "TensorRTEngine")])
def test_gpu_engines_render_luma_by_infer(gpu: FakeGpu, module: str, name: str) -> None:
    engine_class = getattr(import_module(f"engines.{module}"), name)
    frame = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    signature = Signature(1, 1, color="luma")
    engine = SimpleNamespace(infer=lambda slot, x: x * np.float32(0.5))
    expected = from_network(to_network(frame, signature) * np.float32(0.5), frame, signature)
    assert np.array_equal(engine_class.render(engine, 0, frame, signature), expected)
