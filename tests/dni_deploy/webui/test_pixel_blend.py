"""The pixel-blend baseline: the members are opened on request, and their outputs are kept for a still image."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import UnavailableError
from dni_deploy.session.session import Session
from dni_deploy.signature import Signature
from dni_deploy.webui.pixel_blend import PixelBlend
from tests.support.frame_session import Dimmer

MEMBERS = ("bright", "dark")
FACTORS = {"bright": 1.0, "dark": 0.2}
TIMEOUT_S = 10.0


class MemberSessions:
    """Opens a session of one member, and records the engines."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.engines: list[Dimmer] = []

    def __call__(self, member: str) -> Session:
        if member == self.broken:
            raise UnavailableError("there is no memory for it.")
        self.engines.append(Dimmer((FACTORS[member],)))
        return Session(self.engines[-1], (member,), Signature(radius=0), Coefficients.one_hot(member, (member,)))


def open_blend(open_member: MemberSessions) -> PixelBlend:
    """Starts a blend and waits until it is ready or has failed."""
    blend, has_ended = PixelBlend(MEMBERS, open_member), threading.Event()
    blend.on_ready = has_ended.set
    assert not open_member.engines  # nothing is opened before it is requested
    _ = blend.is_ready
    assert has_ended.wait(TIMEOUT_S)
    return blend


def test_outputs_are_blended_and_rounded_once() -> None:
    members = MemberSessions()
    blend = open_blend(members)
    frame = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    outputs = [np.rint(frame * FACTORS[member]) for member in MEMBERS]
    for coefficient in (0.0, 0.3, 1.0):
        blended = blend.blend_outputs(frame, "frame", (coefficient, 1 - coefficient))
        expected = coefficient * outputs[0] + (1 - coefficient) * outputs[1]
        # Half a level of rounding, and float32 instead of float64 where that is a tie.
        assert np.abs(blended - expected).max() <= 0.5 + 1e-4
    blend.close()
    assert [engine.closed for engine in members.engines] == [1, 1]


def test_a_still_image_is_inferred_once_per_member(monkeypatch: pytest.MonkeyPatch) -> None:
    members = MemberSessions()
    blend = open_blend(members)
    calls: list[int] = []
    infer = Dimmer.infer
    monkeypatch.setattr(Dimmer, "infer", lambda self, slot, x: calls.append(1) or infer(self, slot, x))
    frame = np.full((4, 4, 3), 100, np.uint8)
    for key in ("first", "first", "first", "second"):
        blend.blend_outputs(frame, key, (0.5, 0.5))
    assert len(calls) == 2 * len(MEMBERS)
    blend.close()


def test_a_member_that_fails_to_open_closes_the_others() -> None:
    members = MemberSessions(broken="dark")
    blend = open_blend(members)
    assert not blend.is_ready
    assert blend.problem == "there is no memory for it."
    assert [engine.closed for engine in members.engines] == [1]
    blend.close()
