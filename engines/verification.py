"""Proof that an engine computes what ONNX Runtime computes on the CPU at the same alpha, before its first frame.

Wrong weights raise no error: TensorRT 11.3 can drop a GEMM's bias in a refittable engine, old weights were seen to stay behind
after A -> B -> A (TensorRT issue 3628), and what the parser folds at build time is silently not refitted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import psnr_db, relative_error
from engines import ort_session
from engines.calibrated_network import CalibratedNetwork
from engines.interface import Engine
from engines.profile import Profile

log = logging.getLogger(__name__)

MAX_RELATIVE_ERROR = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 5e-3}
"""By precision, of the output's largest value. fp32: sums in another order differ by 1e-7 to 1e-5 over hundreds of layers, and
the smallest mistake that was ever seen, BatchNorm folded before blending, is 5e-3. fp16 and tf32 have 10 bits of mantissa: a
rounding is 2^-11 = 5e-4, and ten times that is what hundreds of them add up to in the worst pixel. With the inputs of all
convolutions rounded to TF32, the benchmarks' networks err by 0.8 to 2.8e-3 at 64 to 73 dB, CycleGAN by 1e-2 at 57 dB."""

MIN_PSNR_DB = 50.0
"""What fp16 and tf32 must reach besides: on the average of all pixels their roundings are far smaller than in the worst one, a
wrong weight is not."""

ROUNDING_PSNR_DB = 56.0
"""From here on they may err more in the worst pixel, up to MAX_PEAK_TO_RMS: it is rounding for certain."""

MAX_PEAK_TO_RMS = 8.0
"""Largest error over the root of the mean square at ROUNDING_PSNR_DB. CycleGAN's 19 InstanceNorms give 60 dB and 5 to
7e-3, which is 6 times; a mistake that is as small on the average and confined to some place would be 20 times and more."""

VERIFICATION_SIDE_PX = 64
"""Side of the verification input, where the profile takes it: InstanceNorm over fewer pixels magnifies roundings, and more
pixels cost the CPU seconds."""

SAMPLE_COUNT = 4096
"""Numbers of an expected output that a plan keeps: a wrong weight shows everywhere it reaches, so that some of them see it."""


