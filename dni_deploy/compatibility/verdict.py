"""Whether two members blend, from everything that was measured of them, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from dni_deploy.compatibility.correlation import MAX_UNRELATED_INDEX, MIN_BLENDING_INDEX, LayerCorrelation
from dni_deploy.compatibility.distance import MAX_WHITENESS
from dni_deploy.compatibility.midpoint import (
    Barrier,
    BatchNormMismatch,
    BlendLoss,
    Midpoint,
    average_midpoints,
    measure_blend_loss,
)

Verdict = Literal["blends well", "blends with caveats", "not known", "will not blend"]
VERDICTS: tuple[Verdict, ...] = ("blends well", "blends with caveats", "not known", "will not blend")
"""From best to worst; "not known" where nothing was run."""
Cause = Literal["apart", "permuted", "flipped", "scale", "noise", "collapse", "barrier", "drift", "other network"]
"""What is wrong with a pair, for programs; docs/check.md explains each."""
UNRELATED_CAUSES: frozenset[Cause] = frozenset({"apart", "permuted", "flipped"})
"""Between such members every other difference follows from these, and is not reported."""

MIN_CAUSE_FRACTION = 0.05
"""Fraction of all filters that must be sign-flipped, or out of order, to be called the cause."""
NORM_RATIO_RANGE = (0.5, 2.0)
"""Norms of one member's filters over the other's, outside of which the two are on different scales."""
MIN_NOISY_DISTANCE = 0.1
"""Network distance from which noise between the members counts: about a tenth of the weights' own size."""
MAX_LOSS_DB: dict[Verdict, float] = {"blends well": 1.0, "blends with caveats": 3.0}
"""Decibels by which the blend halfway may be below the worse end."""
MIN_DARKNESS, MAX_FLAT_CONTRAST = 0.01, 0.95
"""Change of brightness, as a fraction of the range, and contrast, as a fraction of the ends', from which an image is called dark
(or bright) and flat."""

CALIBRATE_ADVICE = (
    "Calibrate the blends on images, which may mend that: export, then dni-deploy build BUNDLE --calibrate IMAGES."
)
MIN_CALIBRATION_GAIN_DB = 0.5
"""Gain of a calibration's first method on the test images from which it is worth a word of its own: less is of the choice of images."""
CALIBRATE_AGAIN_ADVICE = (
    "The calibration does not fit these images: calibrate on images like these, or at more alphas: "
    "dni-deploy build BUNDLE --calibrate IMAGES --calibration-points 32 --force."
)

PIXEL_BLEND_ADVICE = (
    "Pixel blending, the weighted mean of both members' outputs, loses no more than 1 dB where the blended weights lose more; "
    "it runs both networks."
)


@dataclass(frozen=True)
class PairEvidence:
    """What was measured of one pair.

    Attributes:
        layers: The correlation index of each layer.
        median: Median index over all filters; None where there are none.
        distance: Network distance.
        whiteness: Whiteness of the difference; None where nothing differs.
        midpoints: By test image; empty where nothing ran.
        barriers: By test image; empty where the right image is not known.
        norm_mismatches: Each BatchNorm halfway.
        is_calibrated: Whether the bundle is calibrated.
    """

    layers: Sequence[LayerCorrelation] = ()
    median: float | None = None
    distance: float = 0.0
    whiteness: float | None = None
    midpoints: Sequence[Midpoint] = ()
    barriers: Sequence[Barrier] = ()
    norm_mismatches: Sequence[BatchNormMismatch] = ()
    is_calibrated: bool = False


@dataclass(frozen=True)
class PairJudgment:
    """The verdict on one pair.

    Attributes:
        verdict: The verdict.
        causes: What is behind it, for programs.
        reasons: What is behind it, a sentence each.
        advice: What to do about it, a sentence each.
        loss: What the blend halfway loses; None where that is not known.
    """

    verdict: Verdict
    causes: tuple[Cause, ...] = ()
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    loss: BlendLoss | None = None


@dataclass
class _Findings:
    """What speaks for and against a pair, while it is collected."""

    pair: str
    causes: list[Cause] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    verdict: Verdict = "blends well"

    def add(self, verdict: Verdict, cause: Cause | None, reason: str | None = None, advice: str | None = None) -> None:
        """Adds a finding that allows no better verdict than this one."""
        self.verdict = max(self.verdict, verdict, key=VERDICTS.index)
        if cause is not None and cause not in self.causes:
            self.causes.append(cause)
        self.reasons += [f"{self.pair}: {reason}"] if reason else []
        self.advice += [advice] if advice else []

    @property
    def are_unrelated(self) -> bool:
        """Whether the filters alone say that the members do not belong together."""
        return not UNRELATED_CAUSES.isdisjoint(self.causes)


