"""Layout: every weight has a place of its own in the arena, and the kernel's tables say what the recipes say."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.errors import EngineError, LimitError
from engines.cuda.layout import WEIGHT_ALIGNMENT_FLOATS, DeviceLayout
from engines.lowering.gpu import LoweredWeight
from engines.lowering.recipes import BatchNormFold, LinearRecipe, Recipes
from tests.engines.cuda import family


def layout(lowered: family.Lowered) -> DeviceLayout:
    return DeviceLayout.from_lowered(lowered)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_weight_is_aligned_and_apart(dtype: str) -> None:
    lowered = family.lowered(dtype)
    found = layout(lowered)
    assert found.names == tuple(weight.name for weight in lowered.weights)
    taken = np.zeros(found.nbytes, np.int64)
    for weight in lowered.weights:
        start = found.offset_of(weight.name)
        assert start % 256 == 0
        assert (found.count_of(weight.name), found.dtype_of(weight.name)) == (weight.count, np.dtype(dtype))
        taken[start : start + weight.count * weight.dtype.itemsize] += 1
    taken[found.scale_offset : found.scale_offset + 4 * found.channels] += 1
    assert taken.max() == 1
    assert found.channels == sum(family.NORMS.values())


def test_regions_are_by_kind_and_dtype() -> None:
    lowered = family.lowered()
    mixed = tuple(
        LoweredWeight(w.name, w.shape, np.dtype("f2" if w.name.startswith("first") else "f4")) for w in lowered.weights
    )
    found = layout(family.Lowered(lowered.recipes, mixed))
    kinds = {(region.kind, region.dtype.name): {name for name, _ in region.starts} for region in found.regions}
    assert kinds == {
        ("linear", "float16"): {"first.weight", "first.bias"},
        ("linear", "float32"): {"slope", "last.weight"},
        ("fold", "float32"): {"conv.weight", "up.weight", "deep.weight"},
        ("shift", "float32"): {"norm1@shift", "norm2@shift", "norm3@shift"},
    }
    for region in found.regions:
        for name, start in region.starts:
            assert found.offset_of(name) == region.offset + start * region.dtype.itemsize


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tables_name_each_numbers_channel(dtype: str) -> None:
    lowered = family.lowered(dtype)
    found = layout(lowered)
    (region,) = (region for region in found.regions if region.kind == "fold")
    table = found.build_channel_table(region)
    assert table.shape == (region.count // WEIGHT_ALIGNMENT_FLOATS, 4)
    first = 0
    places = found.build_shift_offsets()
    for fold in lowered.recipes.folds:
        shape = lowered.recipes.linear[fold.weight].shape
        along = [1] * len(shape)
        along[fold.axis] = -1
        expected = np.broadcast_to(np.arange(shape[fold.axis]).reshape(along), shape).reshape(-1) + first
        start = (found.offset_of(fold.weight) - region.offset) // region.dtype.itemsize
        element = np.arange(start, start + expected.size)
        begin, inner, channels, local = table[element // WEIGHT_ALIGNMENT_FLOATS].T.astype(np.int64)
        assert np.array_equal(begin + (local + element % WEIGHT_ALIGNMENT_FLOATS) // inner % channels, expected)
        for channel in range(shape[fold.axis]):
            place = int(places[first + channel])
            assert place >> 1 == found.offset_of(fold.bias) + channel * np.dtype(dtype).itemsize
            assert bool(place & 1) == (dtype == "float16")
        first += shape[fold.axis]


def test_nothing_to_blend() -> None:
    found = layout(family.Lowered(Recipes(), ()))
    assert (found.nbytes, found.names, found.regions) == (0, (), ())


def test_a_weight_without_numbers() -> None:
    recipes = Recipes({"empty": LinearRecipe("empty", (0, 3)), "one": LinearRecipe("one", (1,))})
    found = layout(family.Lowered(recipes, tuple(LoweredWeight(n, r.shape, np.dtype("f4")) for n, r in recipes.linear.items())))
    assert found.count_of("empty") == 0
    assert found.nbytes == 512


def one_fold(weight: str = "w", bias: str = "b", axis: int = 0) -> BatchNormFold:
    return BatchNormFold(weight, axis, bias, None, None, "mean", "var", 1e-5, None)


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ([one_fold(), one_fold()], "'w', which is no weight of the graph or folded twice"),
        ([one_fold(weight="gone")], "'gone'"),
        ([one_fold(bias="gone")], "'gone'"),
        ([one_fold(axis=1)], "channels of 'w'"),
        ([one_fold(axis=2)], "channels of 'w'"),
    ],
)
def test_folds_that_do_not_fit(folds: list[BatchNormFold], words: str) -> None:
    weights = (LoweredWeight("w", (4, 3), np.dtype("f4")), LoweredWeight("b", (4,), np.dtype("f4")))
    with pytest.raises(EngineError) as caught:
        layout(family.Lowered(Recipes({}, folds), weights))
    assert words in str(caught.value)


def test_a_weight_that_is_too_large() -> None:
    with pytest.raises(LimitError, match="2147483648 numbers"):
        layout(family.Lowered(Recipes({}, []), (LoweredWeight("w", (2**31,), np.dtype("f4")),)))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tables_name_each_numbers_tensor(dtype: str) -> None:
    lowered = family.lowered(dtype)
    layout = DeviceLayout.from_lowered(lowered)  # type: ignore[arg-type]
    tensors = layout.source_tensors()
    for region in layout.regions:
        if region.kind == "shift":
            continue
        rows = layout.build_row_index(region)
        assert rows.shape == (region.count // 128,)
        for name, start in region.starts:
            of_weight = rows[start // 128 : -(-(start + layout.count_of(name)) // 128)]
            assert {tensors[row] for row in of_weight} == {lowered.recipes.linear[name].source}
    statistics, table = layout.statistics_tensors(), layout.build_statistics_index()
    first = 0
    for fold in lowered.recipes.folds:
        channels = layout.count_of(fold.bias)
        named = [{statistics[row] for row in table[place, first : first + channels]} for place in range(5)]
        assert named == [{fold.variance}, {fold.gamma}, {fold.beta}, {fold.mean}, {fold.convolution_bias or fold.mean}]
        first += channels
    assert table.shape == (5, first)
