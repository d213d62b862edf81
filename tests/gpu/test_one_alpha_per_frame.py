"""Tags: alpha is written into every weight by the real kernel, and every frame must find one alpha and the one it was promised.

The members are all ones and all zeros, so each blended weight is the share of the first, to the bit.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from dni_deploy.session.swap import SyncRefit
from engines.lowering.recipes import LinearRecipe, Recipes
from tests.engines.cuda.family import Lowered
from tests.gpu.conftest import USES_FAKES
from tests.support.needs_gpu import need_gpu

FRAMES = 300 if USES_FAKES else 100_000
SIZE = 1 << 10 if USES_FAKES else 1 << 16


@pytest.fixture(autouse=True)
def on_the_device(gpu: Any) -> None:
    need_gpu()


@pytest.mark.parametrize("slots", [1, 2])
def test_no_frame_is_torn(slots: int) -> None:
    from engines.cuda.blender import DeviceBlender, WeightBuffer
    from engines.cuda.device import Device
    from engines.cuda.layout import DeviceLayout
    from engines.cuda.members import DeviceMembers
    from engines.cuda.memory import Buffer, Staging
    from engines.lowering.gpu import LoweredWeight

    weights = tuple(LoweredWeight(name, (SIZE,), np.dtype(np.float32)) for name in ("a", "b"))
    lowered = Lowered(Recipes({weight.name: LinearRecipe(weight.name, weight.shape) for weight in weights}), weights)
    members = [{weight.name: np.full(SIZE, number, np.float32) for weight in weights} for number in (1.0, 0.0)]
    device = Device.open(0)
    layout = DeviceLayout.from_lowered(lowered)  # type: ignore[arg-type]
    with device:
        uploaded = DeviceMembers(device, layout, lowered.recipes, members)
        blender = DeviceBlender(device, uploaded)
        lives = [WeightBuffer(device, layout) for _ in range(slots)]
        streams = [device.create_stream() for _ in range(slots)]
        seen = Buffer(device, layout.nbytes)
        staging = Staging(device)
        out = staging.get_array((2 * SIZE,))

    def refit(slot: int, share: float) -> None:
        with device:
            blender.blend(np.array([share, 1 - share]), lives[slot], streams[slot])

    swap: SyncRefit[float] = SyncRefit(slots, refit, 0.5)
    done = threading.Event()

    def ask() -> None:
        """From another thread, at any moment, beside what is asked for before each frame."""
        rng = np.random.default_rng(0)
        while not done.wait(1e-4):
            swap.request(float(rng.integers(1, 2**20)) / 2**20)

    asking = threading.Thread(target=ask)
    asking.start()
    torn = 0
    try:
        from engines.cuda import backend as cuda

        with device:
            for number in range(FRAMES):
                swap.request(number / FRAMES)
                with swap.hold_current() as live:
                    # As a network does: the weights are read on the device, in the slot's stream, and only the result comes back.
                    cuda.memcpy_dtod_async(seen.pointer, lives[live.slot].buffer.pointer, layout.nbytes, streams[live.slot])
                    seen.download(out, streams[live.slot])
                    streams[live.slot].synchronize()
                torn += not bool((out == np.float32(live.value)).all())
    finally:
        done.set()
        asking.join()
    generations = swap.generation
    with device:
        staging.free()
        seen.free()
        for one in lives:
            one.free()
        uploaded.free()
        streams.clear()
    device.close()
    assert torn == 0
    assert generations > FRAMES // 2  # the alphas did change meanwhile, most of them at every frame
