"""Verdict: whether two members blend, from everything that was measured of them, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from dni_deploy.compatibility.agreement import LayerIndex
from dni_deploy.compatibility.barrier import Barrier
from dni_deploy.compatibility.correlation import BLENDS, UNRELATED
from dni_deploy.compatibility.midpoint import Midpoint, together
from dni_deploy.compatibility.norm_drift import NormDrift
from dni_deploy.compatibility.whiteness import WHITE

Verdict = Literal["blends well", "blends with care", "will not blend"]
ORDER: tuple[Verdict, ...] = ("blends well", "blends with care", "will not blend")
Cause = Literal["apart", "permuted", "flipped", "scale", "noise", "collapse", "barrier", "drift", "other network"]

SOME = 0.05
"""Share of all filters that must be flipped, or out of order, to be called the cause."""
SCALES = (0.5, 2.0)
"""Norms of one member's filters over the other's, outside of which the two are on different scales."""
NOISY = 0.1
"""Network distance from which noise between the members counts: about a tenth of the weights' own size."""

RECALIBRATE = "Re-estimate BatchNorm's statistics on pictures (recalibration): export, then dni-deploy build BUNDLE --recalibrate PICTURES."
AGAIN = (
    "The re-estimated statistics do not fit these pictures: estimate them on pictures like these, or at more alphas: dni-deploy build "
    "BUNDLE --recalibrate PICTURES --knots 32 --force."
)


@dataclass(frozen=True)
class Evidence:
    """What was measured of one pair.

    median     of the index over all filters, None where there is none; distance   of the networks; whiteness   of the difference.
    middles, barriers   by probe, empty where nothing ran; norms   each BatchNorm halfway.
    recalibrated   whether the network has statistics that were re-estimated for its blends.
    """

    rows: Sequence[LayerIndex] = ()
    median: float | None = None
    distance: float = 0.0
    whiteness: float | None = None
    middles: Sequence[Midpoint] = ()
    barriers: Sequence[Barrier] = ()
    norms: Sequence[NormDrift] = ()
    recalibrated: bool = False


@dataclass(frozen=True)
class Judgement:
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
    worst: int = 0

    def add(self, level: int, cause: Cause | None, reason: str | None, advice: str | None = None) -> None:
        self.worst = max(self.worst, level)
        if cause is not None and cause not in self.causes:
            self.causes.append(cause)
        self.reasons += [reason] if reason else []
        self.advice += [advice] if advice else []


def judge(pair: str, evidence: Evidence) -> Judgement:
    """The verdict on one pair.

    "will not blend": the median index is below 0.1; or the picture halfway collapses; or halfway the error is twice that of the worse
    end; or filters are out of order or turned, and the picture halfway shows it.
    "blends with care": a layer's median index is below 0.689, or the middle leaves what is between the ends, or there is a hill
    between them, or their scales differ, or the difference is noise, or there are no filters to compare. Else "blends well".
    """
    found = _Findings()
    middle = together(evidence.middles) if evidence.middles else None
    astray = middle is None or middle.departed or middle.collapsed
    _filters(pair, evidence, found, astray)
    if middle is not None:
        _halfway(pair, middle, found)
    if evidence.barriers:
        _barriers(pair, evidence.barriers, found)
    _norms(pair, evidence.norms, evidence.recalibrated, found)
    strangers = set(found.causes) & {"apart", "permuted", "flipped"}  # between those, every difference is noise
    white = evidence.whiteness is not None and evidence.whiteness < WHITE and not strangers
    if white and (evidence.distance > NOISY or found.worst):
        found.add(
            1,
            "noise",
            f"{pair}: the difference between the members has no structure ({evidence.whiteness:.2f}; noise has 1, training leaves more).",
            "One of the members looks damaged, or never trained: run each alone before blending them.",
        )
    return Judgement(ORDER[found.worst], tuple(found.causes), tuple(found.reasons), tuple(dict.fromkeys(found.advice)))


