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
from engines.verification import describe_tolerance, is_within_tolerance

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
    psnr = np.inf if agreement.psnr is None else agreement.psnr
    if is_within_tolerance(agreement.error, psnr, precision):
        return None
    return (
        f"wrong: it differs from PyTorch by {agreement.error:.1e} of the largest value and {psnr:.1f} dB, allowed are "
        f"{describe_tolerance(precision)}"
    )
