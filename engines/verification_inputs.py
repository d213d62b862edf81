"""Probe: the random input and the reference output that an engine is compared with before its first frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dni_deploy.signature import Signature


def make_verification_input(signature: Signature, side: int, seed: int = 0) -> NDArray[np.float32]:
    """A random input within the network's range: float32 (1, C, side, side), or (1, C, 1, 1) for a latent."""
    if signature.kind == "latent":
        return make_random_input(signature, (1, signature.input_channels, 1, 1), seed)
    side = -(-side // signature.multiple) * signature.multiple
    return make_random_input(signature, (1, signature.input_channels, side, side), seed)


def make_random_input(signature: Signature, shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """The same of any shape."""
    rng = np.random.default_rng(seed)
    if signature.kind == "latent":
        return rng.standard_normal(shape).astype(np.float32)
    span = signature.high - signature.low
    return (signature.low + span * rng.random(shape)).astype(np.float32)


def mixed_coefficients(members: int) -> NDArray[np.float64]:
    """A share for every member, all different and none 0: float64 (N,), summing to 1."""
    shares = np.linspace(1.0, 2.0, members)
    return np.asarray(shares / shares.sum(), np.float64)
