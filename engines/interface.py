"""What an engine is: an optimized network that takes new weights while it lives, and how it is built and opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dni_deploy.errors import EngineError, UsageError, escape_name
from engines.profile import Profile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dni_deploy.imaging.frames import AnyFrame
    from dni_deploy.signature import Signature


PRECISIONS = ("fp32", "tf32", "fp16")
"""tf32: weights and activations are float32, and tensor cores multiply them with 10 bits of mantissa."""
FRAMES_IN_FLIGHT = 3
"""Frames that a session has under way: one before the network, one in it, one behind it."""
REASON_REQUESTED = "asked for"
"""Why an engine is used that the user named."""


@dataclass(frozen=True)
class EngineOptions:
    """How to open an engine; an engine that has no use for an option ignores it.

    Attributes:
        threads: Number of processor threads per inference; 0 leaves it to the engine.
        slots: Number of independent sets of weights, at least 1; None for the engine's own default.
        precision: "fp32", "tf32" or "fp16" on a GPU; None for the newest plan's, or fp32. On the CPU all is fp32.
        cuda_graph: Replay frames as a CUDA graph where the engine can.
        device: Number of the GPU, as the driver counts.
        plan: The `plan_digest` of the plan to open, where an engine has plans; None for the newest that fits.
        trust_plans_of: Names or numbers of other accounts whose plans are opened, too; see docs/security.md.
    """

    threads: int = 0
    slots: int | None = None
    precision: str | None = None
    cuda_graph: bool = False
    device: int = 0
    plan: str | None = None
    trust_plans_of: Sequence[str] = ()

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
    """How to build ahead of time.

    Attributes:
        threads: As in `EngineOptions`.
        precision: "fp32", "tf32" or "fp16".
        profile: Input shapes to build for; None for the default ones of the bundle's signature.
        strip: Write a plan without weights.
        compute_capabilities: GPUs to build for, by compute capability, (major, minor), where a plan can be for several; empty for
            this machine's.
        device: As in `EngineOptions`.
        force: Replace a plan that is there.
        keep: Keep a plan that is there, and verify it with the bundle as it is now. Without either, such a plan is an error.
    """

    threads: int = 0
    precision: str = "fp32"
    profile: Profile | None = None
    strip: bool = False
    compute_capabilities: tuple[tuple[int, int], ...] = ()
    device: int = 0
    force: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        check_precision(self.precision)


def check_precision(precision: str) -> None:
    """Raises UsageError where a precision is not one of PRECISIONS."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}; got {escape_name(precision)}.")


@dataclass(frozen=True)
class BuildResult:
    """What a builder made.

    Attributes:
        plan_path: The file, or None where the engine will do without one; `update_path` says why.
        update_path: As in `Engine`.
        weight_count: Number of weights of the network that change with alpha, and were verified to.
        max_relative_error: Largest relative error of the verification against the reference, or None.
        plan_kept: Whether the plan was there before, and was verified only.
    """

    plan_path: Path | None
    update_path: str
    weight_count: int
    max_relative_error: float | None
    plan_kept: bool = False


