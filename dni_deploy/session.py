"""Session: a network that is running, and its alpha.

with dni.open_session("sr.dni", alpha=0.35) as session:
    out = session(frame)
    session.alpha = {"psnr": 0.2, "gan": 0.8}  # from any thread; the next frame has it
"""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.bundle import Bundle
from dni_deploy.coefficients import Alpha, Coefficients
from dni_deploy.errors import EngineError, UsageError
from dni_deploy.frames import Frame, from_network, to_network
from dni_deploy.signature import Signature
from dni_deploy.swap import Swap
from dni_deploy.variance import VarianceGuard, variance_names
from engines import load_engine
from engines.engine import Engine
from engines.options import EngineOptions


class Stamped(NamedTuple):
    """An output with what made it: the generation (grows by one at each change) and the coefficients."""

    output: Frame
    generation: int
    coefficients: Coefficients


class Session:
    """Takes frames, gives frames. All methods may be called from any thread; it owns the engine and closes it."""

    def __init__(
        self,
        engine: Engine,
        members: tuple[str, ...],
        signature: Signature,
        first: Coefficients,
        *,
        guard: VarianceGuard | None = None,
    ) -> None:
        """guard: given where extrapolation is allowed; it then refuses what would make a BatchNorm variance negative.

        `change_seconds` is how long the newest change of alpha took in the engine, blend and refit together.
        """
        self.engine = engine
        self.members = members
        self.signature = signature
        self._guard = guard
        self._closed = False
        self.change_seconds = 0.0
        self._swap: Swap[Coefficients] = Swap(engine.slots, self._refit, self._checked(first))

    @property
    def alpha(self) -> Coefficients:
        """The newest coefficients that were set."""
        return self._swap.wanted

    @alpha.setter
    def alpha(self, alpha: Alpha) -> None:
        """Checked at once, blended when the next frame begins; of values set in between, the last one counts.

        Raises CoefficientsError; the coefficients then stay as they were.
        """
        coefficients = self._checked(alpha)
        if coefficients != self._swap.wanted:
            self._swap.request(coefficients)

    @property
    def generation(self) -> int:
        """How many blends have been live so far."""
        return self._swap.generation

    def _refit(self, slot: int, coefficients: Coefficients) -> None:
        started = time.perf_counter()
        self.engine.refit(slot, coefficients.array())
        self.change_seconds = time.perf_counter() - started

    def _checked(self, alpha: Alpha) -> Coefficients:
        coefficients = Coefficients.parse(alpha, self.members, extrapolate=self._guard is not None)
        if self._guard is not None:
            self._guard.check(coefficients)
        return coefficients

    def __call__(self, frame: Frame) -> Frame:
        """One frame: uint8 (H, W, 3) RGB -> uint8 (scale * H, scale * W, 3), a fresh array."""
        return self.render(frame).output

    def render(self, frame: Frame) -> Stamped:
        """One frame, with the generation and the coefficients that it was made with."""
        x = to_network(frame, self.signature)
        self._open()
        with self._swap.frame() as live:
            y = self.engine.infer(live.slot, x)
        return Stamped(from_network(y, frame, self.signature), live.generation, live.value)

    def infer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The raw network: float32 (N, C, H, W) -> float32 (N, C', H', W'), a fresh array.

        No padding and no change of range; H and W must suit the network. Raises UsageError on another type or rank.
        """
        if not isinstance(x, np.ndarray) or x.dtype != np.float32 or x.ndim != 4 or x.size == 0:
            got = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            raise UsageError(f"infer takes a float32 array (N, C, H, W); got {got}.")
        if x.shape[1] != self.signature.input_channels:
            raise UsageError(f"The network takes {self.signature.input_channels} channels, the array has {x.shape[1]}.")
        self._open()
        with self._swap.frame() as live:
            return self.engine.infer(live.slot, np.ascontiguousarray(x))

    def _open(self) -> None:
        if self._closed:
            raise EngineError("The session is closed.")

    def close(self) -> None:
        """Free the engine. No frame may be running. Calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self.engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_session(
    bundle: Bundle | str | os.PathLike[str],
    *,
    engine: str = "auto",
    alpha: Alpha | None = None,
    threads: int = 0,
    slots: int | None = None,
    extrapolate: bool = False,
) -> Session:
    """Open a bundle, load an engine for it and set the first alpha (default: the first member alone).

    engine       "auto" or a name from engines.ENGINES.
    threads      per inference; 0 leaves it to the engine.
    slots        sets of weights: with 2, the next alpha is blended while frames of the last one still run; None: the engine's own number.
    extrapolate  allow shares outside 0 to 1, as far as every BatchNorm variance stays positive.
    Raises UsageError, BundleError, CoefficientsError, EngineError, EnvironmentProblem.
    """
    options = EngineOptions(threads=threads, slots=slots)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    members = opened.members
    first = (
        Coefficients.one_hot(members[0], members)
        if alpha is None
        else Coefficients.parse(alpha, members, extrapolate=extrapolate)
    )
    guard = None
    if extrapolate:
        tensors = [opened.weights(member) for member in members]
        guard = VarianceGuard(tensors, variance_names(opened.weight_names, opened.graph()))
        guard.check(first)
    loaded = load_engine(opened, engine, options)
    try:
        return Session(loaded, members, opened.signature, first, guard=guard)
    except BaseException:
        loaded.close()  # its first refit failed, and nobody else knows of it
        raise
