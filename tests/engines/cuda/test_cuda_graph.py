"""CUDA graphs: captured once, launched again and again, and a failed capture leaves the stream usable."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.errors import EngineError
from engines.cuda import driver
from tests.fakes.gpu import FakeGpu

BOTH_BACKENDS = True


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


def test_a_graph_takes_over_another_one_of_the_same_nodes(gpu: FakeGpu) -> None:
    """Its launches that are queued run as they were; a graph of other nodes, or an older driver, makes a new one."""
    from engines.cuda import cuda_graph
    from engines.cuda.cuda_graph import CudaGraph
    from engines.cuda.device import Device
    from engines.cuda.memory import Buffer

    device = Device.open()
    with device:
        buffer, stream = Buffer(device, 8), device.create_stream()
        back = np.zeros(2, np.int32)

        def capture(*values: int, previous: CudaGraph | None = None) -> CudaGraph:
            cuda_graph.begin_capture(stream.handle)
            for value in values:
                buffer.upload(np.int32([value]), stream)
            return cuda_graph.end_capture(stream.handle, previous)

        first = capture(3)
        first.launch(stream.handle)
        buffer.download(back[:1], stream)
        assert capture(4, previous=first) is first
        first.launch(stream.handle)
        buffer.download(back[1:], stream)
        stream.synchronize()
        assert back.tolist() == [3, 4]
        second = capture(5, 6, previous=first)
        assert second is not first
        assert gpu.graph_updates == 1
        with pytest.raises(EngineError, match="was closed"):
            first.launch(stream.handle)
        with pytest.MonkeyPatch.context() as patch:
            patch.delattr(driver.load_driver_library(), "cuGraphExecUpdate_v2")
            third = capture(7, 8, previous=second)
        assert third is not second
        third.close()
        buffer.free()
        stream = None
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
