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
    update_path: str
    slots: int

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Put the blend into the slot, always computed from the pristine members.

        coefficients  float64 (N,): the members' shares, in family order, one for all weights; or float64 (W, N): a row of shares for
                      each of the bundle's `weight_names`, in their order. Read before this returns, never kept or changed. Every row
                      sums to 1. A row with one share of 1 copies that member's bits; a member whose share is 0 is not read. Rows that
                      are all equal give the same bytes as that one row, (N,), would.
        A weight of the optimized network takes the row of the one tensor that it is made of. A folded BatchNorm is made of up to
        five, each with a row of its own: they are blended first, whatever their shares, and then folded.
        Raises UsageError for (W, N) where the engine has one alpha for all weights (see engines/shares.py).

        Returns when the next infer on that slot is certain to see it; on a GPU the work itself may still be in its queue (see
        `synchronize`). Raises EngineError, and the slot is then unusable until a whole refit succeeds.
        """

    def synchronize(self, slot: int) -> None:
        """Wait until the slot's newest refit has ended, so that a frame on it waits for nothing. Raises as `refit` does."""

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The raw network: float32 (N, C, H, W) -> float32 (N, C', H', W'), a fresh array. May be called from any thread."""

    def close(self) -> None:
        """Free everything. No infer may be running. Calling it again does nothing."""


class DeviceEngine(Engine, Protocol):
    """An Engine on a GPU. infer is place, enqueue, fetch; apart, they can be timed and overlapped.

    Each slot has one stream, and its refit, place, enqueue and fetch are queued on it in the order of the calls.
    Coefficients that a refit refuses leave the slot as it was: they are looked at before anything of it is touched.
    Calls for one slot come from one thread at a time.
    """

    def stream_handle(self, slot: int) -> int:
        """The slot's CUstream, for events and timing. The engine owns it."""

    def upload(self, slot: int, x: NDArray[np.float32]) -> None:
        """Queue the upload of an input: float32 (N, C, H, W), read before this returns. Raises UsageError outside the profile."""

    def enqueue(self, slot: int) -> None:
        """Queue one run of the network on the input that was placed last. Raises EngineError."""

    def download(self, slot: int) -> NDArray[np.float32]:
        """Wait for what is queued and return the newest output, a fresh float32 (N, C', H', W')."""
