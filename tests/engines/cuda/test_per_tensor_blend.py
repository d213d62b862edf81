"""Shares for each weight on the fake GPU: a slot's weights against float64, what is launched and copied, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from engines.lowering.gpu import lower_for_gpu
from tests.engines.conftest import Case
from tests.engines.cuda import family
from tests.engines.cuda.test_blender import DeviceFamily, close_enough
from tests.engines.cuda.test_blender import device_family as device_family  # the fixture
from tests.engines.cuda.test_whole_graphs import NAMES
from tests.fakes.gpu import FakeGpu

BOTH_BACKENDS = {
    "test_each_weight_by_its_own_row",
    "test_any_number_of_groups",
    "test_what_a_row_does_not_use_is_not_read",
    "test_rows_that_are_all_equal_are_one_row",
    "test_there_and_back_is_the_same_bytes",
    "test_what_is_launched_and_copied",
    "test_changes_that_are_all_queued_do_not_disturb_each_other",
    "test_a_table_in_page_locked_memory_would_have_to_wait",
    "test_a_captured_blend",
    "test_variances_by_their_own_rows",
    "test_rows_that_do_not_fit",
    "test_a_row_without_shares",
    "test_bytes_moved_are_counted",
}
"""All that are fast."""


def some_rows(weights: int, members: int, seed: int = 0) -> NDArray[np.float64]:
    """Rows that sum to 1, all different: with zeros where there are members enough, every fourth one member alone."""
    source = np.random.default_rng(seed)
    rows = source.uniform(0.1, 1.0, (weights, members))
    if members > 2:
        rows[np.arange(weights), source.integers(0, members, weights)] = 0
    rows[::4] = np.eye(members)[source.integers(0, members, len(rows[::4]))]
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def blended(members: list[family.Tensors], rows: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The truth: each tensor in float64 by its own row; a member whose share is 0 is not looked at."""
    found = {}
    for name, row in zip(members[0], rows, strict=True):
        used = np.flatnonzero(row)
        total = np.sum([row[index] * members[index][name].astype(np.float64) for index in used], axis=0)
        found[name] = members[used[0]][name].astype(np.float64) if len(used) == 1 and row[used[0]] == 1 else total
    return found


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("count", [2, 3, 4, 7, 16])
def test_each_weight_by_its_own_row(device_family: Any, count: int, dtype: str, stored: str) -> None:
    """BatchNorms with five rows each: blended first, whatever their shares, and then folded."""
    members = family.members(count, dtype=stored)
    one = device_family(family.lowered(dtype), members)
    for seed in range(3):
        rows = some_rows(len(members[0]), count, seed)
        one.blend(rows)
        close_enough(one.read(), one.lowered.recipes.compute_values(blended(members, rows)), count, dtype)


