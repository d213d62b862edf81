"""The blend on the fake GPU: the weights of a slot against a float64 blend, and what is launched for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import EngineError
from tests.engines.cuda import family
from tests.fakes.gpu import FakeGpu

BOTH_BACKENDS = True


class DeviceFamily:
    """One family on the device, with two slots and a stream for each."""

    def __init__(self, lowered: family.Lowered, members: list[family.Tensors]) -> None:
        from engines.cuda.blender import DeviceBlender, WeightBuffer
        from engines.cuda.device import Device
        from engines.cuda.layout import DeviceLayout
        from engines.cuda.members import DeviceMembers

        self.lowered, self.tensors = lowered, members
        self.device = Device.open(0)
        self.layout = DeviceLayout.from_lowered(lowered)  # type: ignore[arg-type]
        with self.device:
            self.members = DeviceMembers(self.device, self.layout, lowered.recipes, members)
            self.slots = [WeightBuffer(self.device, self.layout) for _ in range(2)]
            self.streams = [self.device.create_stream() for _ in range(2)]
            self.blender = DeviceBlender(self.device, self.members)

    def blend(self, shares: Any, slot: int = 0) -> None:
        with self.device:
            self.blender.blend(np.array(shares, np.float64), self.slots[slot], self.streams[slot])

    def read(self, slot: int = 0) -> dict[str, NDArray[Any]]:
        found = {}
        with self.device:
            self.streams[slot].synchronize()
            for weight in self.lowered.weights:
                found[weight.name] = np.empty(weight.shape, weight.dtype)
                self.slots[slot].buffer.download(found[weight.name], offset=self.layout.offset_of(weight.name))
        return found

    def close(self) -> None:
        with self.device:
            for stream in self.streams:
                stream.synchronize()
            for live in self.slots:
                live.free()
            self.members.free()
            self.streams.clear()
        self.device.close()


@pytest.fixture
def device_family(gpu: FakeGpu) -> Any:
    opened: list[DeviceFamily] = []

    def give(lowered: family.Lowered, members: list[family.Tensors]) -> DeviceFamily:
        opened.append(DeviceFamily(lowered, members))
        return opened[-1]

    yield give
    for each in opened:
        each.close()


def close_enough(got: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]], count: int, single: str) -> None:
    """Rounded sums of `count` float32 products, sizes below 6, scale below 20; a float16 output adds half its last place."""
    for name, value in expected.items():
        limit = np.full(value.shape, (count + 3) * 2.0**-24 * 6 * 20)
        if single == "float16":
            limit += np.maximum(np.abs(value) * 2.0**-11, 2.0**-25)
        assert np.all(np.abs(got[name].astype(np.float64) - value) <= limit), name


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_blend_equals_the_recipes_of_the_blended_tensors(device_family: Any, count: int, dtype: str, stored: str) -> None:
    members = family.members(count, dtype=stored)
    one = device_family(family.lowered(dtype), members)
    shares = family.shares(count)
    one.blend(shares)
    close_enough(one.read(), one.lowered.recipes.compute_values(blend_float64(members, shares)), count, dtype)


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("which", [0, 2])
def test_one_hot_is_the_member_byte_for_byte(device_family: Any, which: int, dtype: str, stored: str) -> None:
    """As a fresh build of that member would hold it, BatchNorms folded; the other members are not read: they are NaN."""
    members = family.members(3, dtype=stored)
    for index, tensors in enumerate(members):
        if index != which:
            for tensor in tensors.values():
                tensor.fill(np.nan)
    members[which]["first.weight"][0, 0, 0] = (-0.0, 0.0, 6e-8)
    one = device_family(family.lowered(dtype), members)
    one.blend(np.eye(3)[which])
    got = one.read()
    for name, value in one.lowered.recipes.compute_values(members[which]).items():
        assert got[name].tobytes() == value.astype(dtype).tobytes(), name


def test_back_to_the_same_alpha_is_the_same_bytes(device_family: Any) -> None:
    one = device_family(family.lowered(), family.members(3))
    one.blend([0.2, 0.3, 0.5])
    before = one.read()
    one.blend([0.5, 0.0, 0.5])
    between = one.read()
    one.blend([0.2, 0.3, 0.5])
    after = one.read()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert not any(np.array_equal(before[name], between[name]) for name in before)


@pytest.mark.parametrize("gpu", [{"seed": seed} for seed in range(8)], indirect=True)
def test_slots_on_their_own_streams_do_not_touch_each_other(device_family: Any, gpu: FakeGpu) -> None:
    """Both queued before either has run: scales of BatchNorms lie in each slot's own arena."""
    members = family.members(2)
    one = device_family(family.lowered(), members)
    one.blend([0.25, 0.75], 0)
    one.blend([0.75, 0.25], 1)
    for slot, shares in enumerate(([0.25, 0.75], [0.75, 0.25])):
        close_enough(one.read(slot), one.lowered.recipes.compute_values(blend_float64(members, np.array(shares))), 2, "float32")


