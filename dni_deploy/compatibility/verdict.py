"""Verdict: whether two members blend, from everything that was measured of them, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from dni_deploy.compatibility.correlation import MAX_UNRELATED_INDEX, MIN_BLENDING_INDEX, LayerCorrelation
from dni_deploy.compatibility.distance import MAX_WHITENESS
from dni_deploy.compatibility.midpoint import Barrier, BatchNormMismatch, Midpoint, average_midpoints

Verdict = Literal["blends well", "blends with caveats", "will not blend"]
VERDICTS: tuple[Verdict, ...] = ("blends well", "blends with caveats", "will not blend")
Cause = Literal["apart", "permuted", "flipped", "scale", "noise", "collapse", "barrier", "drift", "other network"]

MIN_CAUSE_FRACTION = 0.05
"""Share of all filters that must be flipped, or out of order, to be called the cause."""
NORM_RATIO_RANGE = (0.5, 2.0)
"""Norms of one member's filters over the other's, outside of which the two are on different scales."""
MIN_NOISY_DISTANCE = 0.1
"""Network distance from which noise between the members counts: about a tenth of the weights' own size."""

RECALIBRATE_ADVICE = "Re-estimate BatchNorm's statistics on pictures (recalibration): export, then dni-deploy build BUNDLE --recalibrate PICTURES."
RECALIBRATE_AGAIN_ADVICE = (
    "The re-estimated statistics do not fit these pictures: estimate them on pictures like these, or at more alphas: dni-deploy build "
    "BUNDLE --recalibrate PICTURES --knots 32 --force."
)


@dataclass(frozen=True)
class PairEvidence:
    """What was measured of one pair.

    median     of the index over all filters, None where there is none; distance   of the networks; whiteness   of the difference.
    middles, barriers   by probe, empty where nothing ran; norms   each BatchNorm halfway.
    recalibrated   whether the network has statistics that were re-estimated for its blends.
    """

    layers: Sequence[LayerCorrelation] = ()
    median: float | None = None
    distance: float = 0.0
    whiteness: float | None = None
    midpoints: Sequence[Midpoint] = ()
    barriers: Sequence[Barrier] = ()
    norm_mismatches: Sequence[BatchNormMismatch] = ()
    is_recalibrated: bool = False


@dataclass(frozen=True)
class PairJudgment:
    """The verdict on one pair, what is behind it in words for programs, and sentences for people."""

    verdict: Verdict
    causes: tuple[Cause, ...] = ()
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


@dataclass
class _Findings:
    causes: list[Cause] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    worst_level: int = 0

    def add(self, level: int, cause: Cause | None, reason: str | None, advice: str | None = None) -> None:
        self.worst_level = max(self.worst_level, level)
        if cause is not None and cause not in self.causes:
            self.causes.append(cause)
        self.reasons += [reason] if reason else []
        self.advice += [advice] if advice else []


def judge_pair(pair: str, evidence: PairEvidence) -> PairJudgment:
    """The verdict on one pair.

    "will not blend": the median index is below 0.1; or the picture halfway collapses; or halfway the error is twice that of the worse
    end; or filters are out of order or turned, and the picture halfway shows it.
    "blends with caveats": a layer's median index is below 0.689, or the middle leaves what is between the ends, or there is a hill
    between them, or their scales differ, or the difference is noise, or there are no filters to compare. Else "blends well".
    """
    found = _Findings()
    middle = average_midpoints(evidence.midpoints) if evidence.midpoints else None
    astray = middle is None or middle.is_outside_ends or middle.is_collapsed
    _judge_filters(pair, evidence, found, astray)
    if middle is not None:
        _judge_midpoint(pair, middle, found)
    if evidence.barriers:
        _judge_barriers(pair, evidence.barriers, found)
    _judge_norms(pair, evidence.norm_mismatches, evidence.is_recalibrated, found)
    strangers = set(found.causes) & {"apart", "permuted", "flipped"}  # between those, every difference is noise
    white = evidence.whiteness is not None and evidence.whiteness < MAX_WHITENESS and not strangers
    if white and (evidence.distance > MIN_NOISY_DISTANCE or found.worst_level):
        found.add(
            1,
            "noise",
            f"{pair}: the difference between the members has no structure ({evidence.whiteness:.2f}; noise has 1, training leaves more).",
            "One of the members looks damaged, or never trained: run each alone before blending them.",
        )
    return PairJudgment(
        VERDICTS[found.worst_level], tuple(found.causes), tuple(found.reasons), tuple(dict.fromkeys(found.advice))
    )


