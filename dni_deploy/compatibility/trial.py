"""Pairs of members, run alone and halfway between them on a few test images, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.compatibility.midpoint import (
    Barrier,
    BatchNormMismatch,
    Midpoint,
    NormInputStatistics,
    measure_barrier,
    measure_batchnorm_mismatches,
    measure_midpoint,
)
from dni_deploy.compatibility.output_calibration import calibrate_outputs
from dni_deploy.compatibility.probes import MAX_NOISY_IMAGES, TEST_NOISE_SIGMAS, SampleInput, add_noise, is_restoration_network
from dni_deploy.compatibility.runner import BlendRunner, MemberCoefficients
from dni_deploy.imaging.frames import Frame
from dni_deploy.signature import Signature
from dni_deploy.utils.progress import OptionalProgress, report_progress

Pair = tuple[str, str]
"""The names of two members."""

_Outputs = Mapping[str, NDArray[np.float32]]
"""What each blend makes of one input, by the name of the member or the pair."""


@dataclass(frozen=True)
class PairContactSheet:
    """One pair on one test image.

    Attributes:
        pair: The pair's name.
        test_image: The input's name.
        frames: Output of the first member, of the blend halfway, mean of both members' pixels, output of the second member.
    """

    pair: str
    test_image: str
    frames: tuple[Frame, ...]


@dataclass
class PairMeasurements:
    """What was measured: a row for each pair and test image.

    Attributes:
        midpoints: The blends against the mean of both members.
        barriers: Errors against references, where there are any.
        norm_mismatches: A row for each pair and BatchNorm.
        contact_sheets: The outputs as frames.
    """

    midpoints: list[Midpoint] = field(default_factory=list)
    barriers: list[Barrier] = field(default_factory=list)
    norm_mismatches: list[BatchNormMismatch] = field(default_factory=list)
    contact_sheets: list[PairContactSheet] = field(default_factory=list)


def format_pair_name(first: str, second: str) -> str:
    """Returns what a pair is called in every row of a report."""
    return f"{first} - {second}"


def measure_pairs(
    runner: BlendRunner, pairs: Sequence[Pair], sample_inputs: Sequence[SampleInput], progress: OptionalProgress = None
) -> PairMeasurements:
    """Runs each member alone and each pair at (0.5, 0.5).

    Where no input has a reference and the members return a clean image nearly as it is, they are networks that restore images:
    inputs are then tried with noise as well, and the loss barrier and the statistics of BatchNorm are measured there.

    Args:
        runner: The network.
        pairs: The pairs to measure.
        sample_inputs: The inputs.
        progress: Called before each blend.

    Returns:
        What was measured.
    """
    signature, result = runner.signature, PairMeasurements()
    members = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    blends: dict[str, MemberCoefficients] = {name: {name: 1.0} for name in members}
    blends.update({format_pair_name(*pair): dict.fromkeys(pair, 0.5) for pair in pairs})
    total = 2 * len(blends)
    outputs = _run_blends(runner, blends, sample_inputs, 0, total, progress)
    for sample, sample_outputs in zip(sample_inputs, outputs, strict=True):
        result.midpoints += _measure_midpoints(pairs, sample, sample_outputs, signature)
        result.contact_sheets += [_make_contact_sheet(pair, sample, sample_outputs, signature) for pair in pairs]
    if not any(sample.reference is not None for sample in sample_inputs) and is_restoration_network(
        signature, sample_inputs[-1].x, [outputs[-1][name] for name in members]
    ):
        sample_inputs = [
            add_noise(sample, signature, sigma) for sigma in TEST_NOISE_SIGMAS for sample in sample_inputs[:MAX_NOISY_IMAGES]
        ]
        outputs = _run_blends(runner, blends, sample_inputs, len(blends), total, progress)
    calibrated = {pair: _calibrate_pair(runner, pair, sample_inputs, outputs) for pair in pairs}
    for index, (sample, sample_outputs) in enumerate(zip(sample_inputs, outputs, strict=True)):
        halfway = {pair: images[index] for pair, images in calibrated.items()}
        result.barriers += _measure_barriers(halfway, sample, sample_outputs, signature)
    result.norm_mismatches = _measure_norms(runner, pairs, members, [sample.x for sample in sample_inputs])
    report_progress(progress, total, total, "done")
    return result


def _run_blends(
    runner: BlendRunner,
    blends: Mapping[str, MemberCoefficients],
    sample_inputs: Sequence[SampleInput],
    done: int,
    total: int,
    progress: OptionalProgress,
) -> list[_Outputs]:
    """Returns the images that the blends make of each input: of a network that predicts the noise, input minus output."""
    outputs: list[dict[str, NDArray[np.float32]]] = [{} for _ in sample_inputs]
    for step, (name, coefficients) in enumerate(blends.items()):
        report_progress(progress, done + step, total, f"{name} on {', '.join(sample.name for sample in sample_inputs)}")
        raw_outputs = runner.infer(coefficients, [sample.x for sample in sample_inputs])
        for sample, y, sample_outputs in zip(sample_inputs, raw_outputs, outputs, strict=True):
            is_residual = runner.signature.residual and y.shape == sample.x.shape
            sample_outputs[name] = np.asarray(sample.x - y, np.float32) if is_residual else y
    return list(outputs)


def _measure_midpoints(pairs: Sequence[Pair], sample: SampleInput, outputs: _Outputs, signature: Signature) -> list[Midpoint]:
    span = signature.high - signature.low
    return [
        measure_midpoint(format_pair_name(*pair), *_select_outputs(pair, outputs), span=span, test_image=sample.name)
        for pair in pairs
    ]


def _calibrate_pair(
    runner: BlendRunner, pair: Pair, samples: Sequence[SampleInput], outputs: Sequence[_Outputs]
) -> list[NDArray[np.float32] | None]:
    """What a calibration of the output would make of the blend; nothing where it has one, or cannot have one."""
    if runner.calibration is not None or runner.signature.controls:
        return [None] * len(samples)
    return calibrate_outputs(samples, [_select_outputs(pair, each) for each in outputs], runner.signature.residual)


def _measure_barriers(
    calibrated: Mapping[Pair, NDArray[np.float32] | None], sample: SampleInput, outputs: _Outputs, signature: Signature
) -> list[Barrier]:
    """A row for each pair, whose blend with a calibration is given; none where the right image is not known."""
    if sample.reference is None or sample.reference.shape != next(iter(outputs.values())).shape:
        return []
    ends = signature.low, signature.high
    return [
        measure_barrier(
            format_pair_name(*pair),
            sample.name,
            _select_outputs(pair, outputs),
            sample.reference,
            *ends,
            sample.x,
            sample.noise,
            image,
        )
        for pair, image in calibrated.items()
    ]


def _select_outputs(pair: Pair, outputs: _Outputs) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Returns the outputs of the first member, halfway, and of the second member."""
    return outputs[pair[0]], outputs[format_pair_name(*pair)], outputs[pair[1]]


