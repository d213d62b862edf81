"""Blend trial: pairs of members run alone and halfway on a few probes, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.checkpoints.family import Family
from dni_deploy.compatibility.midpoint import (
    Barrier,
    BatchNormMismatch,
    Midpoint,
    NormInputStatistics,
    measure_barrier,
    measure_batchnorm_mismatches,
    measure_midpoint,
)
from dni_deploy.compatibility.probes import TEST_NOISE_SIGMAS, SampleInput, add_noise, is_restoration_network
from dni_deploy.compatibility.runner import BlendRunner, MemberCoefficients
from dni_deploy.imaging.frames import Frame
from dni_deploy.signature import Signature
from dni_deploy.utils.progress import OptionalProgress, report_progress

_Output = NDArray[np.float32]


@dataclass(frozen=True)
class PairContactSheet:
    """One pair on one probe in pictures: first member, halfway, the mean of both members' pixels, second member."""

    pair: str
    test_image: str
    frames: tuple[Frame, Frame, Frame, Frame]


@dataclass
class PairMeasurements:
    """What came out, a row for each pair and probe (`norm_mismatches`: and BatchNorm)."""

    midpoints: list[Midpoint] = field(default_factory=list)
    barriers: list[Barrier] = field(default_factory=list)
    norm_mismatches: list[BatchNormMismatch] = field(default_factory=list)
    contact_sheets: list[PairContactSheet] = field(default_factory=list)


def measure_pairs(
    runner: BlendRunner,
    family: Family,
    pairs: Sequence[tuple[str, str]],
    sample_inputs: Sequence[SampleInput],
    progress: OptionalProgress = None,
) -> PairMeasurements:
    """Run each member alone and each pair at (0.5, 0.5) on the probes.

    Where none of the probes has a reference and the members give back a clean picture more or less as it is, they are networks that
    restore pictures: the last probe is tried with noise as well, and the loss barrier and BatchNorm's statistics are measured there.
    """
    signature, made = runner.signature, PairMeasurements()
    names = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    shares: dict[str, MemberCoefficients] = {name: {name: 1.0} for name in names}
    shares.update({format_pair_name(*pair): dict.fromkeys(pair, 0.5) for pair in pairs})
    clean = not any(probe.reference is not None for probe in sample_inputs)
    total = len(shares) * (len(sample_inputs) + 1)
    for number, probe in enumerate(sample_inputs):
        outputs = _run_blends(runner, shares, probe, number * len(shares), total, progress)
        made.contact_sheets += [_make_contact_sheet(pair, probe, outputs, signature) for pair in pairs]
        _add_comparisons(made, pairs, probe, outputs, signature, with_midpoints=True)
    damaged = list(sample_inputs)
    if clean and is_restoration_network(signature, sample_inputs[-1].x, [outputs[name] for name in names]):
        damaged = [add_noise(sample_inputs[-1], signature, sigma) for sigma in TEST_NOISE_SIGMAS]
        for probe in damaged:
            outputs = _run_blends(runner, shares, probe, len(sample_inputs) * len(shares), total, progress)
            _add_comparisons(made, pairs, probe, outputs, signature, with_midpoints=False)
    made.norm_mismatches = _measure_norms(runner, family, pairs, names, [probe.x for probe in damaged])
    report_progress(progress, total, total, "done")
    return made


def format_pair_name(first: str, second: str) -> str:
    """What a pair is called in every row of a report."""
    return f"{first} - {second}"


def _run_blends(
    runner: BlendRunner,
    coefficients: Mapping[str, MemberCoefficients],
    sample_input: SampleInput,
    done: int,
    total: int,
    progress: OptionalProgress,
) -> dict[str, _Output]:
    """The pictures that each blend makes of the probe: of a network that predicts the noise, input minus output."""
    found = {}
    for step, (name, blend) in enumerate(coefficients.items()):
        report_progress(progress, done + step, total, f"{name} on {sample_input.name}")
        y = runner.infer(blend, sample_input.x)
        residual = runner.signature.residual and y.shape == sample_input.x.shape
        found[name] = np.asarray(sample_input.x - y, np.float32) if residual else y
    return found


def _add_comparisons(
    measurements: PairMeasurements,
    pairs: Sequence[tuple[str, str]],
    sample_input: SampleInput,
    outputs: Mapping[str, _Output],
    signature: Signature,
    *,
    with_midpoints: bool,
) -> None:
    for pair in pairs:
        name = format_pair_name(*pair)
        three = (outputs[pair[0]], outputs[name], outputs[pair[1]])
        if with_midpoints:
            measurements.midpoints.append(
                measure_midpoint(name, *three, span=signature.high - signature.low, test_image=sample_input.name)
            )
        if sample_input.reference is not None and sample_input.reference.shape == three[0].shape:
            measurements.barriers.append(
                measure_barrier(name, sample_input.name, three, sample_input.reference, signature.low, signature.high)
            )


def _measure_norms(
    runner: BlendRunner, family: Family, pairs: Sequence[tuple[str, str]], names: Sequence[str], inputs: Sequence[_Output]
) -> list[BatchNormMismatch]:
    if not any(key.endswith("running_var") for key in family[names[0]].checkpoint.tensors):
        return []

    def measure_norm_inputs(coefficients: MemberCoefficients) -> tuple[Mapping[str, NDArray[Any]], NormInputStatistics]:
        tensors = runner.blend_tensors(coefficients)
        return tensors, runner.measure_batchnorm_inputs(tensors, inputs)

    alone = {name: measure_norm_inputs({name: 1.0}) for name in names}
    rows = []
    for first, second in pairs:
        one, half, other = alone[first], measure_norm_inputs(dict.fromkeys((first, second), 0.5)), alone[second]
        rows += measure_batchnorm_mismatches(
            format_pair_name(first, second), (one[0], half[0], other[0]), (one[1], half[1], other[1])
        )
    return rows


def _make_contact_sheet(
    pair: tuple[str, str], sample_input: SampleInput, outputs: Mapping[str, _Output], signature: Signature
) -> PairContactSheet:
    first, middle, second = (outputs[name].astype(np.float64) for name in (pair[0], format_pair_name(*pair), pair[1]))
    frames = [_to_frame(values, signature) for values in (first, middle, (first + second) / 2, second)]
    return PairContactSheet(format_pair_name(*pair), sample_input.name, (frames[0], frames[1], frames[2], frames[3]))


def _to_frame(values: NDArray[np.float64], signature: Signature) -> Frame:
    """An output as a picture; several of a batch as a square of them. NaN is black, other channel counts show what there is."""
    scaled = np.nan_to_num((values - signature.low) / (signature.high - signature.low), nan=0.0, posinf=1.0, neginf=0.0)
    pixels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    pixels = pixels[:, :3] if pixels.shape[1] >= 3 else np.repeat(pixels[:, :1], 3, axis=1)
    side = int(np.sqrt(len(pixels)))
    rows = [np.concatenate(list(pixels[row * side : (row + 1) * side]), axis=2) for row in range(side)]
    return np.ascontiguousarray(np.concatenate(rows, axis=1).transpose(1, 2, 0))
