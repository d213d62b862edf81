"""`check` is right about twelve pairs with known answers: six families trained here, and six kinds of failure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
import torch

from benchmarks.features.check_pairs import (
    BLENDS_ANSWER,
    DOES_NOT_BLEND_ANSWER,
    KnownPair,
    flip_signs,
    list_test_pairs,
    member,
    permute_channels,
)
from dni_deploy.api.check import check
from exporters.architectures.registry import find_architecture

PAIRS = list_test_pairs()
CAUSES = {
    "from scratch": "apart", "permuted channels": "permuted", "other task": "apart", "other width": "other network",
    "sign-flipped": "flipped", "noise": "apart",
}  # fmt: skip

SLOW_FAMILIES = ("demo", "small", "sr", "style", "scenes")


def test_six_pairs_blend_and_six_do_not() -> None:
    assert [pair.answer for pair in PAIRS] == [BLENDS_ANSWER] * 6 + [DOES_NOT_BLEND_ANSWER] * 6
    assert len({pair.kind for pair in PAIRS}) == 12


# Exporting the large networks takes five to seven seconds, training the small nets five; the others take one.
@pytest.mark.parametrize(
    "pair",
    [pytest.param(pair, id=pair.name, marks=[pytest.mark.slow] * (pair.name.startswith(SLOW_FAMILIES))) for pair in PAIRS],
)
def test_verdict_of_known_pairs_is_right(pair: KnownPair) -> None:
    first, second = pair.members()
    report = check({"first": first, "second": second})
    assert (report.verdict != "will not blend") == (pair.answer == BLENDS_ANSWER), report.reasons
    if pair.answer == DOES_NOT_BLEND_ANSWER:
        assert report.pairs[0].causes[0] == CAUSES[pair.kind]
        assert report.advice


@pytest.mark.parametrize(
    ("family", "name"),
    [("three_layer", "n20"), ("demo", "n20"), ("style", "content"), ("digits", "thin"), ("scenes", "identity")],
)
def test_permuted_and_sign_flipped_networks_compute_the_same_function(family: str, name: str) -> None:
    """Otherwise the pairs that do not blend would be damaged networks, which is another case."""
    state = member(family, name)
    architecture = find_architecture("auto", state)

    def infer(tensors: dict[str, Any]) -> np.ndarray:
        with torch.no_grad():
            return architecture.build(tensors)(torch.from_numpy(x)).numpy()

    shape = (1, 32, 1, 1) if family == "digits" else (1, 3, 32, 32)
    x = np.random.default_rng(0).random(shape, np.float32)
    expected = infer(state)
    for change in (permute_channels, flip_signs):
        changed = change(state, 1)
        if change is permute_channels or family != "three_layer":  # which has no norm that could restore the sign
            assert any(not np.array_equal(changed[key], state[key]) for key in state)
        # float32 sums in another order; InstanceNorm divides them by small deviations
        assert np.abs(infer(changed) - expected).max() <= 1e-3 * np.abs(expected).max()