class Engine(Protocol):
    """What every engine gives to a session.

    Attributes:
        name: Name as in `--engine`, such as "onnxruntime".
        update_path: One sentence: how weights reach the running network, and why if it is a fallback.
        slots: Number of independent sets of weights, at least 1.

    Thread safety: slots are refitted one at a time, never one that a frame is using. `infer` and `render` are called from any
    thread, several at a time for one slot, too; the engine overlaps what it can of them and puts the rest in turn.
    """

    name: str
    update_path: str
    slots: int

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Puts a blend into a slot, always computed from the original members.

        A weight of the optimized network takes the row of the one tensor that it is made of. A folded BatchNorm is made of up
        to five, each with a row of its own: they are blended first, whatever their coefficients, and then folded.

        Returns when the next `infer` on that slot is certain to see the blend; on a GPU the work itself may still be in its
        queue (see `synchronize`).

        Args:
            slot: Number of the slot.
            coefficients: float64 (N,), one for each member in family order, for all weights; or float64 (W, N), a row for each
                of the bundle's `weight_names` in their order. Read before this returns, never kept or changed. Every row sums
                to 1. A row with a coefficient of 1 copies that member's bits; a member whose coefficient is 0 is not read. Rows
                that are all equal give the same bytes as that one row, (N,), would.

        Raises:
            EngineError: The refit failed; the slot is unusable until a whole refit succeeds.
            UsageError: The engine has one alpha for all weights and the rows differ.
        """

    def synchronize(self, slot: int) -> None:
        """Waits until the slot's newest refit has ended, so that a frame on it waits for nothing.

        Args:
            slot: Number of the slot.

        Raises:
            EngineError: As `refit`.
        """

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs the raw network.

        Args:
            slot: Number of the slot.
            x: float32 (N, C, H, W), in the network's value range.

        Returns:
            A fresh array, float32 (N, C', H', W').

        Raises:
            EngineError: The slot has no weights, the engine is closed, or it cannot run this input.
        """

    def render(self, slot: int, frame: AnyFrame, signature: Signature) -> NDArray[Any]:
        """Renders a frame: pixels in, pixels out. What `dni_deploy.imaging.frames` computes around `infer`, pixel for pixel.

        Args:
            slot: Number of the slot.
            frame: uint8, uint16 or float32 (H, W, 3), RGB; read before this returns.
            signature: Of the network.

        Returns:
            A fresh array of the same dtype, (scale * H, scale * W, 3).

        Raises:
            UsageError: `frame` is none.
            MismatchError: The network does not turn frames into frames.
            EngineError: As `infer`, and where the output is not finite.
        """

    def close(self) -> None:
        """Frees everything. No frame may be running. Calling it again does nothing."""


class DeviceEngine(Engine, Protocol):
    """An engine on a GPU, whose `infer` is `upload`, `enqueue`, `download`; apart, they can be timed and overlapped.

    Each slot has one stream, and its refit, upload, enqueue and download are queued on it in the order of the calls.
    Coefficients that a refit refuses leave the slot as it was: they are validated before anything of it is touched.

    Thread safety: calls for one slot come from one thread at a time.
    """

    def stream_handle(self, slot: int) -> int:
        """Returns the slot's CUstream, for events and timing. The engine owns it."""

    def upload(self, slot: int, x: NDArray[np.float32]) -> None:
        """Queues the upload of an input.

        Args:
            slot: Number of the slot.
            x: float32 (N, C, H, W), read before this returns.

        Raises:
            UsageError: The shape is outside of the profile.
        """

    def enqueue(self, slot: int) -> None:
        """Queues one run of the network on the input that was uploaded last.

        Args:
            slot: Number of the slot.

        Raises:
            EngineError: The slot has no weights or no input, or the run cannot be queued.
        """

    def download(self, slot: int) -> NDArray[np.float32]:
        """Waits for what is queued.

        Args:
            slot: Number of the slot.

        Returns:
            The newest output, a fresh float32 (N, C', H', W').
        """


def single_row_or_none(coefficients: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Returns the coefficients that all weights have.

    Args:
        coefficients: float64 (N,) or (W, N).

    Returns:
        (N,) itself, or the row of a (W, N) whose rows are all equal, a view; None where rows differ.
    """
    if coefficients.ndim == 1:
        return coefficients
    row: NDArray[np.float64] = coefficients[0]
    return row if bool((coefficients == row).all()) else None


def require_single_row(coefficients: NDArray[np.float64], engine: str) -> NDArray[np.float64]:
    """Returns the coefficients that all weights have, for an engine that has one alpha for all weights.

    Args:
        coefficients: float64 (N,) or (W, N).
        engine: Name of the engine, for the message.

    Returns:
        As `single_row_or_none`.

    Raises:
        UsageError: The rows differ.
    """
    row = single_row_or_none(coefficients)
    if row is None:
        raise UsageError(
            f"The engine {engine} has one alpha for all weights; choose another one for alpha by groups of weights."
        )
    return row


def check_coefficient_count(row: NDArray[np.float64], members: int) -> None:
    """Raises EngineError where a row (N,) does not have one coefficient per member, or has none that is not 0."""
    if len(row) != members or not row.any():
        raise EngineError(f"{len(row)} shares, {int((row != 0).sum())} of them not 0, for {members} members.")
