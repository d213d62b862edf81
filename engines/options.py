"""Options: what a caller may ask of an engine when it is opened, and when it is built ahead of time."""

from __future__ import annotations

from dataclasses import dataclass

from dni_deploy.errors import UsageError, escape_name
from engines.profile import Profile

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
