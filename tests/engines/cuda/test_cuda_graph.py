"""CUDA graphs: captured once, launched again and again, and a failed capture leaves the stream usable."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.errors import EngineError
from tests.fakes.gpu import FakeGpu


def test_a_graph_is_launched_again_and_again(gpu: FakeGpu) -> None:
    from engines.cuda import cuda_graph
    from engines.cuda.device import Device
    from engines.cuda.memory import Buffer

    device = Device.open()
    with device:
        buffer, stream = Buffer(device, 4), device.create_stream()
        buffer.upload(np.zeros(1, np.int32))
        cuda_graph.begin_capture(stream.handle)
        with pytest.raises(EngineError, match="already being captured"):
            cuda_graph.begin_capture(stream.handle)
        buffer.upload(np.int32([3]), stream)
        graph = cuda_graph.end_capture()
        back = np.empty(1, np.int32)
        buffer.download(back)
        assert back[0] == 0
        for _ in range(2):
            buffer.zero()
            graph.launch(stream.handle)
            buffer.download(back, stream)
            stream.synchronize()
            assert back[0] == 3
        graph.close()
        graph.close()
        with pytest.raises(EngineError, match="was closed"):
            graph.launch(stream.handle)
        buffer.free()
        del stream
    device.close()


def test_captures_that_fail(gpu: FakeGpu) -> None:
    from engines.cuda import cuda_graph
    from engines.cuda.device import Device

    device = Device.open()
    with device:
        stream = device.create_stream()
        with pytest.raises(EngineError, match="No CUDA graph of this stream"):
            cuda_graph.end_capture()
        with pytest.raises(EngineError, match="cuStreamBeginCapture_v2 failed with CUDA_ERROR"):
            cuda_graph.begin_capture(0)  # the default stream cannot be captured
        cuda_graph.begin_capture(stream.handle)
        cuda_graph.abort_capture()
        cuda_graph.abort_capture()
        cuda_graph.begin_capture(stream.handle)  # the stream can be captured again
        with pytest.raises(EngineError, match="No CUDA graph"):
            cuda_graph.end_capture(stream.handle + 1)
        cuda_graph.end_capture(stream.handle).close()
        del stream
    device.close()
