"""Device and page-locked memory: copies that every stream sees, and misuse as errors in a sentence."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.errors import EngineError, LimitError
from tests.fakes.gpu import FakeGpu


@pytest.mark.parametrize("gpu", [{"seed": seed} for seed in range(6)], indirect=True)
def test_what_is_uploaded_is_there_for_every_stream(gpu: FakeGpu) -> None:
    """Although the plain copy of CUDA is not: from pageable memory it returns while the data is on its way."""
    from engines.cuda.device import Device
    from engines.cuda.memory import Buffer

    device = Device.open()
    with device:
        buffer, stream = Buffer(device, 12), device.create_stream()
        buffer.upload(np.float32([1, 2, 3]))
        back = np.empty(3, np.float32)
        buffer.download(back, stream)
        stream.synchronize()
        assert back.tolist() == [1, 2, 3]
        buffer.upload(np.float32([5]), offset=4)
        buffer.download(back)
        assert back.tolist() == [1, 5, 3]
        buffer.zero()
        buffer.download(back[1:], offset=4)
        assert back.tolist() == [1, 0, 0]
        buffer.free()
        del stream
    device.close()


def test_misuse_of_a_buffer(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device
    from engines.cuda.memory import Buffer

    device = Device.open()
    with device:
        buffer, empty = Buffer(device, 8), Buffer(device, 0)
        assert buffer.pointer % 256 == 0
        empty.upload(np.zeros(0, np.float32))
        empty.zero()
        for call in (buffer.upload, buffer.download):
            with pytest.raises(EngineError, match="12 bytes do not fit a buffer of 8 bytes at 0"):
                call(np.zeros(3, np.float32))
            with pytest.raises(EngineError, match="8 bytes do not fit a buffer of 8 bytes at 4"):
                call(np.zeros(2, np.float32), offset=4)
        empty.free()
        buffer.free()
        buffer.free()
        assert buffer.pointer == 0
        with pytest.raises(EngineError, match="after it was freed"):
            buffer.zero()
        gpu.memory.total = 1 << 20
        with pytest.raises(LimitError, match=r"has 1 MB free where 2\.0 MB are needed"):
            Buffer(device, 2 << 20)
    device.close()


def test_staging_grows_and_is_freed(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device
    from engines.cuda.memory import Staging

    device = Device.open()
    with device:
        staging = Staging(device)
        first = staging.get_array((2, 3))
        first[:] = 7
        assert first.dtype == np.float32
        assert np.all(staging.get_array((6,)) == 7)  # the same memory
        large = staging.get_array((5, 100), np.uint8)
        large[:] = 1
        assert staging.get_array((0, 3)).shape == (0, 3)
        staging.free()
        staging.free()
    device.close()