def judge_pair(pair: str, evidence: PairEvidence) -> PairJudgment:
    """Judges one pair.

    Without a midpoint the verdict is "not known": filters do not decide. Where the right image is known, and both members come
    near it, the loss halfway decides: up to 1 dB below the worse end "blends well", up to 3 dB "blends with caveats", below that
    "will not blend". Where it is not known, image and filters decide. "will not blend": the median index is below 0.1; or the
    image halfway collapses; or filters are out of order or sign-flipped, and the image halfway shows it. "blends with caveats":
    a layer's median index is below 0.689, or the middle lies outside of what is between the ends, or their scales differ, or
    there are no filters to compare. Otherwise "blends well". With a loss or without, a difference that is noise allows
    "blends with caveats" at best.

    Args:
        pair: The pair's name, with which each reason begins.
        evidence: What was measured.
    """
    findings = _Findings(pair)
    midpoint = average_midpoints(evidence.midpoints) if evidence.midpoints else None
    _judge_filters(evidence, midpoint, findings)
    loss = measure_blend_loss(evidence.barriers)
    if midpoint is None:
        findings.verdict = "not known"
    else:
        _judge_midpoint(midpoint, findings)
        if loss is not None and midpoint.finite:
            _judge_loss(loss, findings)
        elif evidence.barriers:
            reason = "a member does not do the task of the test images, so what the blend loses is not known; image and filters decide."
            findings.add("blends well", None, reason)
    _judge_norms(evidence.norm_mismatches, evidence.is_calibrated, findings)
    if midpoint is not None and findings.verdict != "blends well":
        _advise_alternatives(midpoint, loss, evidence.is_calibrated, findings)
    is_white = evidence.whiteness is not None and evidence.whiteness < MAX_WHITENESS and not findings.are_unrelated
    if is_white and (evidence.distance > MIN_NOISY_DISTANCE or findings.verdict != "blends well"):
        findings.add(
            "blends with caveats",
            "noise",
            f"the difference between the members has no structure ({evidence.whiteness:.2f}; "
            "noise has 1, training leaves more).",
            "One of the members looks damaged, or never trained: run each alone before blending them.",
        )
    advice = tuple(dict.fromkeys(findings.advice))
    return PairJudgment(findings.verdict, tuple(findings.causes), tuple(findings.reasons), advice, loss)


def _judge_filters(evidence: PairEvidence, midpoint: Midpoint | None, findings: _Findings) -> None:
    median, layers = evidence.median, [(row, row.median) for row in evidence.layers if row.median is not None]
    if median is None or not layers:
        findings.add("blends with caveats", None, "no layer has filters that could be compared.")
        return
    verdict: Verdict
    if median < MAX_UNRELATED_INDEX:
        verdict, comparison = "will not blend", "below the 0.1 where unrelated networks lie"
    elif median < MIN_BLENDING_INDEX:
        verdict, comparison = "blends with caveats", "above the 0.1 of unrelated networks"
    else:
        verdict, comparison = "blends well", "at or above the 0.689 of families that blend"
    findings.add(verdict, None, f"the median correlation of all filters is {median:.3f}, {comparison}.")
    low = sorted(((row, layer_median) for row, layer_median in layers if row.has_low_median), key=lambda item: item[1])
    if low:
        worst = ", ".join(f"{row.layer} {layer_median:.3f}" for row, layer_median in low[:3])
        findings.add(
            "blends with caveats", None, f"{len(low)} of {len(layers)} layers have a median below 0.689; lowest: {worst}."
        )
    _judge_order_and_signs([row for row, _ in layers], median, midpoint, findings)
    if not findings.are_unrelated and low:
        advice = "Look at a sweep before relying on it; fine-tuning for fewer steps, or at a lower rate, keeps layers alike."
        findings.add("blends with caveats", None, advice=advice)
    misscaled = [row for row, _ in layers if not NORM_RATIO_RANGE[0] <= row.scale <= NORM_RATIO_RANGE[1]]
    if misscaled and median >= MAX_UNRELATED_INDEX:
        row = max(misscaled, key=lambda row: abs(np.log(row.scale)))
        findings.add(
            "blends with caveats",
            "scale",
            f"{len(misscaled)} of {len(layers)} layers are on another scale; "
            f"{row.layer}: {row.scale:.3g} times the first member's.",
            "Bring the layers to one scale before blending (what one layer is divided by, the next is multiplied with).",
        )


def _judge_order_and_signs(
    layers: Sequence[LayerCorrelation], median: float, midpoint: Midpoint | None, findings: _Findings
) -> None:
    """Looks for why filters differ: sign-flipped or permuted, which matter where the middle shows it, or trained apart."""
    count, flipped = sum(row.filters for row in layers), sum(row.flipped for row in layers)
    reordered = [row for row in layers if row.is_reordered]
    is_visible = midpoint is None or midpoint.is_outside_ends or midpoint.is_collapsed
    verdict: Verdict = "will not blend" if is_visible else "blends with caveats"
    if flipped > MIN_CAUSE_FRACTION * count:
        findings.add(
            verdict,
            "flipped",
            f"{flipped} of {count} filters are those of the other member with the sign flipped; halfway they cancel.",
            "Flip the signs back (with those of the BatchNorm or layer behind them), or fine-tune one member from the other.",
        )
    elif sum(row.filters for row in reordered) > MIN_CAUSE_FRACTION * count:
        names = ", ".join(row.layer for row in reordered[:3]) + (", ..." if len(reordered) > 3 else "")
        aligned = float(np.median([row.aligned_median for row in reordered if row.aligned_median is not None]))
        findings.add(
            verdict,
            "permuted",
            f"the channels are permuted: in {len(reordered)} layers ({names}) the filters match in another order, "
            f"with a median of {aligned:.3f} instead of {median:.3f}.",
            "Export them with --align, which brings the channels of both into one order, or fine-tune one member from the other.",
        )
    elif median < MAX_UNRELATED_INDEX:
        advice = (
            "Fine-tune one member from the other, or all from one ancestor: networks trained apart order their filters apart."
        )
        findings.add("will not blend", "apart", advice=advice)


