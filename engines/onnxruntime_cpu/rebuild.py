"""An engine that opens a new ONNX Runtime session for every alpha: what a graph falls back to that cannot be refitted in place.

It is also what other tools do for each new value, so the benchmark runs it as a row of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dni_deploy.blending.calibration_table import CalibrationTable
from dni_deploy.errors import EngineError
from dni_deploy.utils.onnxruntime_library import ort
from engines import ort_session
from engines.frame_conversion import HostFrameEngine
from engines.interface import REASON_REQUESTED

log = logging.getLogger(__name__)


class RebuildEngine(HostFrameEngine):
    """An `Engine` that is always right and slow to refit.

    Thread safety: as `Engine` says.
    """

    name = "onnxruntime-rebuild"

    def __init__(
        self,
        graph: onnx.ModelProto,
        members: Sequence[Mapping[str, NDArray[Any]]],
        *,
        threads: int = 0,
        slots: int = 2,
        reason: str = REASON_REQUESTED,
        calibration: CalibrationTable | None = None,
    ) -> None:
        """Keeps the arguments; nothing is opened before the first refit.

        Args:
            graph: The bundle's graph; referenced, not changed.
            members: Each member's weights by name, in the bundle's order; referenced, not changed.
            threads: Number of intra-op threads; 0 for one per physical core.
            slots: Number of slots.
            reason: Why this engine is used, for `update_path`.
            calibration: The bundle's calibration, if it has one.
        """
        super().__init__()
        self.slots = slots
        self.update_path = f"a new session for every alpha ({reason})"
        self._graph, self._members, self._threads, self._table = graph, members, threads, calibration
        self._sessions: list[ort.InferenceSession | None] = [None] * slots

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Opens a session with the blended weights, as `Engine.refit`."""
        started = time.perf_counter()
        self._sessions[slot] = None
        self._sessions[slot] = ort_session.open_blended_session(
            self._graph, self._members, coefficients, self._table, self._threads, stop_spinning=True
        )
        log.debug("slot %d rebuilt in %.2f ms", slot, 1e3 * (time.perf_counter() - started))

    def synchronize(self, slot: int) -> None:
        """Does nothing: a refit ends before it returns."""

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs the slot's session, as `Engine.infer`."""
        session = self._sessions[slot]
        if session is None:
            raise EngineError(f"Slot {slot} has no whole set of weights; refit it first.")
        return ort_session.run_session(session, x)

    def close(self) -> None:
        """Drops the sessions, as `Engine.close`."""
        self._sessions = [None] * self.slots
