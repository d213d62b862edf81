"""Blend trial: pairs of members run alone and halfway on a few probes, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.checkpoints.family import Family
from dni_deploy.compatibility.barrier import Barrier, barrier
from dni_deploy.compatibility.midpoint import Midpoint, midpoint
from dni_deploy.compatibility.norm_drift import Measured, NormDrift, norm_drifts
from dni_deploy.compatibility.probes import NOISE, Probe, noisy, restores
from dni_deploy.compatibility.runner import BlendRunner, Shares
from dni_deploy.imaging.frames import Frame
from dni_deploy.signature import Signature
from dni_deploy.utils.progress import MaybeProgress, tell

_Output = NDArray[np.float32]


@dataclass(frozen=True)
class Strip:
    """One pair on one probe in pictures: first member, halfway, the mean of both members' pixels, second member."""

    pair: str
    probe: str
    frames: tuple[Frame, Frame, Frame, Frame]


@dataclass
class Trial:
    """What came out, a row for each pair and probe (`norms`: and BatchNorm)."""

    middles: list[Midpoint] = field(default_factory=list)
    barriers: list[Barrier] = field(default_factory=list)
    norms: list[NormDrift] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)


def try_pairs(
    runner: BlendRunner,
    family: Family,
    pairs: Sequence[tuple[str, str]],
    probes: Sequence[Probe],
    progress: MaybeProgress = None,
) -> Trial:
    """Run each member alone and each pair at (0.5, 0.5) on the probes.

    Where none of the probes has a reference and the members give back a clean picture more or less as it is, they are networks that
    restore pictures: the last probe is tried with noise as well, and the loss barrier and BatchNorm's statistics are measured there.
    """
    signature, made = runner.signature, Trial()
    names = tuple(dict.fromkeys(name for pair in pairs for name in pair))
    shares: dict[str, Shares] = {name: {name: 1.0} for name in names}
    shares.update({pair_name(*pair): dict.fromkeys(pair, 0.5) for pair in pairs})
    clean = not any(probe.reference is not None for probe in probes)
    total = len(shares) * (len(probes) + 1)
    for number, probe in enumerate(probes):
        outputs = _outputs(runner, shares, probe, number * len(shares), total, progress)
        made.strips += [_strip(pair, probe, outputs, signature) for pair in pairs]
        _compare(made, pairs, probe, outputs, signature, middles=True)
    damaged = list(probes)
    if clean and restores(signature, probes[-1].x, [outputs[name] for name in names]):
        damaged = [noisy(probes[-1], signature, sigma) for sigma in NOISE]
        for probe in damaged:
            outputs = _outputs(runner, shares, probe, len(probes) * len(shares), total, progress)
            _compare(made, pairs, probe, outputs, signature, middles=False)
    made.norms = _norms(runner, family, pairs, names, [probe.x for probe in damaged])
    tell(progress, total, total, "done")
    return made


def pair_name(first: str, second: str) -> str:
    """What a pair is called in every row of a report."""
    return f"{first} - {second}"


def _outputs(
    runner: BlendRunner, shares: Mapping[str, Shares], probe: Probe, done: int, total: int, progress: MaybeProgress
) -> dict[str, _Output]:
    """The pictures that each blend makes of the probe: of a network that predicts the noise, input minus output."""
    found = {}
    for step, (name, blend) in enumerate(shares.items()):
        tell(progress, done + step, total, f"{name} on {probe.name}")
        y = runner.infer(blend, probe.x)
        residual = runner.signature.residual and y.shape == probe.x.shape
        found[name] = np.asarray(probe.x - y, np.float32) if residual else y
    return found


def _compare(
    made: Trial,
    pairs: Sequence[tuple[str, str]],
    probe: Probe,
    outputs: Mapping[str, _Output],
    signature: Signature,
    *,
    middles: bool,
) -> None:
    for pair in pairs:
        name = pair_name(*pair)
        three = (outputs[pair[0]], outputs[name], outputs[pair[1]])
        if middles:
            made.middles.append(midpoint(name, *three, span=signature.high - signature.low, probe=probe.name))
        if probe.reference is not None and probe.reference.shape == three[0].shape:
            made.barriers.append(barrier(name, probe.name, three, probe.reference, signature.low, signature.high))


def _norms(
    runner: BlendRunner, family: Family, pairs: Sequence[tuple[str, str]], names: Sequence[str], inputs: Sequence[_Output]
) -> list[NormDrift]:
    if not any(key.endswith("running_var") for key in family[names[0]].checkpoint.tensors):
        return []

    def measured(shares: Shares) -> tuple[Mapping[str, NDArray[Any]], Measured]:
        tensors = runner.tensors(shares)
        return tensors, runner.norm_inputs(tensors, inputs)

    alone = {name: measured({name: 1.0}) for name in names}
    rows = []
    for first, second in pairs:
        one, half, other = alone[first], measured(dict.fromkeys((first, second), 0.5)), alone[second]
        rows += norm_drifts(pair_name(first, second), (one[0], half[0], other[0]), (one[1], half[1], other[1]))
    return rows


def _strip(pair: tuple[str, str], probe: Probe, outputs: Mapping[str, _Output], signature: Signature) -> Strip:
    first, middle, second = (outputs[name].astype(np.float64) for name in (pair[0], pair_name(*pair), pair[1]))
    frames = [_frame(values, signature) for values in (first, middle, (first + second) / 2, second)]
    return Strip(pair_name(*pair), probe.name, (frames[0], frames[1], frames[2], frames[3]))


def _frame(values: NDArray[np.float64], signature: Signature) -> Frame:
    """An output as a picture; several of a batch as a square of them. NaN is black, other channel counts show what there is."""
    scaled = np.nan_to_num((values - signature.low) / (signature.high - signature.low), nan=0.0, posinf=1.0, neginf=0.0)
    pixels = np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    pixels = pixels[:, :3] if pixels.shape[1] >= 3 else np.repeat(pixels[:, :1], 3, axis=1)
    side = int(np.sqrt(len(pixels)))
    rows = [np.concatenate(list(pixels[row * side : (row + 1) * side]), axis=2) for row in range(side)]
    return np.ascontiguousarray(np.concatenate(rows, axis=1).transpose(1, 2, 0))
