"""The in-place engine: ONNX Runtime on the CPU with weights that change under the running session.

Each slot has one weight buffer and one session over it; a refit is one blend into the buffer. Memory: (members + slots) times
the weights. Layout and blending are shared by the slots.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.calibration_table import CalibrationTable
from dni_deploy.errors import EngineError
from engines.frame_conversion import HostFrameEngine
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu.blender import Blender
from engines.onnxruntime_cpu.layout import HostWeightBuffer, Layout
from engines.onnxruntime_cpu.runtime import InPlaceSession

log = logging.getLogger(__name__)


class InPlaceEngine(HostFrameEngine):
    """An `Engine` whose refit is a blend into memory that the session reads.

    Attributes:
        optimized: The optimized graph, its weights without data.
        blender: Blends into a weight buffer.
        weight_buffers: One buffer per slot; owned by the engine.

    Thread safety: as `Engine` says.
    """

    name = "onnxruntime"
    update_path = "updated in place, without a copy"

    def __init__(
        self,
        layout: Layout,
        recipes: Recipes,
        members: Sequence[Mapping[str, NDArray[Any]]],
        *,
        threads: int = 0,
        slots: int = 2,
        calibration: CalibrationTable | None = None,
    ) -> None:
        """Copies the members' weights in the layout and opens a session per slot; nothing is verified yet.

        Args:
            layout: The layout of the lowered graph that `recipes` belong to.
            recipes: How each lowered weight is made of the members' tensors.
            members: Each member's weights by name, in the bundle's order.
            threads: Number of intra-op threads; 0 for one per physical core.
            slots: Number of slots.
            calibration: The bundle's calibration, if it has one.

        Raises:
            EngineError: ONNX Runtime cannot open the graph.
        """
        super().__init__()
        self.slots = slots
        self.optimized = layout.optimized
        self.blender = Blender(layout, recipes, members, calibration)
        self.weight_buffers = [HostWeightBuffer(layout) for _ in range(slots)]
        self._sessions = [InPlaceSession(layout.optimized, buffer.views, threads) for buffer in self.weight_buffers]
        self._slot_has_weights = [False] * slots

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Blends into the slot's buffer, as `Engine.refit`."""
        started = time.perf_counter()
        self._slot_has_weights[slot] = False  # until the blend is whole
        self.blender.blend(coefficients, self.weight_buffers[slot].flat)
        self._slot_has_weights[slot] = True
        log.debug("slot %d blended in %.2f ms", slot, 1e3 * (time.perf_counter() - started))

    def synchronize(self, slot: int) -> None:
        """Does nothing: a refit ends before it returns."""

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs the slot's session, as `Engine.infer`."""
        if not self._slot_has_weights[slot]:
            raise EngineError(f"Slot {slot} has no whole set of weights; refit it first.")
        return self._sessions[slot].run(x)

    def invalidate_weights(self) -> None:
        """Marks every slot's weights as undefined, so that it needs a refit: for callers that changed a buffer themselves."""
        self._slot_has_weights = [False] * self.slots

    def close(self) -> None:
        """Closes the sessions, as `Engine.close`."""
        for session in self._sessions:
            session.close()
        self._slot_has_weights = [False] * self.slots
