"""The controls' values beside an alpha, as coefficients of their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dni_deploy.network_controls import Control, ControlValues, check_values


@dataclass(frozen=True)
class ControlSettings:
    """A value for each control of one bundle.

    Attributes:
        controls: The controls of the network.
        values: Their values, in the same order.
        positions: Of their tensors in the bundle's `weight_names`.
        weight_count: Number of the bundle's weights, W.
    """

    controls: tuple[Control, ...]
    values: tuple[float, ...]
    positions: tuple[int, ...]
    weight_count: int

    @classmethod
    def make_default(cls, controls: Sequence[Control], weight_names: Sequence[str]) -> ControlSettings:
        """Makes the settings at which every control has its default.

        Args:
            controls: The controls of the network.
            weight_names: Of the bundle.
        """
        positions = tuple(list(weight_names).index(control.weight_name) for control in controls)
        return cls(tuple(controls), tuple(control.default for control in controls), positions, len(weight_names))

    def change(self, values: ControlValues) -> ControlSettings:
        """Returns the settings with other values for some of the controls.

        Raises:
            UsageError: A name is no control's, or a value is no number in its range.
        """
        checked = check_values(self.controls, values)
        pairs = zip(self.controls, self.values, strict=True)
        return replace(self, values=tuple(checked.get(control.name, value) for control, value in pairs))

    def to_dict(self) -> dict[str, float]:
        """Returns the values by name."""
        return {control.name: value for control, value in zip(self.controls, self.values, strict=True)}

    def apply(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Adds the coefficients of the controls' tensors to those of the other weights.

        Args:
            coefficients: float64 (N,), or (W, N) by rules; not changed.

        Returns:
            float64 (W, N); or `coefficients` where every control has its default, which every member has stored.
        """
        if all(value == control.default for control, value in zip(self.controls, self.values, strict=True)):
            return coefficients  # rules may select a control's tensor, too: shares that sum to 1 keep its number
        rows = np.tile(coefficients, (self.weight_count, 1)) if coefficients.ndim == 1 else coefficients.copy()
        for position, control, value in zip(self.positions, self.controls, self.values, strict=True):
            coefficient = control.compute_coefficient(value)
            rows[position] = 0.0
            rows[position, :2] = (coefficient, 0.0) if coefficient else (1.0, -1.0)  # engines refuse a row of zeros
        return rows


NO_CONTROLS = ControlSettings((), (), (), 0)
"""Of a network that takes nothing beside the image."""