def _judge_midpoint(midpoint: Midpoint, findings: _Findings) -> None:
    if not midpoint.finite:
        findings.add("will not blend", "collapse", "halfway, or at an end, the output has NaN or infinite numbers.")
        return
    sentence = (
        f"it is {midpoint.error:.3f} of its contrast away from the mean of the ends, "
        f"{_format_brightness(midpoint.brightness)}, contrast {midpoint.contrast:.2f} of theirs."
    )
    if midpoint.is_collapsed:
        advice = "The image is lost halfway: fine-tune in smaller steps from one ancestor, or train the members jointly."
        findings.add(
            "will not blend", "collapse", f"halfway the image collapses: {sentence}", None if findings.are_unrelated else advice
        )
    elif midpoint.is_outside_ends:
        advice = "Look at a sweep: the middle is not between the ends."
        findings.add("blends with caveats", None, f"halfway the image leaves what is between the ends: {sentence}", advice)
    else:
        findings.add("blends well", None, f"halfway the image holds: {sentence}")


def _format_brightness(brightness: float) -> str:
    if abs(brightness) < 0.0005:
        return "as bright as they are"
    return f"{'darker' if brightness < 0 else 'brighter'} by {abs(brightness) * 100:.1f} % of the range"


def _judge_loss(loss: BlendLoss, findings: _Findings) -> None:
    """Lets the measured loss decide: it outranks the filters and the image, for better and for worse."""
    findings.verdict = next((verdict for verdict, limit in MAX_LOSS_DB.items() if loss.loss <= limit), "will not blend")
    findings.reasons.insert(0, f"{findings.pair}: {_describe_loss(loss)}")
    if findings.verdict == "blends well":
        findings.advice.clear()
    elif "barrier" not in findings.causes:
        findings.causes.append("barrier")


def _describe_loss(loss: BlendLoss) -> str:
    noise = f" with noise {loss.noise}" if loss.noise else ""
    where = loss.test_images[0] if len(loss.test_images) == 1 else f"{len(loss.test_images)} test images{noise}"
    side = "below" if loss.loss > 0 else "above"
    return (
        f"on {where} the PSNR halfway is {loss.middle:.2f} dB, {abs(loss.loss):.2f} dB {side} that of the worse end "
        f"({loss.first:.2f} and {loss.second:.2f} dB); pixel blending has {loss.pixel_blend:.2f} dB."
    )


def _judge_norms(mismatches: Sequence[BatchNormMismatch], is_calibrated: bool, findings: _Findings) -> None:
    drifted = [row for row in mismatches if row.has_drifted]
    if not drifted or findings.are_unrelated:
        return
    row = max(drifted, key=lambda row: abs(np.log(max(row.variance, 1e-12))))
    which = "calibrated statistics" if is_calibrated else "statistics"
    findings.add(
        "blends well",
        "drift",
        f"in {len(drifted)} of {len(mismatches)} BatchNorms the blend's activations are not what its {which} say; "
        f"{row.layer}: {row.variance:.2f} of the variance.",
        CALIBRATE_AGAIN_ADVICE if is_calibrated else CALIBRATE_ADVICE,
    )


def _advise_alternatives(midpoint: Midpoint, loss: BlendLoss | None, is_calibrated: bool, findings: _Findings) -> None:
    """Says what gives a better image halfway, where the mean of both outputs, with which it is compared, is fine."""
    if loss is not None and loss.pixel_blend_loss > MAX_LOSS_DB["blends well"]:
        return
    if loss is not None:
        findings.advice.append(PIXEL_BLEND_ADVICE)
    if loss is not None and loss.calibrated is not None and loss.calibrated - loss.middle >= MIN_CALIBRATION_GAIN_DB:
        findings.advice = [advice for advice in findings.advice if advice != CALIBRATE_ADVICE]
        findings.advice.append(
            f"Calibrate the blends: a correction of the output's channels, fitted on the other test images, brings the PSNR "
            f"halfway from {loss.middle:.2f} to {loss.calibrated:.2f} dB. Export, then dni-deploy build BUNDLE --calibrate IMAGES."
        )
        return
    is_dull = abs(midpoint.brightness) >= MIN_DARKNESS or midpoint.contrast <= MAX_FLAT_CONTRAST
    if is_dull and midpoint.finite and not is_calibrated and {"flipped", "permuted", "drift"}.isdisjoint(findings.causes):
        findings.advice.append(CALIBRATE_ADVICE)
