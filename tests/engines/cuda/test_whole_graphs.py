"""Whole graphs: pico architectures lowered as for a GPU, every weight blended on the fake GPU and compared with a fresh build's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dni_deploy.blending.blend import blend_float64
from engines.lowering.gpu import lower_for_gpu
from tests.engines.conftest import Case
from tests.engines.cuda.test_blender import DeviceFamily
from tests.fakes.gpu import FakeGpu

# BatchNorm behind Conv, ConvTranspose and by itself; PReLU; float32 weights in a float16 graph; none of it.
NAMES = ("dncnn_bn", "cyclegan_bn", "dcgan", "compact", "transformer_net", "rrdbnet")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_every_weight(pico_case: Callable[[str], Case], gpu: FakeGpu, name: str, precision: str) -> None:
    case = pico_case(name)
    lowered = lower_for_gpu(case.graph, case.weights, precision)
    device_family = DeviceFamily(lowered, case.members)  # type: ignore[arg-type]
    for shares in (np.eye(3)[1], np.array([0.2, 0.3, 0.5])):
        device_family.blend(shares)
        got, expected = device_family.read(), lowered.recipes.compute_values(blend_float64(case.members, shares))
        for weight in lowered.weights:
            if shares.max() == 1:
                assert got[weight.name].tobytes() == expected[weight.name].astype(weight.dtype).tobytes(), weight.name
                continue
            # Three products, a scale, and the float32 that they are compared with: 6 roundings, of sums of sizes that are here at
            # most 4 times the largest result, since members are near each other. Half a place of a float16 is 2^-11.
            size = float(np.abs(expected[weight.name]).max(initial=0))
            limit = 6 * 2.0**-24 * 4 * size + (2.0**-11 * size if weight.dtype == np.float16 else 0) + 1e-7
            error = np.abs(got[weight.name].astype(np.float64) - expected[weight.name])
            assert float(error.max(initial=0)) <= limit, weight.name
    device_family.close()
    assert sum(gpu.launches.values()) <= 2 * (2 * len({weight.dtype for weight in lowered.weights}) + 1)
