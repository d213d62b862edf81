"""What each way to correct a family's blends gives on crops that no fit has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.calibration.candidate_network import CandidateNetwork
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import psnr_db

MIN_ENLARGED_SIDE_PX = 16
"""Of a crop that is reduced and enlarged again by the network; less is mostly border."""


@dataclass(frozen=True)
class MethodScore:
    """What one method gives.

    Attributes:
        method: Its name.
        mean_psnr: PSNR in dB, the mean over the calibration points that are no member alone.
        lowest_psnr: At the worst of these points.
        largest_loss: How far the worst of these points is below the worse member, in dB; None where nothing tells what is
            right, so that the blends are compared with the mean of the members' outputs.
    """

    method: str
    mean_psnr: float
    lowest_psnr: float
    largest_loss: float | None


class HeldBackCrops(NamedTuple):
    """Crops that no fit has seen.

    Attributes:
        batches: Inputs, float32 (B, C, H, W) each.
        originals: What the network should make of all of them, float32 (B, C', H', W'); None where that is not known.
    """

    batches: list[NDArray[np.float32]]
    originals: NDArray[np.float32] | None


def make_held_back(crops: NDArray[np.float32], signature: Signature, batch: int) -> HeldBackCrops:
    """Makes inputs of crops; of a network that enlarges, the crops are the originals, and go in reduced.

    Args:
        crops: float32 (B, C, side, side).
        signature: The network's.
        batch: Largest number of crops in a batch.

    Returns:
        The inputs, and the originals if there are any.
    """
    scale, originals = signature.scale, None
    side = crops.shape[-1] // scale // signature.multiple * signature.multiple
    if (
        scale > 1
        and side >= max(MIN_ENLARGED_SIDE_PX, signature.minimum)
        and signature.input_channels == signature.output_channels
    ):
        originals = crops[:, :, : side * scale, : side * scale]
        crops = originals.reshape(*originals.shape[:2], side, scale, side, scale).mean(axis=(3, 5))
    return HeldBackCrops([crops[start : start + batch] for start in range(0, len(crops), batch)], originals)


def score_method(
    method: str,
    network: CandidateNetwork,
    points: NDArray[np.float64],
    member_outputs: list[NDArray[np.float32]],
    held_back: HeldBackCrops,
    signature: Signature,
) -> MethodScore:
    """Scores a method.

    Args:
        method: Its name.
        network: The network with its corrections.
        points: float64 (K, N), coefficients.
        member_outputs: What each member makes of the crops, float32 (B, C', H', W').
        held_back: The crops.
        signature: The network's.

    Returns:
        The score.
    """
    peak = signature.high - signature.low

    def measure(output: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
        return psnr_db(output if signature.residual else output.clip(signature.low, signature.high), truth, peak)

    psnrs = []
    for point in points:
        truth = held_back.originals
        if truth is None:
            truth = blend_outputs(member_outputs, point)
        psnrs.append(measure(network.run(point, held_back.batches), truth))
    loss = None
    if held_back.originals is not None:
        loss = min(measure(output, held_back.originals) for output in member_outputs) - min(psnrs)
    return MethodScore(method, float(np.mean(psnrs)), min(psnrs), loss)


def blend_outputs(member_outputs: list[NDArray[np.float32]], coefficients: NDArray[np.float64]) -> NDArray[np.float32]:
    """Computes the mean of the members' outputs, each weighted by its coefficient."""
    weights = coefficients.astype(np.float32)
    return np.asarray(sum(weight * output for weight, output in zip(weights, member_outputs, strict=True)))
