"""Members, layout and blender on the GPU: the tests of the fake, and that all memory comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engines.cuda import family
from tests.engines.cuda.test_blender import (
    DeviceFamily,
    device_family,
    test_back_to_the_same_alpha_is_the_same_bytes,
    test_blend_equals_the_recipes_of_the_blended_tensors,
    test_one_hot_is_the_member_byte_for_byte,
    test_slots_on_their_own_streams_do_not_touch_each_other,
)
from tests.engines.cuda.test_per_tensor_blend import (
    test_a_captured_blend,
    test_changes_that_are_all_queued_do_not_disturb_each_other,
    test_each_weight_by_its_own_row,
    test_what_a_row_does_not_use_is_not_read,
)
from tests.support.needs_gpu import need_gpu

__all__ = [
    "device_family",
    "test_a_captured_blend",
    "test_back_to_the_same_alpha_is_the_same_bytes",
    "test_blend_equals_the_recipes_of_the_blended_tensors",
    "test_changes_that_are_all_queued_do_not_disturb_each_other",
    "test_each_weight_by_its_own_row",
    "test_one_hot_is_the_member_byte_for_byte",
    "test_slots_on_their_own_streams_do_not_touch_each_other",
    "test_what_a_row_does_not_use_is_not_read",
]


@pytest.fixture(autouse=True)
def on_the_device(gpu: Any) -> None:
    need_gpu()


def test_all_memory_comes_back() -> None:
    from engines.cuda.device import Device

    device = Device.open(0)
    free = []
    for _ in range(4):
        one = DeviceFamily(family.lowered(), family.members(3))
        one.blend([0.2, 0.3, 0.5])
        one.read()
        one.close()
        with device:
            free.append(device.query_free_bytes())
    device.close()
    assert free[1:] == free[1:2] * 3  # the first round also loads the kernels


def test_a_captured_blend_is_the_blend() -> None:
    """The benchmark replays blends as CUDA graphs; each launch reads the members again and writes the arena again."""
    from engines.cuda import cuda_graph

    one = DeviceFamily(family.lowered(), family.members(3))
    one.blend([0.2, 0.3, 0.5])
    expected = one.read()
    with one.device:
        handle = one.streams[0].handle
        cuda_graph.begin_capture(handle)
        one.blend([0.2, 0.3, 0.5])
        graph = cuda_graph.end_capture(handle)
    one.blend([1.0, 0.0, 0.0])
    assert any(not np.array_equal(value, expected[name]) for name, value in one.read().items())
    with one.device:
        graph.launch(handle)
        one.streams[0].synchronize()
        graph.close()
    for name, value in one.read().items():
        np.testing.assert_array_equal(value, expected[name])
    one.close()
