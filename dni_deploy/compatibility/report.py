"""What a check found, pair by pair, with the sentences to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dni_deploy.checkpoints.family import Difference
from dni_deploy.compatibility.correlation import BatchNormDifference, LayerCorrelation
from dni_deploy.compatibility.midpoint import Barrier, BatchNormMismatch, BlendLoss, Midpoint
from dni_deploy.compatibility.verdict import Cause, Verdict


@dataclass(frozen=True)
class PairReport:
    """One pair.

    Attributes:
        pair: "first - second".
        verdict: The verdict.
        causes: What is behind it, for programs.
        median: Median correlation index over all filters; None where there are none.
        distance: Network distance; None for members of different networks.
        whiteness: Whiteness of the difference; None where nothing differs.
        reasons: A sentence each, as in the whole report.
        advice: A sentence each, as in the whole report.
        loss: PSNRs of both ends, of the blend halfway and of pixel blending; None where the right image is not known.
    """

    pair: str
    verdict: Verdict
    causes: tuple[Cause, ...]
    median: float | None
    distance: float | None
    whiteness: float | None
    reasons: tuple[str, ...]
    advice: tuple[str, ...]
    loss: BlendLoss | None = None


@dataclass(frozen=True)
class PathReport:
    """The way from one member to the next, on which two neighbors at a time are blended.

    Attributes:
        members: In the order of the shortest path through all of them.
        pairs: The names of the neighboring pairs, in this order.
        weak_link: The neighboring pair with the worst verdict; of several, the one that loses most or is farthest apart.
        verdict: The weak link's.
    """

    members: tuple[str, ...]
    pairs: tuple[str, ...]
    weak_link: str
    verdict: Verdict


@dataclass(frozen=True)
class ArchitectureMismatch:
    """A member that is of another network than the family's first.

    Attributes:
        first: The first member.
        member: This member.
        count: Number of tensors that differ.
        differences: Some of those.
    """

    first: str
    member: str
    count: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        verdict: The worst of the pairs'.
        members: All members; those of another network last.
        architecture: The network's name; None where it is not known or was not run.
        median: Median index over all filters of the worst pair; None where there is no filter.
        reasons: Why, a sentence each.
        advice: What to do about it, a sentence each.
        notes: What was left out or chosen, a sentence each.
        pairs: Each pair's own verdict.
        compared: The members of one network.
        distances: The network distance of any two members, a row for each, in the order of `compared`.
        order: The members along the shortest path through all of them: neighbors are the nearest to blend.
        path: That way and its weak link; None for two members.
        layers: The correlation index, a row for each pair and layer.
        drifts: Running statistics of the members, a row for each pair and BatchNorm.
        midpoints: The blend halfway, a row for each pair and test image.
        barriers: The loss barrier, a row for each pair and test image.
        norms: The statistics of the blend halfway, a row for each pair and BatchNorm.
        calibration: Of a calibrated bundle, as `inspect` describes it; None without.
        mismatches: Members of another network than the first; they are in no other figure.
        obstacle: Why nothing was run, and how that is changed, as in `reasons`; None where the network ran.
        report: The file that was written; None without.
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
    path: PathReport | None = None
    layers: tuple[LayerCorrelation, ...] = ()
    drifts: tuple[BatchNormDifference, ...] = ()
    midpoints: tuple[Midpoint, ...] = ()
    barriers: tuple[Barrier, ...] = ()
    norms: tuple[BatchNormMismatch, ...] = ()
    calibration: dict[str, Any] | None = None
    mismatches: tuple[ArchitectureMismatch, ...] = ()
    obstacle: str | None = None
    report: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns all fields as JSON values, with the figures that are computed from them."""
        fields = asdict(self)
        for fields_of_layer, layer in zip(fields["layers"], self.layers, strict=True):
            fields_of_layer["median"] = layer.median
        for fields_of_barrier, barrier in zip(fields["barriers"], self.barriers, strict=True):
            fields_of_barrier.update(
                barrier=barrier.barrier,
                decibels=barrier.decibels,
                beyond=barrier.beyond,
                pixel_blend_beyond=barrier.pixel_blend_beyond,
            )
        for fields_of_pair, pair in zip(fields["pairs"], self.pairs, strict=True):
            if pair.loss is not None:
                fields_of_pair["loss"].update(loss=pair.loss.loss, pixel_blend_loss=pair.loss.pixel_blend_loss)
        return fields
