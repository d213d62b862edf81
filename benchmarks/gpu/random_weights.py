"""Random weights: a family made from names, shapes and a seed, without a checkpoint and without PyTorch.

Scaled after He et al., 2015, so that activations keep their size through hundreds of layers and float16 can hold them.
Speed does not depend on training. Members are small steps away from one ancestor, as fine-tuned networks are.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

State = dict[str, NDArray[np.float32]]
MEMBER_DISTANCE = 0.05
"""Distance of a member from the ancestor, relative to the spread of each tensor."""


def make_random_family(shapes: Mapping[str, tuple[int, ...]], members: int = 2, seed: int = 0) -> dict[str, State]:
    """Makes state dicts by member name, m0 the ancestor itself; BatchNorm variances are positive."""
    rng = np.random.default_rng(seed)
    middles = {name: _middle(name, shapes) for name in shapes}
    spreads = {name: _spread(name, shape, middles[name]) for name, shape in shapes.items()}
    ancestor = {
        name: (middles[name] + spreads[name] * rng.standard_normal(shape, np.float32)).astype(np.float32)
        for name, shape in shapes.items()
    }
    states = {"m0": ancestor}
    for number in range(1, members):
        states[f"m{number}"] = {
            name: value + np.float32(MEMBER_DISTANCE * spreads[name]) * rng.standard_normal(value.shape, np.float32)
            for name, value in ancestor.items()
        }
    for state in states.values():
        for name, value in state.items():
            if name.endswith("running_var"):
                state[name] = np.maximum(value, np.float32(0.25))
    return states


def digest_states(states: Mapping[str, State]) -> str:
    """Digests every number, SHA-256 in hex, so that two machines can check that they use the same family."""
    total = sha256()
    for state in states.values():
        for value in state.values():
            total.update(np.ascontiguousarray(value, "<f4").tobytes())
    return total.hexdigest()


def _middle(name: str, shapes: Mapping[str, tuple[int, ...]]) -> float:
    if name.endswith("running_var"):
        return 1.0
    if name.endswith(".weight") and len(shapes[name]) == 1:  # a norm also has a bias, a PReLU has none
        return 1.0 if f"{name.removesuffix('weight')}bias" in shapes else 0.25
    return 0.0


def _spread(name: str, shape: tuple[int, ...], middle: float) -> float:
    if len(shape) > 1 and int(np.prod(shape[1:])) > 1:
        return float(np.sqrt(2.0 / np.prod(shape[1:])))
    return 0.1 * middle or 0.01
