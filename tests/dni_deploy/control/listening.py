"""Feeding: a cell with the sentences that a feeder tells, and patience."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.control.shared_alpha import SharedAlpha

TWO, THREE, FOUR = ("psnr", "gan"), ("a", "b", "c"), ("m", "f", "n", "o")
PATIENCE = 20.0
"""Seconds until what has not come counts as lost."""


@dataclass
class Told:
    """What was told; call it with a sentence."""

    sentences: list[str] = field(default_factory=list)

    def __call__(self, sentence: str) -> None:
        self.sentences.append(sentence)


def new_cell(members: tuple[str, ...] = TWO) -> SharedAlpha:
    return SharedAlpha(members, Coefficients.one_hot(members[0], members))


def until(holds: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.001)