def make_random_input(signature: Signature, shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Makes a random input within the network's value range.

    Args:
        signature: The network's signature.
        shape: Shape of the input, (N, C, H, W).
        seed: Seed of the random generator.

    Returns:
        float32 of this shape: uniform, or standard normal for a latent.
    """
    rng = np.random.default_rng(seed)
    if signature.kind == "latent":
        return rng.standard_normal(shape).astype(np.float32)
    span = signature.high - signature.low
    return (signature.low + span * rng.random(shape)).astype(np.float32)


def make_verification_input(signature: Signature, side: int, seed: int = 0) -> NDArray[np.float32]:
    """Makes a square random input.

    Args:
        signature: The network's signature.
        side: Height and width in pixels, rounded up to what the network takes.
        seed: Seed of the random generator.

    Returns:
        float32 (1, C, side, side), or (1, C, 1, 1) for a latent.
    """
    side = 1 if signature.kind == "latent" else signature.round_up_side(side)
    return make_random_input(signature, (1, signature.input_channels, side, side), seed)


def choose_verification_shape(signature: Signature, profile: Profile) -> tuple[int, int, int, int]:
    """Chooses a small shape (N, C, H, W) that the profile takes, with the batch of a frame."""
    if signature.kind == "latent":
        return profile.smallest
    side = signature.round_up_side(VERIFICATION_SIDE_PX)
    wanted = (signature.frame_batch, signature.input_channels, side, side)
    batch, channels, height, width = (
        min(max(size, low), high) for size, low, high in zip(wanted, profile.smallest, profile.largest, strict=True)
    )
    return batch, channels, height, width


def mixed_coefficients(members: int) -> NDArray[np.float64]:
    """Makes coefficients that are all different and none 0: float64 (N,), summing to 1."""
    row = np.linspace(1.0, 2.0, members)
    return np.asarray(row / row.sum(), np.float64)


def max_allowed_error(psnr: float, precision: str) -> float:
    """Returns the largest relative error that an output with this PSNR in dB may have."""
    limit = MAX_RELATIVE_ERROR[precision]
    if precision == "fp32" or psnr < ROUNDING_PSNR_DB:
        return limit
    rms: float = 10 ** (-psnr / 20)  # of the error, as a fraction of the peak, as the relative error is
    return max(limit, MAX_PEAK_TO_RMS * rms)


def is_within_tolerance(error: float, psnr: float, precision: str) -> bool:
    """Tells whether an output counts as right: the one rule for engines and for what benchmarks compare them with.

    Args:
        error: Largest error over the expected output's largest value, as `relative_error` computes it.
        psnr: In dB, as `psnr_db` computes it.
        precision: "fp32", "tf32" or "fp16".
    """
    return error <= max_allowed_error(psnr, precision) and (precision == "fp32" or psnr >= MIN_PSNR_DB)


def describe_tolerance(precision: str) -> str:
    """Describes what `is_within_tolerance` allows in a few words."""
    floor = "" if precision == "fp32" else f" and {MIN_PSNR_DB:.0f} dB"
    return f"{MAX_RELATIVE_ERROR[precision]:.0e}{floor}"


class Reference:
    """What the network computes at an alpha, by ONNX Runtime on the CPU from float64-blended weights, at one random input.

    Attributes:
        member_names: Names of the members, in family order.
        verification_input: float32 (N, C, H, W); owned by the reference.
    """

    def __init__(self, network: CalibratedNetwork, members: Sequence[Mapping[str, NDArray[Any]]], profile: Profile) -> None:
        """Makes the input and the calibration table; nothing is run yet.

        Args:
            network: The bundle's network.
            members: Each member's weights by name, as `network.read_members` gives them; referenced, not copied.
            profile: The shapes that the engine takes.
        """
        self.member_names = network.bundle.members
        self._network, self._members = network, members
        self._table = network.make_table(members)
        signature = network.bundle.signature
        self.verification_input = make_random_input(signature, choose_verification_shape(signature, profile))

    def compute_reference(self, coefficients: NDArray[np.float64]) -> NDArray[np.float32]:
        """Computes the output at these coefficients, float64 (N,) or (W, N), as a fresh float32 (N, C', H', W')."""
        session = ort_session.open_blended_session(self._network.graph, self._members, coefficients, self._table)
        return ort_session.run_session(session, self.verification_input)


def verify_members(engine: Engine, reference: Reference, precision: str) -> float:
    """Compares each member alone and one mixed alpha with the reference, and requires the first member's bits again at the end.

    Args:
        engine: The engine. Slot 0 is used, and its weights are undefined afterwards.
        reference: What it has to compute.
        precision: "fp32", "tf32" or "fp16".

    Returns:
        The largest relative error.

    Raises:
        EngineError: The engine computes something else.
    """
    count = len(reference.member_names)
    first = np.eye(count)[0]
    outputs, errors = [], []
    for coefficients in (*np.eye(count), mixed_coefficients(count)):
        outputs.append(_refit_and_infer(engine, 0, coefficients, reference.verification_input))
        expected = reference.compute_reference(coefficients)
        errors.append(_check_output(outputs[-1], expected, coefficients, reference.member_names, precision))
    if not np.array_equal(_refit_and_infer(engine, 0, first, reference.verification_input), outputs[0]):
        raise EngineError(
            f"{escape_name(engine.name)}: {escape_name(reference.member_names[0])} gives other bits after other weights were in "
            "the engine than before: something of them stayed behind."
        )
    return _log_error(engine, errors, precision)


def verify_mixed(engine: Engine, reference: Reference, precision: str) -> float:
    """Compares one mixed alpha with the reference, computed anew, as `verify_at` does."""
    return verify_at(engine, mixed_coefficients(len(reference.member_names)), reference, precision)


def verify_at(
    engine: Engine,
    coefficients: NDArray[np.float64],
    reference: Reference,
    precision: str,
    sample: NDArray[np.float32] | None = None,
) -> float:
    """Compares one alpha in every slot with the reference: cheap, for an engine that passed `verify_members` when it was built.

    Args:
        engine: The engine; the weights of every slot are undefined afterwards.
        coefficients: The alpha, float64 (N,) or (W, N).
        reference: What it has to compute.
        precision: "fp32", "tf32" or "fp16".
        sample: What `sample_output` returned for the expected output; None to compute the reference again.

    Returns:
        The largest relative error.

    Raises:
        EngineError: The engine computes something else.
    """
    expected = reference.compute_reference(coefficients) if sample is None else sample
    errors = []
    for slot in range(engine.slots):
        output = _refit_and_infer(engine, slot, coefficients, reference.verification_input)
        output = output if sample is None else sample_output(output)
        errors.append(_check_output(output, expected, coefficients, reference.member_names, precision))
    return _log_error(engine, errors, precision)


def sample_output(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """Picks at most SAMPLE_COUNT numbers of an output, evenly spread: a fresh float32 (S,)."""
    return np.ascontiguousarray(output.reshape(-1)[:: max(1, -(-output.size // SAMPLE_COUNT))])


def _refit_and_infer(
    engine: Engine, slot: int, coefficients: NDArray[np.float64], x: NDArray[np.float32]
) -> NDArray[np.float32]:
    engine.refit(slot, coefficients)
    return engine.infer(slot, x)


def _check_output(
    output: NDArray[np.float32],
    expected: NDArray[np.float32],
    coefficients: NDArray[np.float64],
    names: Sequence[str],
    precision: str,
) -> float:
    error = relative_error(output, expected)
    psnr = psnr_db(output, expected)
    if is_within_tolerance(error, psnr, precision):
        return error
    alpha = ", ".join(f"{escape_name(name)}={share:.3g}" for name, share in zip(names, coefficients, strict=True) if share)
    raise EngineError(
        f"The engine gives another output at {alpha} than ONNX Runtime: it differs by {error:.1e} of the largest value and "
        f"{psnr:.0f} dB, where {describe_tolerance(precision)} are allowed."
    )


def _log_error(engine: Engine, errors: Sequence[float], precision: str) -> float:
    log.info(
        "engine %s verified: relative error %.1e, %.0e allowed (%s)",
        engine.name,
        max(errors),
        MAX_RELATIVE_ERROR[precision],
        precision,
    )
    return max(errors)
