"""BatchNorm's running variances, which must stay positive when alpha leaves 0 to 1.

Inside 0 to 1 a blend of positive variances is positive. Outside it one may turn negative, and the network would take the
square root of it: NaN, or noise where the variance is nearly 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import CoefficientsError, MismatchError, escape_name

RUNNING_VAR_SUFFIX = "running_var"
CLOSER_TO_CONVEX_ADVICE = "Bring the shares closer to 0 to 1."


def list_variance_names(names: Iterable[str], graph: ModelProto | None = None) -> tuple[str, ...]:
    """Lists which of the names are variances: by PyTorch's key, or as the fifth input of a BatchNormalization in the graph."""
    fifth = {node.input[4] for node in (graph.graph.node if graph else ()) if _has_variance(node)}
    return tuple(name for name in names if name.rpartition(".")[2] == RUNNING_VAR_SUFFIX or name in fifth)


def _has_variance(node: NodeProto) -> bool:
    return node.op_type == "BatchNormalization" and len(node.input) > 4


def compute_safe_interval(variances: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Computes the open interval of alpha in which every variance of two members stays positive.

    Channels in which both members have 0 are left out: they are 0 at every alpha.

    Args:
        variances: Two arrays of one shape, first and second member; alpha is the first one's coefficient (Eq. 1).

    Returns:
        The ends; the interval contains 0 to 1 where all variances are positive, an end is infinite where no channel limits it.

    Raises:
        MismatchError: There are not two arrays.
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

    Holds one float64 (N, channels) copy of the variances; `check` costs nothing unless a coefficient lies outside 0 to 1.

    Thread safety: it does not change; any thread may use it.
    """

    def __init__(self, members: Sequence[Mapping[str, NDArray[Any]]], names: Iterable[str]) -> None:
        """Copies the variances.

        Args:
            members: Each one's tensors by name, in family order.
            names: The variances among them (`list_variance_names`).
        """
        self._names = tuple(names)
        self._sizes = [members[0][name].size for name in self._names]
        rows = [np.concatenate([np.zeros(0), *(tensors[name].ravel() for name in self._names)]) for tensors in members]
        self._rows = np.stack(rows).astype(np.float64)
        self._always_zero = (self._rows == 0).all(axis=0)

    def compute_safe_interval(self) -> tuple[float, float] | None:
        """Computes the open interval of safe alphas for two members; None for more."""
        return compute_safe_interval(list(self._rows)) if len(self._rows) == 2 else None

    def check(self, coefficients: Coefficients) -> None:
        """Checks coefficients that hold for all weights.

        Raises:
            CoefficientsError: A variance would not be positive; names tensor and channel and, for two members, the safe alphas.
        """
        if all(0.0 <= share <= 1.0 for share in coefficients.values) or not self._names:
            return
        self._require_positive(coefficients.to_array() @ self._rows, f"At {coefficients}", self._format_advice(coefficients))

    def check_per_tensor(self, coefficients: Mapping[str, NDArray[np.float64]], base: Coefficients) -> None:
        """Checks coefficients that differ from weight to weight.

        Args:
            coefficients: float64 (N,) by name, those of the variances among them.
            base: The alpha of all other weights, for the message.

        Raises:
            CoefficientsError: A variance would not be positive.
        """
        rows = np.array([coefficients[name] for name in self._names]).reshape(len(self._names), len(self._rows))
        if ((rows >= 0) & (rows <= 1)).all():
            return
        columns = np.repeat(rows, self._sizes, axis=0).T
        self._require_positive((columns * self._rows).sum(axis=0), f"At {base} and these rules", CLOSER_TO_CONVEX_ADVICE)

    def _require_positive(self, variances: NDArray[np.float64], where: str, advice: str) -> None:
        columns = np.flatnonzero((variances <= 0) & ~self._always_zero)
        if not len(columns):
            return
        worst = int(columns[np.argmin(variances[columns])])
        ends = np.cumsum(self._sizes)
        tensor = int(np.searchsorted(ends, worst, side="right"))
        raise CoefficientsError(
            f"{where} the BatchNorm variance {escape_name(self._names[tensor])!r}, channel "
            f"{worst - ends[tensor] + self._sizes[tensor]}, would be {variances[worst]:.3g} "
            f"({len(columns)} in all are not positive). {advice}"
        )

    def _format_advice(self, coefficients: Coefficients) -> str:
        interval = self.compute_safe_interval()
        if interval is None:
            return CLOSER_TO_CONVEX_ADVICE
        low, high = _format_inward(interval[0], math.ceil), _format_inward(interval[1], math.floor)
        return f"All stay positive for a share of {escape_name(coefficients.members[0])!r} between {low} and {high}."


def _format_inward(end: float, round_function: Callable[[float], int]) -> str:
    """Four decimals, rounded so that the printed end is itself safe."""
    return f"{round_function(end * 1e4) / 1e4:.4f}" if math.isfinite(end) else ("-" if end < 0 else "") + "infinity"