@pytest.mark.parametrize("groups", [1, 2, 3, 8, len(family.members(1)[0])])
def test_any_number_of_groups(device_family: Any, groups: int) -> None:
    members = family.members(3)
    one = device_family(family.lowered(), members)
    rows = some_rows(groups, 3)[np.arange(len(members[0])) % groups]
    one.blend(rows)
    close_enough(one.read(), one.lowered.recipes.compute_values(blended(members, rows)), 3, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_a_row_does_not_use_is_not_read(device_family: Any, dtype: str) -> None:
    """Each tensor is NaN in the members that its row gives nothing; every weight is the one member's, byte for byte."""
    members = family.members(3, dtype=dtype)
    which = np.arange(len(members[0])) % 3
    for index, tensors in enumerate(members):
        for name, chosen in zip(tensors, which, strict=True):
            if chosen != index:
                tensors[name].fill(np.nan)
    one = device_family(family.lowered(dtype), members)
    one.blend(np.eye(3)[which])
    mixed = {name: members[chosen][name] for name, chosen in zip(members[0], which, strict=True)}
    got = one.read()
    for name, value in one.lowered.recipes.compute_values(mixed).items():
        assert got[name].tobytes() == value.astype(dtype).tobytes(), name


def test_rows_that_are_all_equal_are_one_row(device_family: Any, gpu: FakeGpu) -> None:
    members = family.members(3)
    one = device_family(family.lowered(), members)
    one.blend([0.2, 0.3, 0.5])
    expected, launched = one.read(), dict(gpu.launches)
    gpu.launches.clear()
    one.blend(some_rows(len(members[0]), 3))
    gpu.launches.clear()
    one.blend(np.tile([0.2, 0.3, 0.5], (len(members[0]), 1)))
    got = one.read()
    assert all(got[name].tobytes() == expected[name].tobytes() for name in expected)
    assert dict(gpu.launches) == launched


def test_there_and_back_is_the_same_bytes(device_family: Any) -> None:
    members = family.members(3)
    one = device_family(family.lowered(), members)
    first, second = (some_rows(len(members[0]), 3, seed) for seed in (0, 1))
    found = []
    for rows in (first, second, [0.5, 0.25, 0.25], first):
        one.blend(rows)
        found.append(one.read())
    assert all(found[0][name].tobytes() == found[3][name].tobytes() for name in found[0])
    assert any(not np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_what_is_launched_and_copied(device_family: Any, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel per kind, as without rows; before them one copy, and none where the slot has these rows already; nothing is allocated."""
    from engines.cuda.memory import Buffer

    sizes: list[int] = []
    whole = Buffer.upload
    monkeypatch.setattr(Buffer, "upload", lambda self, array, *rest: (sizes.append(array.nbytes), whole(self, array, *rest))[1])
    members = family.members(5)
    one = device_family(family.lowered(), members)
    rows = some_rows(len(members[0]), 5)
    rows[:, [1, 3]] = 0
    rows[:, 0] += 1 - rows.sum(axis=1)
    sizes.clear()
    used = gpu.memory.used
    gpu.memory.peak = used
    one.blend(rows)
    assert dict(gpu.launches) == {"fold_by_row": 1, "scaled_by_row_f32_f32_3": 1, "blend_by_row_f32_f32_3": 1}
    # Three members: float64 for the BatchNorms' 14 tensors, float32 for the 7 that lie in blended weights.
    assert sizes == [3 * (14 * 8 + 7 * 4)]
    one.blend(rows)
    assert len(sizes) == 1
    one.blend(rows[::-1].copy(), 1)
    one.blend(rows[::-1].copy())
    assert len(sizes) == 3
    assert gpu.memory.peak == used


@pytest.mark.parametrize("gpu", [{"seed": seed} for seed in range(8)], indirect=True)
def test_changes_that_are_all_queued_do_not_disturb_each_other(device_family: Any, gpu: FakeGpu) -> None:
    """Two slots and three changes each before anything has to run: no table is overwritten while kernels still read it."""
    members = family.members(2)
    one = device_family(family.lowered(), members)
    last = {}
    for seed in range(3):
        for slot in (0, 1):
            last[slot] = some_rows(len(members[0]), 2, 10 * seed + slot)
            one.blend(last[slot], slot)
    for slot, rows in last.items():
        close_enough(one.read(slot), one.lowered.recipes.compute_values(blended(members, rows)), 2, "float32")


def test_a_table_in_page_locked_memory_would_have_to_wait(
    device_family: Any, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy reads such memory late, when the next change has overwritten it: the test above can fail."""
    from engines.cuda import backend as cuda
    from engines.cuda.per_tensor_coefficients import CoefficientTable

    members = family.members(2)
    one = device_family(family.lowered(), members)
    with one.device:
        held = cuda.pagelocked_empty(1 << 12, np.uint8)

    def fill(self: Any, data: bytes, stream: Any) -> int:
        held[: len(data)] = np.frombuffer(data, np.uint8)
        self._buffer.upload(held[: len(data)], stream)
        return int(self._buffer.pointer)

    monkeypatch.setattr(CoefficientTable, "upload", fill)
    rows = [some_rows(len(members[0]), 2, seed) for seed in (0, 1)]
    for slot in (0, 1):
        one.blend(rows[slot], slot)
    with pytest.raises(AssertionError):
        close_enough(one.read(0), one.lowered.recipes.compute_values(blended(members, rows[0])), 2, "float32")
    with one.device:
        one.streams[1].synchronize()
        held.base.free()  # type: ignore[union-attr]


def test_a_captured_blend(device_family: Any, gpu: FakeGpu) -> None:
    """Kernels alone go into a CUDA graph: a copy there would read the host's memory again at each launch."""
    from engines.cuda import cuda_graph

    members = family.members(2)
    one = device_family(family.lowered(), members)
    rows = some_rows(len(members[0]), 2)
    one.blend(rows)
    expected = one.read()
    with one.device:
        handle = one.streams[0].handle
        cuda_graph.begin_capture(handle)
        with pytest.raises(EngineError, match="cannot be new within a CUDA graph"):
            one.blend(rows[::-1].copy())
        one.blend(rows)
        graph = cuda_graph.end_capture(handle)
        one.slots[0].buffer.zero(one.streams[0])
        graph.launch(handle)
        one.streams[0].synchronize()
        graph.close()
    got = one.read()
    assert all(got[name].tobytes() == expected[name].tobytes() for name in expected)


def test_variances_by_their_own_rows(device_family: Any, gpu: FakeGpu) -> None:
    """Only the row of the variance itself can make it negative, and a member that it does not use may hold anything."""
    members = family.members(2)
    members[0]["norm1.var"][3] = 2.0
    members[1]["norm1.var"][3] = 0.5
    one = device_family(family.lowered(), members)
    names = list(members[0])
    rows = np.tile([0.5, 0.5], (len(names), 1))
    rows[names.index("norm1.weight")] = (-1.0, 2.0)
    one.blend(rows)
    gpu.launches.clear()
    rows[names.index("norm1.var")] = (-1.0, 2.0)
    with pytest.raises(EngineError, match="variance is not positive at this alpha"):
        one.blend(rows)
    assert not gpu.launches
    members[1]["norm1.var"][:] = -1
    other = device_family(family.lowered(), members)
    rows[:] = (0.5, 0.5)
    rows[names.index("norm1.var")] = (1.0, 0.0)
    other.blend(rows)
    rows[names.index("norm1.var")] = (0.25, 0.75)
    with pytest.raises(EngineError, match="variance"):
        other.blend(rows)


@pytest.mark.parametrize("shape", [(5, 2), (21, 3), (1, 2)])
def test_rows_that_do_not_fit(device_family: Any, gpu: FakeGpu, shape: tuple[int, int]) -> None:
    one = device_family(family.lowered(), family.members(2))
    with pytest.raises(EngineError, match="for 21 weights and 2 members"):
        one.blend(np.full(shape, 1 / shape[1]))
    assert not gpu.launches


def test_a_row_without_shares(device_family: Any) -> None:
    one = device_family(family.lowered(), family.members(2))
    rows = some_rows(21, 2)
    rows[2] = 0
    with pytest.raises(EngineError, match=r"'conv\.weight' are all 0"):
        one.blend(rows)


def test_bytes_moved_are_counted(device_family: Any) -> None:
    """A member counts where its row uses it; tables are 4 bytes for 128 numbers."""
    members = family.members(3, dtype=np.float16)
    one = device_family(family.lowered(np.float16, folds=False), members)
    shapes = family.SHAPES
    rows = np.tile([0.5, 0.5, 0.0], (len(members[0]), 1))
    rows[list(members[0]).index("up.weight")] = (0.2, 0.3, 0.5)
    padded = {name: -(-int(np.prod(shape)) // 128) * 128 for name, shape in shapes.items()}
    lines = sum(padded.values()) // 128
    assert one.blender.count_bytes_moved(rows) == 3 * 2 * sum(padded.values()) + 2 * padded["up.weight"] + 4 * lines


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_whole_graphs(pico_case: Callable[[str], Case], gpu: FakeGpu, name: str, precision: str) -> None:
    """Every architecture's lowered weights against float64, in one launch per kind and dtype."""
    case = pico_case(name)
    lowered = lower_for_gpu(case.graph, case.weights, precision)
    members = [{key: tensors[key] for key in case.weights} for tensors in case.members]
    device_family = DeviceFamily(lowered, members)  # type: ignore[arg-type]
    rows = some_rows(len(case.weights), 3)
    device_family.blend(rows)
    got, expected = device_family.read(), lowered.recipes.compute_values(blended(members, rows))
    for weight in lowered.weights:
        # As in test_whole_graphs.test_every_weight, with one rounding more: these rows are rounded to float32 from thirds.
        size = float(np.abs(expected[weight.name]).max(initial=0))
        limit = 7 * 2.0**-24 * 4 * size + (2.0**-11 * size if weight.dtype == np.float16 else 0) + 1e-7
        error = np.abs(got[weight.name].astype(np.float64) - expected[weight.name])
        assert float(error.max(initial=0)) <= limit, weight.name
    device_family.close()
    assert sum(gpu.launches.values()) <= 2 * len({weight.dtype for weight in lowered.weights}) + 1
