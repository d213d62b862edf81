"""What execution contexts are made with."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.bundle.bundle import Bundle
from tests.engines.trt.conftest import build, library, opened, picture
from tests.fakes.gpu import FakeGpu


@pytest.mark.parametrize("gpu", ["rtx-1.7"], indirect=True)
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_settings_of_tensorrt_for_rtx(cuda_graph: bool, bundle: Bundle, gpu: FakeGpu) -> None:
    """Kernels for a shape are ready before its first frame: compiled beside the frames, they would change the last bits of some."""
    build(bundle)
    with opened(bundle, cuda_graph=cuda_graph) as engine:
        engine.refit(0, np.array([1.0, 0, 0]))
        engine.infer(0, picture())
        config = engine._buffer_sets[0].runner._context._config
        trt = library().trt
        assert config.dynamic_shapes_kernel_specialization_strategy == trt.DynamicShapesKernelSpecializationStrategy.EAGER
        graphs = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE if cuda_graph else trt.CudaGraphStrategy.DISABLED
        assert config.cuda_graph_strategy == graphs
        assert "replayed as CUDA graphs" in engine.update_path or not cuda_graph
