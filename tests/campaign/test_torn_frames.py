"""No frame in flight mixes two values, whatever is set meanwhile; a design that would is found."""

from __future__ import annotations

from typing import Any

import pytest

from dni_deploy.session.swap import CurrentWeights, SyncRefit
from tests.campaign.torn_frames import MODELS, run_model


class WithoutCounting(SyncRefit[int]):
    """Broken design: takes a slot whether or not a frame is in it."""

    def _find_free_slot(self, current: CurrentWeights[int] | None) -> int | None:
        return 0 if current is None or len(self._frames_in_slot) == 1 else 1 - current.slot


@pytest.mark.parametrize(("design", "slots"), MODELS)
@pytest.mark.parametrize("frames", [2_000, pytest.param(600_000, marks=pytest.mark.campaign)])
def test_no_frame_in_flight_is_torn(design: Any, slots: int, frames: int) -> None:
    counts = run_model(design, slots, frames)
    assert counts.bad == 0, counts
    assert counts.frames >= frames
    assert counts.own > frames / 50
    assert counts.refits > frames / 50


@pytest.mark.parametrize("slots", [1, 2])
def test_a_design_that_tears_is_found(slots: int) -> None:
    assert run_model(WithoutCounting, slots, 200_000, until_bad=True).torn


def test_weights_that_are_let_go_before_the_frame_ends_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(self: SyncRefit[int], token: object, value: int | None = None) -> CurrentWeights[int]:
        weights = real(self, token, value)
        self.release(token)
        return weights

    real = SyncRefit.acquire
    monkeypatch.setattr(SyncRefit, "acquire", acquire)
    assert run_model(SyncRefit, 1, 200_000, until_bad=True).torn
