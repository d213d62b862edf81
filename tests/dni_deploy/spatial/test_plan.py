"""Plan of a map: each pixel gets its alpha once, no level runs where no pixel needs it, and tiles keep their shape."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.errors import MismatchError, UsageError
from dni_deploy.signature import Signature
from dni_deploy.spatial.alpha_map import AlphaMap
from dni_deploy.spatial.plan import MapPlan, plan_map
from dni_deploy.spatial.regions import MIN_REGION_SIDE_PX

NETWORK = Signature(scale=2, multiple=4, radius=3)


def sum_weights(plan: MapPlan) -> np.ndarray:
    """Sums the weights of all levels over the tiles, for each output pixel."""
    total = np.zeros((plan.scale * plan.height, plan.scale * plan.width))
    for level in plan.levels:
        for tile in level.tiles:
            top, bottom, left, right = (plan.scale * edge for edge in tile.kept_rect)
            total[top:bottom, left:right] += plan.compute_weights(level, tile.kept_rect)
    return total


@pytest.mark.parametrize("tile", [None, 0, 40])
@pytest.mark.parametrize("of_output", [False, True])
def test_the_weights_of_every_output_pixel_sum_to_one(tile: int | None, of_output: bool) -> None:
    size = (140, 180) if of_output else (70, 90)
    values = np.random.default_rng(0).random(size)
    plan = plan_map(AlphaMap.of(values), 70, 90, NETWORK, levels=5, tile=tile)
    np.testing.assert_allclose(sum_weights(plan), 1, atol=1e-6)  # float32 weights


def test_a_level_runs_only_where_some_pixel_needs_it() -> None:
    mask = np.zeros((128, 128))
    mask[:20, :20] = 1.0
    plan = plan_map(AlphaMap.of(mask), 128, 128, NETWORK)
    black, white = plan.levels
    assert (black.fraction, white.fraction, plan.exact) == (0.0, 1.0, True)
    assert [tuple(tile.kept_rect) for tile in white.tiles] == [(0, 20, 0, 20)]
    for level in plan.levels:
        for tile in level.tiles:
            assert tile.input_rect.height % 4 == tile.input_rect.width % 4 == 0
            assert min(tile.input_rect.height, tile.input_rect.width) >= MIN_REGION_SIDE_PX
    assert plan.relative_cost == sum(tile.input_rect.area for level in plan.levels for tile in level.tiles) / 128**2


def test_tiles_of_a_chosen_side_all_have_one_shape() -> None:
    mask = np.zeros((100, 130))
    mask[:30, :20] = 1.0
    plan = plan_map(AlphaMap.of(mask), 100, 130, NETWORK, tile=40)
    assert {(tile.input_rect.height, tile.input_rect.width) for level in plan.levels for tile in level.tiles} == {(40, 40)}
    assert len(plan.levels[1].tiles) == 1  # white lies only in the first tile
    assert plan.tile_count == len(plan.levels[0].tiles) + 1


def test_levels_between_which_no_pixel_lies_are_left_out() -> None:
    gradient = np.broadcast_to(np.linspace(0.3, 0.45, 64), (32, 64))
    plan = plan_map(AlphaMap.of(gradient), 32, 64, NETWORK)
    assert [level.fraction for level in plan.levels] == [0.25, 0.375, 0.5]
    assert not plan.exact


def test_a_network_with_unbounded_receptive_field_runs_on_the_whole_frame() -> None:
    mask = np.zeros((40, 60))
    mask[:10] = 1.0
    plan = plan_map(AlphaMap.of(mask), 40, 60, Signature(multiple=4))
    assert [tuple(tile.input_rect) for level in plan.levels for tile in level.tiles] == [(0, 40, 0, 60)] * 2


def test_an_alpha_map_or_levels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MismatchError, match="5x4 pixels and the image 8x8"):
        plan_map(AlphaMap.of(np.zeros((4, 5))), 8, 8, NETWORK)
    with pytest.raises(UsageError, match="2 to 256 levels"):
        plan_map(AlphaMap.of(np.zeros((8, 8))), 8, 8, NETWORK, levels=1)
