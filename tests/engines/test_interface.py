"""Coefficients: one row for all weights or one per weight; engines with a single alpha refuse different rows."""

from __future__ import annotations

import numpy as np
import pytest

from dni_deploy.errors import UsageError
from engines.interface import require_single_row, single_row_or_none

ROW = np.array([0.25, 0.75])


def test_equal_rows_are_collapsed_to_one() -> None:
    assert single_row_or_none(ROW) is ROW
    assert np.array_equal(require_single_row(np.tile(ROW, (5, 1)), "any"), ROW)


def test_different_rows_are_refused_where_one_alpha_is_required() -> None:
    rows = np.array([[0.25, 0.75], [0.25, 0.75], [0.5, 0.5]])
    assert single_row_or_none(rows) is None
    with pytest.raises(UsageError, match="The engine onnxruntime-graph has one alpha for all weights"):
        require_single_row(rows, "onnxruntime-graph")