def _filters(pair: str, evidence: Evidence, found: _Findings, astray: bool) -> None:
    rows, median = evidence.rows, evidence.median
    told = [(row, row.median) for row in rows if row.median is not None]
    if median is None or not told:
        found.add(1, None, f"{pair}: no layer has filters that could be compared.")
        return
    low = sorted(((middle, row) for row, middle in told if middle < BLENDS), key=lambda item: item[0])
    if median < UNRELATED:
        found.add(
            2,
            None,
            f"{pair}: the median correlation of all filters is {median:.3f}, below the 0.1 where unrelated networks lie.",
        )
    elif median < BLENDS:
        found.add(
            1, None, f"{pair}: the median correlation of all filters is {median:.3f}, above the 0.1 of unrelated networks."
        )
    else:
        found.add(
            0,
            None,
            f"{pair}: the median correlation of all filters is {median:.3f}, at or above the 0.689 of families that blend.",
        )
    if low:
        worst = ", ".join(f"{row.layer} {middle:.3f}" for middle, row in low[:3])
        found.add(1, None, f"{pair}: {len(low)} of {len(told)} layers have a median below 0.689; lowest: {worst}.")
    count = sum(row.filters for row, _ in told)
    flipped, moved = sum(row.flipped for row, _ in told), sum(row.filters for row, _ in told if row.reordered)
    wrong = 2 if astray else 1
    if flipped > SOME * count:
        found.add(
            wrong,
            "flipped",
            f"{pair}: {flipped} of {count} filters are those of the other member with the sign turned; halfway they cancel.",
            "Turn the signs back (with those of the BatchNorm or layer behind them), or fine-tune one member from the other.",
        )
    elif moved > SOME * count:
        names = [row.layer for row, _ in told if row.reordered]
        found.add(
            wrong,
            "permuted",
            f"{pair}: the channels are permuted: in {len(names)} layers ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}) "
            f"the filters match in another order, with a median of {_matched(rows):.3f} instead of {median:.3f}.",
            "Bring one member's channels into the other's order (Git Re-Basin), or fine-tune one member from the other.",
        )
    elif median < UNRELATED:
        found.add(
            2,
            "apart",
            None,
            "Fine-tune one member from the other, or all from one ancestor: networks trained apart order their filters apart.",
        )
    elif low:
        found.add(
            1,
            None,
            None,
            "Look at a sweep before relying on it; fine-tuning for fewer steps, or at a lower rate, keeps layers alike.",
        )
    unlike = [row for row, _ in told if not SCALES[0] <= row.scale <= SCALES[1]]
    if unlike and median >= UNRELATED:
        row = max(unlike, key=lambda row: abs(np.log(row.scale)))
        found.add(
            1,
            "scale",
            f"{pair}: {len(unlike)} of {len(told)} layers are on another scale; {row.layer}: {row.scale:.3g} times the first member's.",
            "Bring the layers to one scale before blending (what one layer is divided by, the next is multiplied with).",
        )


def _matched(rows: Sequence[LayerIndex]) -> float:
    return float(np.median([row.matched for row in rows if row.reordered and row.matched is not None]))


def _halfway(pair: str, middle: Midpoint, found: _Findings) -> None:
    if not middle.finite:
        found.add(2, "collapse", f"{pair}: halfway, or at an end, the output has NaN or infinite numbers.")
        return
    state = "collapses" if middle.collapsed else "leaves what is between the ends" if middle.departed else "holds"
    sentence = (
        f"{pair}: halfway the picture {state}: it is {middle.error:.3f} of its contrast away from the mean of the ends, "
        f"{_light(middle.brightness)}, contrast {middle.contrast:.2f} of theirs."
    )
    if middle.collapsed:
        advice = None
        if not set(found.causes) & {"apart", "permuted", "flipped"}:
            advice = "The picture is lost halfway: fine-tune in smaller steps from one ancestor, or train the members jointly."
        found.add(2, "collapse", sentence, advice)
    elif middle.departed:
        found.add(1, None, sentence, "Look at a sweep: the middle is not between the ends.")
    else:
        found.add(0, None, sentence)


def _light(brightness: float) -> str:
    if abs(brightness) < 0.0005:
        return "as bright as they"
    return f"{'darker' if brightness < 0 else 'brighter'} by {abs(brightness) * 100:.1f} % of the range"


def _barriers(pair: str, barriers: Sequence[Barrier], found: _Findings) -> None:
    decibels, beyond = (float(np.median([getattr(row, name) for row in barriers])) for name in ("decibels", "beyond"))
    side = "above" if decibels > 0 else "below"
    where = barriers[0].probe if len(barriers) == 1 else f"{len(barriers)} probes"
    sentence = (
        f"{pair}: loss barrier on {where}: halfway the error is {abs(decibels):.2f} dB {side} the mean of the ends' errors."
    )
    if all(row.wall for row in barriers):
        sentence = f"{pair}: loss barrier on {where}: halfway the error is {beyond:.2f} dB above that of the worse end."
        found.add(2, "barrier", sentence)
    elif all(row.hill for row in barriers):
        found.add(1, "barrier", sentence, "Look at a sweep: halfway the result is worse than at the ends.")
    else:
        found.add(0, None, sentence)


def _norms(pair: str, norms: Sequence[NormDrift], recalibrated: bool, found: _Findings) -> None:
    drifted = [row for row in norms if row.drifted]
    if not drifted or set(found.causes) & {"apart", "permuted", "flipped"}:
        return
    row = max(drifted, key=lambda row: abs(np.log(max(row.variance, 1e-12))))
    which = "re-estimated statistics" if recalibrated else "statistics"
    found.add(
        0,
        "drift",
        f"{pair}: in {len(drifted)} of {len(norms)} BatchNorms the blend's activations are not what its {which} say; "
        f"{row.layer}: {row.variance:.2f} of the variance.",
        AGAIN if recalibrated else RECALIBRATE,
    )
