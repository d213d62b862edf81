"""Shares: coefficients as engines take them, one row for all weights or a row for each (see Engine.refit)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, UsageError


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
        raise EngineError(f"{len(row)} shares, {np.count_nonzero(row)} of them not 0, for {members} members.")
