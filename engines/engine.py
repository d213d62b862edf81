"""Engine: an optimized network that takes new weights while it lives."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """What every engine gives to a Session.

    name         as in `--engine`, e.g. "onnxruntime".
    road         one sentence: how weights reach the running network, and why if it is a fallback.
    slots        how many independent sets of weights it holds, at least 1. Sets are refitted one at a time;
                 infer may run on other slots meanwhile. The Session never refits a slot that a frame is using.
    """

    name: str
    road: str
    slots: int

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Put the blend into the slot, always computed from the pristine members: float64 (N,), in family order.

        Returns when the next infer on that slot sees it. Raises EngineError, and the slot is then unusable
        until a whole refit succeeds.
        """

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The raw network: float32 (N, C, H, W) -> float32 (N, C', H', W'), a fresh array. May be called from any thread."""

    def close(self) -> None:
        """Free everything. No infer may be running. Calling it again does nothing."""
