"""Engine: an optimized network that takes new weights while it lives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dni_deploy.errors import EngineError, UsageError, escape_name
from engines.profile import Profile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


PRECISIONS = ("fp32", "fp16")


@dataclass(frozen=True)
class EngineOptions:
    """How to open an engine; one that has no use for an option ignores it.

    threads     of the processor, per inference; 0 leaves it to the engine.
    slots       independent sets of weights, at least 1; None for the engine's own default.
    precision   "fp32" or "fp16" on a GPU; None takes the newest plan's, or fp32. On the CPU all is fp32.
    cuda_graph  replay frames as a CUDA graph where the engine can.
    device      the GPU's number as the driver counts.
    """

    threads: int = 0
    slots: int | None = None
    precision: str | None = None
    cuda_graph: bool = False
    device: int = 0

    def __post_init__(self) -> None:
        if self.slots is not None and (not isinstance(self.slots, int) or self.slots < 1):
            raise UsageError(
                f"slots is how many sets of weights an engine holds, a whole number from 1; got {escape_name(self.slots)}."
            )
        if not isinstance(self.threads, int) or self.threads < 0:
            raise UsageError(f"threads is a whole number, 0 for the engine's own choice; got {escape_name(self.threads)}.")
        if self.precision is not None:
            check_precision(self.precision)
        if not isinstance(self.device, int) or self.device < 0:
            raise UsageError(f"device is the number of a GPU, from 0; got {escape_name(self.device)}.")


@dataclass(frozen=True)
class BuildOptions:
    """How to build ahead of time. profile None: the default one of the bundle's signature. strip: a plan without weights.

    force: replace a plan that is there. keep: let it stay, and verify it with the bundle as it is now; without either that is an error.
    """

    threads: int = 0
    precision: str = "fp32"
    profile: Profile | None = None
    strip: bool = False
    device: int = 0
    force: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        check_precision(self.precision)


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {' or '.join(PRECISIONS)}; got {escape_name(precision)}.")


@dataclass(frozen=True)
class BuildResult:
    """What a builder made.

    plan      the file, or None where the engine will do without one (`update_path` says why).
    weights   how many weights of the network change with alpha, and were verified to.
    error     the verification's largest relative error against the reference, or None.
    kept      the plan was there before, and was verified only.
    """

    plan_path: Path | None
    update_path: str
    weight_count: int
    max_relative_error: float | None
    plan_kept: bool = False


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
        Raises UsageError for (W, N) where the engine has one alpha for all weights (see engines/interface.py).

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


def single_row_or_none(coefficients: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The shares that all weights have: (N,) itself, or the row of a (W, N) whose rows are all equal; None where rows differ."""
    if coefficients.ndim == 1:
        return coefficients
    row: NDArray[np.float64] = coefficients[0]
    return row if bool((coefficients == row).all()) else None


def require_single_row(coefficients: NDArray[np.float64], engine: str) -> NDArray[np.float64]:
    """The same, for an engine that has one alpha for all weights. Raises UsageError where rows differ."""
    row = single_row_or_none(coefficients)
    if row is None:
        raise UsageError(f"The engine {engine} has one alpha for all weights; for alpha by groups of weights take another one.")
    return row


def check_coefficient_count(row: NDArray[np.float64], members: int) -> None:
    """Raises EngineError where a row (N,) is not one share for each member, or has none that is not 0."""
    if len(row) != members or not row.any():
        raise EngineError(f"{len(row)} shares, {int((row != 0).sum())} of them not 0, for {members} members.")
