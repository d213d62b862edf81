"""Every architecture of ours, exported from PyTorch: its channels are found, and a random order of all of them is undone."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
from dni_deploy.calibration.alignment import find_orders, permute_tensors, verify_same_function
from dni_deploy.calibration.channel_groups import find_channel_groups
from tests.support.exported_network import export_pico
from tests.support.pico_architectures import PICO, pico_state


@pytest.mark.parametrize("name", PICO)
def test_all_channels_but_the_images_own_can_move(name: str) -> None:
    exported, _, signature = export_pico(name)
    groups = find_channel_groups(exported.graph, exported.names)
    state = pico_state(name)
    fixed = [key for key in exported.names if key not in groups.placements]
    assert len(fixed) <= 1  # the bias of what is added to the image that comes out
    assert all(state[key].ndim == 1 for key in fixed)

    random = np.random.default_rng(0)
    permuted = permute_tensors(state, groups, [random.permutation(size) for size in groups.sizes])
    verify_same_function(exported.graph, signature, state, permuted, name)
    aligned = permute_tensors(permuted, groups, find_orders(state, permuted, groups))
    assert all(np.array_equal(aligned[key], state[key]) for key in state)
