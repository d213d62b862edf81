"""Verdict: whether members blend, from the index of their filters and the picture halfway between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from dni_deploy.agreement import LayerIndex
from dni_deploy.correlation import BLENDS, UNRELATED
from dni_deploy.midpoint import Midpoint

Verdict = Literal["blends well", "blends with care", "will not blend"]


def judged(
    rows: Sequence[LayerIndex], medians: Mapping[str, float], middles: Sequence[Midpoint]
) -> tuple[Verdict, tuple[str, ...], tuple[str, ...]]:
    """The verdict, the reasons for it and what to do about it, a sentence each.

    rows     every layer of every pair; medians   by pair, over all filters; middles   of each pair, none where nothing ran.
    """
    reasons, advice = [], []
    told = [(row, row.median) for row in rows if row.median is not None]
    low = sorted(((median, row) for row, median in told if median < BLENDS), key=lambda item: item[0])
    unrelated = [pair for pair, median in medians.items() if median < UNRELATED]
    for pair, median in medians.items():
        side = "below" if median < UNRELATED else "at or above" if median >= BLENDS else "above"
        bound = UNRELATED if median < BLENDS else BLENDS
        meaning = {
            UNRELATED: "where unrelated networks lie" if median < UNRELATED else "of unrelated networks",
            BLENDS: "of families that blend",
        }[bound]
        reasons.append(f"{pair}: the median correlation of all filters is {median:.3f}, {side} the {bound:g} {meaning}.")
    if low:
        worst = ", ".join(f"{row.layer} {median:.3f}" for median, row in low[:3])
        reasons.append(f"{len(low)} of {len(told)} layers have a median below {BLENDS:g}; lowest: {worst}.")
    for middle in middles:
        reasons.append(_said(middle))
    collapsed = [middle.pair for middle in middles if middle.collapsed]
    departed = [middle.pair for middle in middles if middle.departed and not middle.collapsed]
    if unrelated:
        advice.append(
            "Fine-tune one member from the other, or all from one ancestor: networks trained apart order their filters apart."
        )
    elif low:
        advice.append(
            "Look at a sweep before relying on it; fine-tuning for fewer steps, or at a lower rate, keeps the layers alike."
        )
    if collapsed and not unrelated:
        advice.append(
            f"Between {', '.join(collapsed)} the picture is lost halfway; train them jointly or fine-tune in smaller steps."
        )
    if departed:
        advice.append(f"Between {', '.join(departed)} look at a sweep: the middle is not between the ends.")
    if unrelated or collapsed:
        return "will not blend", tuple(reasons), tuple(advice)
    if low or departed or not told:
        if not told:
            reasons.append("No layer has filters that could be compared.")
        return "blends with care", tuple(reasons), tuple(advice)
    return "blends well", tuple(reasons), tuple(advice)


def _said(middle: Midpoint) -> str:
    if not middle.finite:
        return f"{middle.pair}: halfway, or at an end, the output has NaN or infinite numbers."
    state = "collapses" if middle.collapsed else "leaves what is between the ends" if middle.departed else "holds"
    return (
        f"{middle.pair}: halfway the picture {state}: it is {middle.error:.3f} of its contrast away from the mean of the ends, "
        f"brightness {middle.brightness:+.3f}, contrast {middle.contrast:.2f} of theirs."
    )