def _judge_filters(pair: str, evidence: PairEvidence, findings: _Findings, is_midpoint_off: bool) -> None:
    rows, median = evidence.layers, evidence.median
    told = [(row, row.median) for row in rows if row.median is not None]
    if median is None or not told:
        findings.add(1, None, f"{pair}: no layer has filters that could be compared.")
        return
    low = sorted(((middle, row) for row, middle in told if middle < MIN_BLENDING_INDEX), key=lambda item: item[0])
    if median < MAX_UNRELATED_INDEX:
        findings.add(
            2,
            None,
            f"{pair}: the median correlation of all filters is {median:.3f}, below the 0.1 where unrelated networks lie.",
        )
    elif median < MIN_BLENDING_INDEX:
        findings.add(
            1, None, f"{pair}: the median correlation of all filters is {median:.3f}, above the 0.1 of unrelated networks."
        )
    else:
        findings.add(
            0,
            None,
            f"{pair}: the median correlation of all filters is {median:.3f}, at or above the 0.689 of families that blend.",
        )
    if low:
        worst = ", ".join(f"{row.layer} {middle:.3f}" for middle, row in low[:3])
        findings.add(1, None, f"{pair}: {len(low)} of {len(told)} layers have a median below 0.689; lowest: {worst}.")
    count = sum(row.filters for row, _ in told)
    flipped, moved = sum(row.flipped for row, _ in told), sum(row.filters for row, _ in told if row.is_reordered)
    wrong = 2 if is_midpoint_off else 1
    if flipped > MIN_CAUSE_FRACTION * count:
        findings.add(
            wrong,
            "flipped",
            f"{pair}: {flipped} of {count} filters are those of the other member with the sign turned; halfway they cancel.",
            "Turn the signs back (with those of the BatchNorm or layer behind them), or fine-tune one member from the other.",
        )
    elif moved > MIN_CAUSE_FRACTION * count:
        names = [row.layer for row, _ in told if row.is_reordered]
        findings.add(
            wrong,
            "permuted",
            f"{pair}: the channels are permuted: in {len(names)} layers ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}) "
            f"the filters match in another order, with a median of {_aligned_median(rows):.3f} instead of {median:.3f}.",
            "Bring one member's channels into the other's order (Git Re-Basin), or fine-tune one member from the other.",
        )
    elif median < MAX_UNRELATED_INDEX:
        findings.add(
            2,
            "apart",
            None,
            "Fine-tune one member from the other, or all from one ancestor: networks trained apart order their filters apart.",
        )
    elif low:
        findings.add(
            1,
            None,
            None,
            "Look at a sweep before relying on it; fine-tuning for fewer steps, or at a lower rate, keeps layers alike.",
        )
    unlike = [row for row, _ in told if not NORM_RATIO_RANGE[0] <= row.scale <= NORM_RATIO_RANGE[1]]
    if unlike and median >= MAX_UNRELATED_INDEX:
        row = max(unlike, key=lambda row: abs(np.log(row.scale)))
        findings.add(
            1,
            "scale",
            f"{pair}: {len(unlike)} of {len(told)} layers are on another scale; {row.layer}: {row.scale:.3g} times the first member's.",
            "Bring the layers to one scale before blending (what one layer is divided by, the next is multiplied with).",
        )


def _aligned_median(layers: Sequence[LayerCorrelation]) -> float:
    return float(np.median([row.aligned_median for row in layers if row.is_reordered and row.aligned_median is not None]))


def _judge_midpoint(pair: str, midpoint: Midpoint, findings: _Findings) -> None:
    if not midpoint.finite:
        findings.add(2, "collapse", f"{pair}: halfway, or at an end, the output has NaN or infinite numbers.")
        return
    state = "collapses" if midpoint.is_collapsed else "leaves what is between the ends" if midpoint.is_outside_ends else "holds"
    sentence = (
        f"{pair}: halfway the picture {state}: it is {midpoint.error:.3f} of its contrast away from the mean of the ends, "
        f"{_format_brightness(midpoint.brightness)}, contrast {midpoint.contrast:.2f} of theirs."
    )
    if midpoint.is_collapsed:
        advice = None
        if not set(findings.causes) & {"apart", "permuted", "flipped"}:
            advice = "The picture is lost halfway: fine-tune in smaller steps from one ancestor, or train the members jointly."
        findings.add(2, "collapse", sentence, advice)
    elif midpoint.is_outside_ends:
        findings.add(1, None, sentence, "Look at a sweep: the middle is not between the ends.")
    else:
        findings.add(0, None, sentence)


def _format_brightness(brightness: float) -> str:
    if abs(brightness) < 0.0005:
        return "as bright as they"
    return f"{'darker' if brightness < 0 else 'brighter'} by {abs(brightness) * 100:.1f} % of the range"


def _judge_barriers(pair: str, barriers: Sequence[Barrier], findings: _Findings) -> None:
    decibels, beyond = (float(np.median([getattr(row, name) for row in barriers])) for name in ("decibels", "beyond"))
    side = "above" if decibels > 0 else "below"
    where = barriers[0].test_image if len(barriers) == 1 else f"{len(barriers)} probes"
    sentence = (
        f"{pair}: loss barrier on {where}: halfway the error is {abs(decibels):.2f} dB {side} the mean of the ends' errors."
    )
    if all(row.is_blocking for row in barriers):
        sentence = f"{pair}: loss barrier on {where}: halfway the error is {beyond:.2f} dB above that of the worse end."
        findings.add(2, "barrier", sentence)
    elif all(row.is_barrier for row in barriers):
        findings.add(1, "barrier", sentence, "Look at a sweep: halfway the result is worse than at the ends.")
    else:
        findings.add(0, None, sentence)


def _judge_norms(pair: str, mismatches: Sequence[BatchNormMismatch], is_recalibrated: bool, findings: _Findings) -> None:
    drifted = [row for row in mismatches if row.has_drifted]
    if not drifted or set(findings.causes) & {"apart", "permuted", "flipped"}:
        return
    row = max(drifted, key=lambda row: abs(np.log(max(row.variance, 1e-12))))
    which = "re-estimated statistics" if is_recalibrated else "statistics"
    findings.add(
        0,
        "drift",
        f"{pair}: in {len(drifted)} of {len(mismatches)} BatchNorms the blend's activations are not what its {which} say; "
        f"{row.layer}: {row.variance:.2f} of the variance.",
        RECALIBRATE_AGAIN_ADVICE if is_recalibrated else RECALIBRATE_ADVICE,
    )
