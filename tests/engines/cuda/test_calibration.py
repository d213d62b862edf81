"""What a blend on the device reads of a calibration: the points around alpha, folded or as they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.blending.calibration_table import CalibrationTable, blend_tensors
from engines.lowering.gpu import LoweredWeight, find_float16_overflows, lower_for_gpu
from engines.lowering.recipes import LinearRecipe, Recipes
from tests.engines.cuda import family
from tests.fakes.gpu import FakeGpu
from tests.support.handmade_graphs import HAND, RAW

BOTH_BACKENDS = True

STEPS = 4
BETWEEN, KNOT = np.array([0.22, 0.33, 0.45]), np.array([0.25, 0.5, 0.25])


def known_of(case: Any, members: list[dict[str, NDArray[Any]]]) -> CalibrationTable:
    rng, inner = np.random.default_rng(0), 12  # of 15 knots, three are members
    names = [name for name in case.weights if "running" in name]
    drawn = {name: rng.uniform(0.5, 2.0, (inner, members[0][name].size)).astype(np.float32) for name in names}
    return CalibrationTable.from_inner_statistics(
        members, STEPS, {name: rows.astype(np.float64) for name, rows in drawn.items()}, {}
    )


class DeviceFamily:
    """One calibrated family on the device, with a slot."""

    def __init__(self, case: Any) -> None:
        from engines.cuda.blender import DeviceBlender, WeightBuffer
        from engines.cuda.device import Device
        from engines.cuda.layout import DeviceLayout
        from engines.cuda.members import DeviceMembers

        self.tensors = [dict(tensors) for tensors in case.members]
        self.known = known_of(case, self.tensors)
        self.lowered = lower_for_gpu(case.graph, case.weights, "fp32")
        self.layout = DeviceLayout.from_lowered(self.lowered, self.known.statistics)
        self.device = Device.open(0)
        with self.device:
            self.members = DeviceMembers(self.device, self.layout, self.lowered.recipes, self.tensors, self.known)
            self.blender, self.live = DeviceBlender(self.device, self.members), WeightBuffer(self.device, self.layout)
            self.stream: Any = self.device.create_stream()

    def blend(self, shares: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
        with self.device:
            self.blender.blend(shares, self.live, self.stream)
            self.stream.synchronize()
            made = {}
            for weight in self.lowered.weights:
                made[weight.name] = np.empty(weight.shape, np.float32)
                self.live.buffer.download(made[weight.name], offset=self.layout.offset_of(weight.name))
        return made

    def close(self) -> None:
        with self.device:
            self.stream.synchronize()
            self.live.free()
            self.members.free()
            self.stream = None
        self.device.close()


@pytest.fixture(params=["conv_bn", *RAW])
def device_family(request: pytest.FixtureRequest, gpu: FakeGpu) -> Iterator[DeviceFamily]:
    made = DeviceFamily({**HAND, **RAW}[request.param]())
    yield made
    made.close()


def raw(device_family: DeviceFamily) -> set[str]:
    return {
        name for name, recipe in device_family.lowered.recipes.linear.items() if recipe.source in device_family.known.statistics
    }


def test_every_weight_is_what_the_truth_makes_it(device_family: DeviceFamily) -> None:
    for shares in (BETWEEN, KNOT, *np.eye(3)):
        wanted = device_family.lowered.recipes.compute_values(blend_tensors(device_family.tensors, shares, device_family.known))
        for name, got in device_family.blend(shares).items():
            # At most five fused steps and roundings, on sums of numbers below 8.
            assert np.abs(got - wanted[name]).max() <= 5 * 8 * 2.0**-24, name
            if name in raw(device_family) and shares is not BETWEEN:
                assert got.tobytes() == wanted[name].tobytes()


def test_what_is_launched_and_read(device_family: DeviceFamily, gpu: FakeGpu) -> None:
    """A launch a region, one of which is the raw statistics, and one for all folds; of the knots no more than there are members."""
    regions = [region for region, _, _ in device_family.members.regions]
    assert {name for region in regions if region.kind == "knots" for name, _ in region.starts} == raw(device_family)
    device_family.blend(BETWEEN)
    assert sum(gpu.launches.values()) == len(regions) + bool(device_family.layout.folds)
    assert all(len(pointers) == (15 if region.kind == "knots" else 3) for region, _, pointers in device_family.members.regions)
    assert len(device_family.members.statistics_pointers) == (15 if device_family.layout.folds else 0)
    numbers = sum(region.count for region in regions if region.kind == "knots")
    assert np.count_nonzero(device_family.known.interpolation_weights(BETWEEN)) == 3
    saved = device_family.blender.count_bytes_moved(BETWEEN) - device_family.blender.count_bytes_moved(KNOT)
    assert saved == 2 * (device_family.layout.channels * 40 + numbers * 4)


def test_what_float16_cannot_hold_is_told_by_the_knots() -> None:
    """A mean between the members that no member has, as a weight of a graph in float16."""
    members = [{"bn.running_mean": np.full(8, value, np.float32)} for value in (1.0, 2.0, 3.0)]
    recipes = Recipes({"mean": LinearRecipe("bn.running_mean", (1, 8, 1, 1))})
    lowered: Any = family.Lowered(recipes, (LoweredWeight("mean", (1, 8, 1, 1), np.dtype(np.float16)),))
    rows = np.ones((12, 8))
    assert (
        find_float16_overflows(
            lowered, members, CalibrationTable.from_inner_statistics(members, STEPS, {"bn.running_mean": rows}, {})
        )
        == []
    )
    rows[7, 3] = 1e5
    assert find_float16_overflows(
        lowered, members, CalibrationTable.from_inner_statistics(members, STEPS, {"bn.running_mean": rows}, {})
    ) == ["mean"]
