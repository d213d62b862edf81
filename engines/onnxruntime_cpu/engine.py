"""InPlaceEngine: ONNX Runtime on the CPU with weights that change under the running session.

Per slot one arena and one live session over it; a refit is one blend into the arena. Memory: (members + slots) times the
weights. Layout and blending are shared by the slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import BatchNormTable
from dni_deploy.errors import EngineError
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu.blender import Blender
from engines.onnxruntime_cpu.layout import HostWeightBuffer, Layout
from engines.onnxruntime_cpu.runtime import InPlaceSession


class InPlaceEngine:
    """An Engine (see engines/interface.py) whose refit is a blend into memory that the session reads."""

    name = "onnxruntime"
    update_path = "in place: the blend goes straight into the running session's weights"

    def __init__(
        self,
        layout: Layout,
        recipes: Recipes,
        members: Sequence[Mapping[str, NDArray[Any]]],
        *,
        threads: int = 0,
        slots: int = 2,
        recalibration: BatchNormTable | None = None,
    ) -> None:
        self.slots = slots
        self.layout = layout
        self.blender = Blender(layout, recipes, members, recalibration)
        self.weight_buffers = [HostWeightBuffer(layout) for _ in range(slots)]
        self._sessions = [InPlaceSession(layout.optimized, arena.views, threads) for arena in self.weight_buffers]
        self._slot_has_weights = [False] * slots

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        self._slot_has_weights[slot] = False  # until the blend is whole
        self.blender.blend(coefficients, self.weight_buffers[slot].flat)
        self._slot_has_weights[slot] = True

    def synchronize(self, slot: int) -> None:
        pass

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._slot_has_weights[slot]:
            raise EngineError(f"Slot {slot} has no whole set of weights; refit it first.")
        return self._sessions[slot].run(x)

    def invalidate_weights(self) -> None:
        """Say that the weights have been tampered with: every slot needs a refit."""
        self._slot_has_weights = [False] * self.slots

    def close(self) -> None:
        for session in self._sessions:
            session.close()
        self._slot_has_weights = [False] * self.slots