def test_launches_per_change(device_family: Any, gpu: FakeGpu) -> None:
    """One kernel for all linear weights, one for all BatchNorms, one for all rows that they scale; none waits."""
    one = device_family(family.lowered(), family.members(5))
    one.blend([0.2, 0.2, 0.0, 0.6, 0.0])
    assert dict(gpu.launches) == {"fold": 1, "scaled_f32_f32_3": 1, "blend_f32_f32_3": 1}
    one.blend([0.2, 0.2, 0.2, 0.2, 0.2])
    assert gpu.launches["blend_f32_f32_n"] == 1
    other = device_family(family.lowered(np.float16, folds=False), family.members(2, dtype=np.float16))
    gpu.launches.clear()
    other.blend([0.5, 0.5])
    assert dict(gpu.launches) == {"blend_f16_f16_2": 1}


def test_a_change_allocates_nothing(device_family: Any, gpu: FakeGpu) -> None:
    one = device_family(family.lowered(), family.members(3))
    one.blend([0.5, 0.25, 0.25])
    used = gpu.memory.used
    gpu.memory.peak = used
    for _ in range(3):
        one.blend([0.25, 0.5, 0.25])
    assert gpu.memory.peak == used


def test_bytes_moved_are_counted(device_family: Any) -> None:
    one = device_family(family.lowered(np.float16, folds=False), family.members(3, dtype=np.float16))
    padded = sum(-(-weight.count // 128) * 128 for weight in one.lowered.weights)
    assert one.blender.count_bytes_moved(np.array([0.5, 0.0, 0.5])) == 3 * 2 * padded
    folded = device_family(family.lowered(), family.members(3))
    assert folded.blender.count_bytes_moved(np.array([1.0, 0.0, 0.0])) > 2 * 4 * family.numbers(folded.lowered.weights) - 200


def test_a_variance_that_is_not_positive(device_family: Any, gpu: FakeGpu) -> None:
    members = family.members(2)
    members[0]["norm1.var"][3] = 2.0
    members[1]["norm1.var"][3] = 0.5
    one = device_family(family.lowered(), members)
    with pytest.raises(EngineError, match="variance is not positive at this alpha"):
        one.blend([-1.0, 2.0])
    assert not gpu.launches  # nothing was queued
    one.blend([-0.1, 1.1])
    one.blend([0.0, 1.0])


def test_a_member_whose_own_variance_is_negative(device_family: Any) -> None:
    members = family.members(2)
    members[1]["norm2.var"][0] = -1.0
    one = device_family(family.lowered(), members)
    one.blend([1.0, 0.0])
    with pytest.raises(EngineError, match="variance"):
        one.blend([0.0, 1.0])


@pytest.mark.parametrize("shares", [[0.5, 0.5, 0.0], [0.0, 0.0]])
def test_shares_that_do_not_fit(device_family: Any, shares: list[float]) -> None:
    one = device_family(family.lowered(), family.members(2))
    with pytest.raises(EngineError, match="for 2 members"):
        one.blend(shares)
