"""Verify: an engine on a GPU computes what ONNX Runtime computes on the CPU at the same alpha, before its first frame.

Weights that are wrong say nothing: TensorRT 11.3 can drop a GEMM's bias in a refittable engine, old weights were seen to stay behind
after A -> B -> A (TensorRT issue 3628), and what the parser folds at build time is silently not refitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.blending.batchnorm_stats import blend_tensors
from dni_deploy.blending.batchnorm_stats_file import read_recalibration
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import psnr_db, relative_error
from engines.interface import Engine
from engines.onnxruntime_cpu import runtime
from engines.profile import Profile
from engines.verification_inputs import make_random_input, mixed_coefficients

MAX_RELATIVE_ERROR = {"fp32": 1e-4, "fp16": 5e-3}
"""Of the output's largest value. fp32: sums in another order differ by 1e-7 to 1e-5 over hundreds of layers (TF32, which is off,
would by 3.5e-4), and the smallest mistake that was ever seen, BatchNorm folded before blending, is 5e-3. fp16: a rounding is
2^-11 = 5e-4, and ten times that is what hundreds of them add up to in the worst pixel."""

MIN_FP16_PSNR_DB = 50.0
"""Decibels that float16 must reach besides: on the average of all pixels its roundings are far smaller than in the worst one, a
wrong weight is not."""

FP16_ROUNDING_PSNR_DB, MAX_PEAK_TO_RMS = 56.0, 8.0
"""A float16 network may err more in its worst pixel where that is rounding for certain: at so many decibels, and by no more than so
many times the root of the mean square. CycleGAN's 19 InstanceNorms give 60 dB and 5 to 7e-3, which is 6 times; a mistake that is
as small on the average and confined to some place would be 20 times and more."""

VERIFICATION_SIDE_PX = 64
"""Of the probe, where the profile takes it: InstanceNorm over fewer pixels magnifies roundings, and more cost the CPU seconds."""

SAMPLE_COUNT = 4096
"""Numbers of an expected output that a plan keeps: a wrong weight shows everywhere it reaches, so that some of them see it."""


class Reference:
    """What the network computes at an alpha, by ONNX Runtime on the CPU from float64-blended weights, at one random input `x`."""

    def __init__(self, bundle: Bundle, members: Sequence[Mapping[str, NDArray[Any]]], profile: Profile) -> None:
        self.member_names = bundle.members
        self._bundle, self._members = bundle, members
        self._recalibration = read_recalibration(bundle, members)
        self.verification_input = make_random_input(bundle.signature, choose_verification_shape(bundle.signature, profile))

    def compute_reference(self, coefficients: NDArray[np.float64]) -> NDArray[np.float32]:
        """The output at these shares."""
        weights = blend_tensors(self._members, coefficients, self._recalibration)
        return runtime.run_session(
            runtime.open_cpu_session(self._bundle.read_graph_with_weights(weights)), self.verification_input
        )


def choose_verification_shape(signature: Signature, profile: Profile) -> tuple[int, int, int, int]:
    """A small shape that the profile takes."""
    batch, channels, height, width = profile.smallest
    if signature.kind == "latent":
        return profile.smallest
    side = -(-VERIFICATION_SIDE_PX // signature.multiple) * signature.multiple
    _, _, tallest, widest = profile.largest
    return batch, channels, min(max(height, side), tallest), min(max(width, side), widest)


def verify_members(engine: Engine, reference: Reference, precision: str) -> float:
    """Each member alone and one mixed alpha against the reference, then the first member again: the very bits of the first time.

    Returns the largest relative error. Raises EngineError. Uses slot 0, whose weights are nobody's then.
    """
    count = len(reference.member_names)
    first = np.eye(count)[0]
    outputs, errors = [], []
    for shares in (*np.eye(count), mixed_coefficients(count)):
        outputs.append(_refit_and_infer(engine, 0, shares, reference.verification_input))
        errors.append(
            _check_output(outputs[-1], reference.compute_reference(shares), shares, reference.member_names, precision)
        )
    if not np.array_equal(_refit_and_infer(engine, 0, first, reference.verification_input), outputs[0]):
        raise EngineError(
            f"{escape_name(engine.name)}: {escape_name(reference.member_names[0])} gives other bits after other weights were in the engine than before: "
            "something of them stayed behind."
        )
    return max(errors)


def verify_mixed(engine: Engine, reference: Reference, precision: str) -> float:
    """`verify_at` one mixed alpha, computed anew."""
    return verify_at(engine, mixed_coefficients(len(reference.member_names)), reference, precision)


def verify_at(
    engine: Engine,
    coefficients: NDArray[np.float64],
    reference: Reference,
    precision: str,
    sample: NDArray[np.float32] | None = None,
) -> float:
    """One alpha in every slot: cheap, for an engine that passed `verify_members` when it was built. Raises EngineError.

    sample: what `sample_output` gave of the expected output then; without it the reference is computed again.
    """
    expected = reference.compute_reference(coefficients) if sample is None else sample
    errors = []
    for slot in range(engine.slots):
        got = _refit_and_infer(engine, slot, coefficients, reference.verification_input)
        got = got if sample is None else sample_output(got)
        errors.append(_check_output(got, expected, coefficients, reference.member_names, precision))
    return max(errors)


def sample_output(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """At most SAMPLE_COUNT numbers of an output, evenly spread: float32 (S,)."""
    return np.ascontiguousarray(output.reshape(-1)[:: max(1, -(-output.size // SAMPLE_COUNT))])


def _refit_and_infer(
    engine: Engine, slot: int, coefficients: NDArray[np.float64], x: NDArray[np.float32]
) -> NDArray[np.float32]:
    engine.refit(slot, coefficients)
    return engine.infer(slot, x)


def _check_output(
    got: NDArray[np.float32],
    expected: NDArray[np.float32],
    coefficients: NDArray[np.float64],
    names: Sequence[str],
    precision: str,
) -> float:
    error = relative_error(got, expected)
    decibels = psnr_db(got, expected)
    if _is_within_tolerance(error, decibels, precision):
        return error
    told = ", ".join(f"{escape_name(name)}={share:.3g}" for name, share in zip(names, coefficients, strict=True) if share)
    raise EngineError(
        f"The engine gives another picture at {told} than ONNX Runtime: it differs by {error:.1e} of the largest value and "
        f"{decibels:.0f} dB, where {MAX_RELATIVE_ERROR[precision]:.0e}{f' and {MIN_FP16_PSNR_DB:.0f} dB' if precision == 'fp16' else ''} are allowed."
    )


def _is_within_tolerance(error: float, decibels: float, precision: str) -> bool:
    if precision == "fp32" or decibels < MIN_FP16_PSNR_DB:
        return precision == "fp32" and error <= MAX_RELATIVE_ERROR["fp32"]
    mean = 10 ** (-decibels / 20)  # the root of the mean square, as a share of the peak, as `error` is
    return error <= MAX_RELATIVE_ERROR["fp16"] or (decibels >= FP16_ROUNDING_PSNR_DB and error <= MAX_PEAK_TO_RMS * mean)
