"""Recipes against NumPy in float64: what each field does, and that a fold is computed from blended statistics."""

from __future__ import annotations

import numpy as np
import pytest

from engines.lowering.recipes import BatchNormFold, LinearRecipe, Recipes, compute_scale_and_shift

KERNEL = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
TENSORS = {"w": KERNEL, "slope": np.array([0.25], np.float32)}


def test_a_copy_keeps_the_bits() -> None:
    np.testing.assert_array_equal(LinearRecipe("w", KERNEL.shape).compute_value(TENSORS), KERNEL)


def test_factor_and_offset_are_rounded_once() -> None:
    value = LinearRecipe("w", KERNEL.shape, factor=-0.1, offset=1.0).compute_value(TENSORS)
    np.testing.assert_array_equal(value, (KERNEL.astype(np.float64) * -0.1 + 1.0).astype(np.float32))


def test_a_permutation_comes_before_the_reshape() -> None:
    value = LinearRecipe("w", (5, 4, 6), permutation=(3, 2, 1, 0)).compute_value(TENSORS)
    np.testing.assert_array_equal(value, KERNEL.transpose(3, 2, 1, 0).reshape(5, 4, 6))
    assert value.flags.c_contiguous


def test_a_single_number_is_broadcast_and_no_source_is_the_offset() -> None:
    np.testing.assert_array_equal(LinearRecipe("slope", (3, 1, 1), factor=-1.0, offset=1.0).compute_value(TENSORS), 0.75)
    np.testing.assert_array_equal(LinearRecipe(None, (2, 2), offset=1.0).compute_value(TENSORS), np.ones((2, 2)))


def test_a_step_shifts_the_kernel_to_each_pixel_of_it() -> None:
    value = LinearRecipe("w", (8, 3, 5, 6), step=2).compute_value(TENSORS)
    for output in range(2):
        for row in range(2):
            for column in range(2):
                expected = np.zeros((3, 5, 6))
                expected[:, row : row + 4, column : column + 5] = KERNEL[output]
                np.testing.assert_array_equal(value[output * 4 + row * 2 + column], expected)
    bias = LinearRecipe("b", (8,), step=2).compute_value({"b": np.array([1, 2], np.float32)})
    np.testing.assert_array_equal(bias, [1, 1, 1, 1, 2, 2, 2, 2])


def test_taps_that_meet_one_pixel_before_an_enlargement_are_summed() -> None:
    """In float64, rounded once, and in the order of DepthToSpace's mode DCR; a description tells of it, others keep theirs."""
    kernel = np.random.default_rng(1).standard_normal((2, 5, 3, 3)).astype(np.float32)
    recipe = LinearRecipe("w", (8, 5, 2, 2), factor=0.1, before_upsample=True)
    value = recipe.compute_value({"w": kernel}).reshape(2, 2, 2, 5, 2, 2)
    taps = {(0, 0): (0, 1), (0, 1): (2,), (1, 0): (0,), (1, 1): (1, 2)}  # of (place in the step, place in the kernel)
    for row, column, down, right in np.ndindex(2, 2, 2, 2):
        expected = sum(kernel[:, :, i, j].astype(np.float64) * 0.1 for i in taps[row, down] for j in taps[column, right])
        np.testing.assert_array_equal(value[row, column, :, :, down, right], np.float32(expected))
    bias = LinearRecipe("b", (8,), before_upsample=True).compute_value({"b": np.array([1, 2], np.float32)})
    np.testing.assert_array_equal(bias, [1, 2] * 4)
    assert recipe.to_json()["before_upsample"] is True
    assert "before_upsample" not in LinearRecipe("w", kernel.shape).to_json()


@pytest.mark.parametrize(("affine", "bias"), [(True, True), (False, True), (True, False)])
def test_a_fold_is_batchnorm_behind_the_convolution(affine: bool, bias: bool) -> None:
    """The folded 1x1 convolution against BatchNorm of the plain one, in float64."""
    random = np.random.default_rng(1)
    tensors = {
        "w": random.standard_normal((4, 3)), "b": random.standard_normal(4), "gamma": random.uniform(0.5, 2, 4),
        "beta": random.standard_normal(4), "mean": random.standard_normal(4), "variance": random.uniform(0.1, 2, 4),
    }  # fmt: skip
    fold = BatchNormFold(
        "w",
        0,
        "folded",
        "gamma" if affine else None,
        "beta" if affine else None,
        "mean",
        "variance",
        1e-3,
        "b" if bias else None,
    )
    recipes = Recipes({"w": LinearRecipe("w", (4, 3)), "folded": LinearRecipe(None, (4,))}, [fold])
    values = recipes.compute_values(tensors)
    x = random.standard_normal(3)
    plain = tensors["w"] @ x + (tensors["b"] if bias else 0)
    normal = (plain - tensors["mean"]) / np.sqrt(tensors["variance"] + 1e-3)
    expected = normal * tensors["gamma"] + tensors["beta"] if affine else normal
    # The folded weights are rounded to float32, 6e-8 each.
    np.testing.assert_allclose(values["w"] @ x + values["folded"], expected, rtol=1e-5, atol=1e-6)
    assert set(fold.sources) == {"mean", "variance"} | ({"gamma", "beta"} if affine else set()) | ({"b"} if bias else set())


def test_a_variance_that_is_not_positive_gives_no_number() -> None:
    statistics = np.ones((5, 2))
    statistics[0] = [1.0, -1.0]
    scale, shift = compute_scale_and_shift(statistics)
    assert np.isfinite(scale).tolist() == np.isfinite(shift).tolist() == [True, False]
