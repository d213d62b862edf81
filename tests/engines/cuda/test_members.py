"""The members on the device: copied, in the dtype that keeps every number, and nothing is left where there is no room."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dni_deploy.blending.blend import blend_float64
from dni_deploy.errors import LimitError
from tests.engines.cuda import family
from tests.engines.cuda.test_blender import close_enough
from tests.engines.cuda.test_blender import device_family as device_family  # the fixture
from tests.fakes.gpu import FakeGpu

BOTH_BACKENDS = True


def test_too_many_members(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device
    from engines.cuda.layout import DeviceLayout
    from engines.cuda.members import DeviceMembers

    made, tensors = family.lowered(), family.members(1)[0]
    device = Device.open(0)
    with device, pytest.raises(LimitError, match="1 to 32 members; this family has 33"):
        DeviceMembers(device, DeviceLayout.from_lowered(made), made.recipes, [tensors] * 33)  # type: ignore[arg-type]
    device.close()


def test_no_room_on_the_device_leaves_nothing_there(gpu: FakeGpu) -> None:
    from engines.cuda.device import Device
    from engines.cuda.layout import DeviceLayout
    from engines.cuda.members import DeviceMembers

    made = family.lowered()
    layout = DeviceLayout.from_lowered(made)  # type: ignore[arg-type]
    device = Device.open(0)
    gpu.memory.total = 2 * layout.nbytes
    with device, pytest.raises(LimitError, match="MB free where"):
        DeviceMembers(device, layout, made.recipes, family.members(3))
    assert gpu.memory.used == 0
    device.close()


def test_members_are_copied(device_family: Any) -> None:
    members = family.members(2)
    one = device_family(family.lowered(), members)
    expected = one.lowered.recipes.compute_values(blend_float64(members, np.array([0.5, 0.5])))
    for tensors in members:
        for tensor in tensors.values():
            tensor.fill(np.nan)
    one.blend([0.5, 0.5])
    close_enough(one.read(), expected, 2, "float32")


@pytest.mark.parametrize(("first", "second", "kept"), [("32", "16", "32"), ("16", "32", "32"), ("16", "16", "16")])
def test_members_of_two_dtypes_are_kept_as_the_wider(
    device_family: Any, gpu: FakeGpu, first: str, second: str, kept: str
) -> None:
    members = [*family.members(1, dtype=f"float{first}"), *family.members(1, seed=1, dtype=f"float{second}")]
    one = device_family(family.lowered(folds=False), members)
    one.blend([0.5, 0.5])
    assert list(gpu.launches) == [f"blend_f{kept}_f32_2"]
    close_enough(one.read(), one.lowered.recipes.compute_values(blend_float64(members, np.array([0.5, 0.5]))), 2, "float32")


def test_float16_members_of_a_computed_weight_are_kept_as_float32(device_family: Any, gpu: FakeGpu) -> None:
    """1 / 3 of a float16 is no float16."""
    from engines.lowering.recipes import LinearRecipe, Recipes

    made = family.lowered(folds=False)
    recipes = Recipes({**made.recipes.linear, "last.weight": LinearRecipe("last.weight", (3, 12, 1, 1), factor=1 / 3)})
    members = family.members(2, dtype=np.float16)
    one = device_family(family.Lowered(recipes, made.weights), members)
    one.blend([0.5, 0.5])
    assert list(gpu.launches) == ["blend_f32_f32_2"]
    close_enough(one.read(), recipes.compute_values(blend_float64(members, np.array([0.5, 0.5]))), 2, "float32")
