"""Helpers for tests of listeners: a shared alpha, recorded reports, and waiting for another thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.control.shared_alpha import SharedAlpha

TWO, THREE, FOUR = ("psnr", "gan"), ("a", "b", "c"), ("m", "f", "n", "o")
TIMEOUT_S = 20.0
"""Seconds after which a wait has failed."""


@dataclass
class RecordedReports:
    """Records the sentences reported to it."""

    sentences: list[str] = field(default_factory=list)

    def __call__(self, sentence: str) -> None:
        self.sentences.append(sentence)


def new_shared_alpha(members: tuple[str, ...] = TWO) -> SharedAlpha:
    return SharedAlpha(members, Coefficients.one_hot(members[0], members))


def wait_until(holds: Callable[[], bool]) -> None:
    """Waits until a condition set by another thread holds."""
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)
