"""A permutation of channels is found where there is one, and none otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.api.check import check
from dni_deploy.compatibility.correlation import find_filter_layers
from dni_deploy.compatibility.permutation import align_permutations

pytest.importorskip("torch")
from tests.support.pico_architectures import pico_state


def test_a_permutation_is_found_across_residual_and_dense_layers() -> None:
    """An RRDBNet with permuted residual stream and permuted growth channels of its first dense layer."""
    state = pico_state("rrdbnet")
    random = np.random.default_rng(1)
    stream, growth = random.permutation(8), random.permutation(4)
    moved = dict(state)
    for name, weight in state.items():
        if weight.ndim != 4:
            continue
        place = name.split(".")[-2]
        if place != "conv_first":
            inside = np.arange(weight.shape[1])
            if ".rdb" in name or place in ("conv_body", "conv_up1"):
                inside[:8] = stream
            if ".rdb" in name and place != "conv1":
                inside[8:12] = 8 + growth
            weight = weight[:, inside]
        order = stream if place in ("conv_first", "conv5", "conv_body") else growth if place == "conv1" else None
        moved[name] = weight if order is None else weight[order]
        if order is not None:
            moved[name.replace("weight", "bias")] = state[name.replace("weight", "bias")][order]
    report = check({"a": state, "b": moved})
    assert report.midpoints[0].departure > 100  # the ends are the same function, or this would be no permutation
    assert (report.verdict, report.pairs[0].causes[0]) == ("will not blend", "permuted")
    assert all(row.aligned_median is not None and row.aligned_median > 0.999 for row in report.layers)
    unrelated = align_permutations(state, pico_state("rrdbnet", 1), find_filter_layers(state))
    assert max(abs(row.median - row.chance_median) for row in unrelated.values()) < 0.3  # only what chance finds