def _measure_norms(
    runner: BlendRunner, pairs: Sequence[Pair], members: Sequence[str], inputs: Sequence[NDArray[np.float32]]
) -> list[BatchNormMismatch]:
    if not any(name.endswith("running_var") for name in runner.weight_names):
        return []

    def measure_blend(coefficients: MemberCoefficients) -> tuple[Mapping[str, NDArray[Any]], NormInputStatistics]:
        tensors = runner.blend_tensors(coefficients)
        return tensors, runner.measure_batchnorm_inputs(tensors, inputs)

    by_member = {name: measure_blend({name: 1.0}) for name in members}
    rows = []
    for first, second in pairs:
        blends = by_member[first], measure_blend(dict.fromkeys((first, second), 0.5)), by_member[second]
        rows += measure_batchnorm_mismatches(
            format_pair_name(first, second), [tensors for tensors, _ in blends], [statistics for _, statistics in blends]
        )
    return rows


def _make_contact_sheet(pair: Pair, sample: SampleInput, outputs: _Outputs, signature: Signature) -> PairContactSheet:
    first, middle, second = (output.astype(np.float64) for output in _select_outputs(pair, outputs))
    frames = tuple(_to_frame(values, signature) for values in (first, middle, (first + second) / 2, second))
    return PairContactSheet(format_pair_name(*pair), sample.name, frames)


def _to_frame(values: NDArray[np.float64], signature: Signature) -> Frame:
    """Makes a frame of an output.

    Several of a batch become a square of them; of other channel counts what can be seen is shown; NaN is black.
    """
    scaled = np.nan_to_num((values - signature.low) / (signature.high - signature.low), nan=0.0, posinf=1.0, neginf=0.0)
    pixels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    pixels = pixels[:, :3] if pixels.shape[1] >= 3 else np.repeat(pixels[:, :1], 3, axis=1)
    side = int(np.sqrt(len(pixels)))
    rows = [np.concatenate(list(pixels[row * side : (row + 1) * side]), axis=2) for row in range(side)]
    return np.ascontiguousarray(np.concatenate(rows, axis=1).transpose(1, 2, 0))
