"""Variance: BatchNorm's running variances, which must stay positive when alpha leaves 0 to 1.

Inside 0 to 1 a blend of positive variances is positive. Outside it one may turn negative, and the network would take the
square root of it: NaN, or noise where the variance is nearly 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import CoefficientsError, MismatchError, escape_name

RUNNING_VAR_SUFFIX = "running_var"


def list_variance_names(names: Iterable[str], graph: ModelProto | None = None) -> tuple[str, ...]:
    """Those of the names that are variances: by PyTorch's key, or as the fifth input of a BatchNormalization in the graph."""
    fifth = set() if graph is None else {node.input[4] for node in graph.graph.node if _has_variance(node)}
    return tuple(
        name for name in names if name == RUNNING_VAR_SUFFIX or name.endswith("." + RUNNING_VAR_SUFFIX) or name in fifth
    )


def _has_variance(node: Any) -> bool:
    return node.op_type == "BatchNormalization" and len(node.input) > 4


def compute_safe_interval(variances: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """The open interval of alpha in which every variance of two members stays positive.

    variances  two arrays of one shape, first and second member; alpha is the first one's share (Eq. 1).
    Contains 0 to 1 where all variances are positive; infinite where no channel sets an end. Channels in which both members
    have 0 are left out: they are 0 at every alpha. Raises MismatchError if there are not two.
    """
    if len(variances) != 2:
        raise MismatchError(f"A safe interval is for two members, not for {len(variances)}.")
    first, second = (np.asarray(values, np.float64).ravel() for values in variances)
    slope = first - second
    low = np.divide(-second, slope, out=np.full(slope.shape, -np.inf), where=slope > 0)
    high = np.divide(-second, slope, out=np.full(slope.shape, np.inf), where=slope < 0)
    return float(low.max(initial=-np.inf)), float(high.min(initial=np.inf))


class VarianceGuard:
    """Refuses coefficients that would make a variance 0 or negative.

    Holds one float64 (N, channels) copy of the variances; `check` costs nothing unless a share lies outside 0 to 1.
    """

    def __init__(self, members: Sequence[Mapping[str, NDArray[Any]]], names: Iterable[str]) -> None:
        """members: each one's tensors by name, in family order; names: the variances among them (`list_variance_names`)."""
        self._names = tuple(names)
        self._sizes = [members[0][name].size for name in self._names]
        rows = [np.concatenate([np.zeros(0), *(tensors[name].ravel() for name in self._names)]) for tensors in members]
        self._rows = np.stack(rows).astype(np.float64)
        self._always_zero = (self._rows == 0).all(axis=0)

    def compute_safe_interval(self) -> tuple[float, float] | None:
        """The safe alphas, for two members; else None."""
        return compute_safe_interval(list(self._rows)) if len(self._rows) == 2 else None

    def check(self, coefficients: Coefficients) -> None:
        """Raises CoefficientsError naming tensor and channel and, for two members, the alphas that are safe."""
        if all(0.0 <= share <= 1.0 for share in coefficients.values) or not self._names:
            return
        self._require_positive(coefficients.to_array() @ self._rows, f"At {coefficients}", self._format_advice(coefficients))

    def check_per_tensor(self, coefficients: Mapping[str, NDArray[np.float64]], base: Coefficients) -> None:
        """The same where each weight has shares of its own: float64 (N,) by name, those of the variances among them."""
        own = np.array([coefficients[name] for name in self._names]).reshape(len(self._names), len(self._rows))
        if ((own >= 0) & (own <= 1)).all():
            return
        shares = np.repeat(own, self._sizes, axis=0)
        self._require_positive(
            (shares.T * self._rows).sum(axis=0), f"At {base} and these rules", "Bring the shares closer to 0 to 1."
        )

    def _require_positive(self, variances: NDArray[np.float64], where: str, advice: str) -> None:
        bad = np.flatnonzero((variances <= 0) & ~self._always_zero)
        if not len(bad):
            return
        worst = int(bad[np.argmin(variances[bad])])
        name, channel = self._locate_column(worst)
        raise CoefficientsError(
            f"{where} the BatchNorm variance {escape_name(name)!r}, channel {channel}, would be {variances[worst]:.3g} "
            f"({len(bad)} in all are not positive). {advice}"
        )

    def _locate_column(self, column: int) -> tuple[str, int]:
        for name, size in zip(self._names, self._sizes, strict=True):
            if column < size:
                return name, column
            column -= size
        raise IndexError(column)

    def _format_advice(self, coefficients: Coefficients) -> str:
        interval = self.compute_safe_interval()
        if interval is None:
            return "Bring the shares closer to 0 to 1."
        low, high = (_format_inward(interval[0], math.ceil), _format_inward(interval[1], math.floor))
        return f"All stay positive for a share of {escape_name(coefficients.members[0])!r} between {low} and {high}."


def _format_inward(end: float, round_function: Any) -> str:
    """Four decimals, rounded so that the printed end is itself safe."""
    return f"{round_function(end * 1e4) / 1e4:.4f}" if math.isfinite(end) else ("-" if end < 0 else "") + "infinity"
