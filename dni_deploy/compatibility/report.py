"""Check report: what a check found, pair by pair, and the sentences to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dni_deploy.checkpoints.family import Difference
from dni_deploy.compatibility.correlation import BatchNormDifference, LayerCorrelation
from dni_deploy.compatibility.midpoint import Barrier, BatchNormMismatch, Midpoint
from dni_deploy.compatibility.verdict import Cause, Verdict


@dataclass(frozen=True)
class PairReport:
    """One pair: its verdict and causes, the median index over all filters, the network distance, the whiteness of the difference.

    reasons, advice   a sentence each, as they are in the whole report.
    """

    pair: str
    verdict: Verdict
    causes: tuple[Cause, ...]
    median: float | None
    distance: float | None
    whiteness: float | None
    reasons: tuple[str, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class ArchitectureMismatch:
    """A member that is of another network than the family's first: how many tensors differ, and some of those."""

    first: str
    member: str
    count: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class CheckReport:
    """What was found.

    verdict    the worst of the pairs'.
    reasons    why, a sentence each; advice   what to do about it; notes   what was left out or chosen.
    median     of the index over all filters of the worst pair; None where there is no filter.
    pairs      each pair's own verdict.
    distances  the network distance of any two members, a row for each, in the order of `compared`.
    order      the members along the shortest way through all of them: neighbours are the nearest to blend.
    layers, drifts, midpoints, barriers, norms   the figures behind it, a row for each pair and layer or probe.
    recalibration  of a bundle whose BatchNorm statistics were re-estimated, as `inspect` tells it; None without.
    misfits    members of another network than the first; they are in no other figure.
    report     the file that was written, or None.
    """

    verdict: Verdict
    members: tuple[str, ...]
    architecture: str | None
    median: float | None
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    notes: tuple[str, ...]
    pairs: tuple[PairReport, ...] = ()
    compared: tuple[str, ...] = ()
    distances: tuple[tuple[float, ...], ...] = ()
    order: tuple[str, ...] = ()
    layers: tuple[LayerCorrelation, ...] = ()
    drifts: tuple[BatchNormDifference, ...] = ()
    midpoints: tuple[Midpoint, ...] = ()
    barriers: tuple[Barrier, ...] = ()
    norms: tuple[BatchNormMismatch, ...] = ()
    recalibration: dict[str, Any] | None = None
    mismatches: tuple[ArchitectureMismatch, ...] = ()
    report: str | None = None

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        for row, layer in zip(fields["layers"], self.layers, strict=True):
            row["median"] = layer.median
        for row, found in zip(fields["barriers"], self.barriers, strict=True):
            row.update(barrier=found.barrier, decibels=found.decibels, beyond=found.beyond)
        return fields
