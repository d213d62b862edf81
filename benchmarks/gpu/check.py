"""Whether a mode computes what PyTorch computes, checked before it is timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.prepared import REFERENCE_ALPHAS
from dni_deploy.utils.compare_arrays import psnr_db, relative_error
from engines.interface import Engine

MAX_RELATIVE_ERROR = {"fp32": 1e-4, "fp16": 5e-3}
"""Of the output's largest value. float32 in another order of summing differs by 1e-7 to 1e-5 over hundreds of layers, and TF32
by 3e-4; float16 rounds each activation by up to 5e-4. The smallest error caused by a bug so far was 5e-3 in float32."""
MIN_FP16_PSNR_DB = 50.0
"""Lowest PSNR of float16 output, in dB."""
INVALID_OUTPUT_SCORES = (1e30, -1e3)
"""Error and PSNR of an output with a wrong shape or a value that is not finite; JSON has no infinity."""


@dataclass(frozen=True)
class Agreement:
    """How a mode's output compares with the float64 network's.

    Attributes:
        shape: Of the input that was compared.
        error: Largest difference over the reference's largest value, the worst of the alphas.
        psnr: Lowest PSNR of the alphas in dB; None where the outputs are equal to the bit.
        returns: Whether alpha A -> B -> A gives the bits of A again; None if alpha cannot change.
    """

    shape: tuple[int, ...]
    error: float
    psnr: float | None
    returns: bool | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_agreement(engine: Engine, expected: Mapping[str, NDArray[Any]], *, changes: bool) -> Agreement:
    """Runs every slot at each of REFERENCE_ALPHAS (constant weights at the first member only) and compares.

    Args:
        engine: The engine.
        expected: "x" and the outputs by name of REFERENCE_ALPHAS, as in prepared.py.
        changes: Whether alpha can change.
    """
    x = np.ascontiguousarray(expected["x"], np.float32)
    names = ["mixed", "second", "first"] if changes else ["first"]
    errors, ratios, returns = [], [], []
    for slot in range(engine.slots):
        outputs = {}
        for name in names:
            engine.refit(slot, np.array(REFERENCE_ALPHAS[name]))
            outputs[name] = engine.infer(slot, x)
            errors.append(min(relative_error(outputs[name], expected[name]), INVALID_OUTPUT_SCORES[0]))
            ratios.append(max(psnr_db(outputs[name], expected[name]), INVALID_OUTPUT_SCORES[1]))
        if changes:
            engine.refit(slot, np.array(REFERENCE_ALPHAS["mixed"]))
            returns.append(np.array_equal(engine.infer(slot, x), outputs["mixed"]))
    lowest = min(ratios)
    return Agreement(x.shape, max(errors), None if lowest == np.inf else lowest, all(returns) if changes else None)


def describe_fault(agreement: Agreement, precision: str) -> str | None:
    """Says why a mode with this agreement is not timed, one sentence without a full stop, or None."""
    limit = MAX_RELATIVE_ERROR[precision]
    if not agreement.error <= limit:
        return f"wrong: it differs from PyTorch by {agreement.error:.1e} of the range, allowed are {limit:g}"
    if precision == "fp16" and agreement.psnr is not None and not agreement.psnr >= MIN_FP16_PSNR_DB:
        return f"wrong: {agreement.psnr:.1f} dB against PyTorch, asked for are {MIN_FP16_PSNR_DB:g}"
    return None
