"""The signature of a function from images to images, measured by running it on small inputs; without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature

ImageFunction = Callable[[NDArray[np.float32]], NDArray[Any]]
"""float32 (N, C, H, W) in 0..1 -> (N, C', H', W'); it may raise whatever it likes."""

TRIED_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
MIN_SIDE_PX = 24
"""Enough for reflection padding by 4 after two halvings."""


def measure_function(run: ImageFunction, channels: Iterable[int]) -> Signature:
    """Measures channels, scale and multiple.

    Values of 0..1 are assumed, and the radius stays unknown.

    Args:
        run: The function.
        channels: Numbers of input channels to try, in order.

    Raises:
        MismatchError: No channel count and no multiple up to 64 gives an image of a whole multiple of the size.
    """
    tried, reason = list(dict.fromkeys(channels)), ""
    for count in tried:
        for multiple in TRIED_MULTIPLES:
            try:
                scale, output_channels = _measure_scale(run, count, multiple)
            except Exception as error:  # whatever an unknown network raises on a size it cannot take
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                continue
            return Signature(count, output_channels, scale, multiple)
    counts = " or ".join(map(str, tried))
    raise MismatchError(
        f"The network's signature could not be measured: on inputs of {counts} channels and sizes up to 64 it gave no "
        f"image of a whole multiple of the size ({reason})."
    )


def _measure_scale(run: ImageFunction, channels: int, multiple: int) -> tuple[int, int]:
    """Runs three sizes, among them an odd and an even number of multiples per side; raises ValueError on a bad size."""
    least = max(MIN_SIDE_PX // multiple, 1) | 1
    results: set[tuple[int, int]] = set()
    for rows, columns in ((least, least + 1), (least + 1, least + 2), (least + 2, least)):
        height, width = rows * multiple, columns * multiple
        y = run(np.random.default_rng(0).random((1, channels, height, width), np.float32))
        scale = y.shape[2] // height
        if y.ndim != 4 or scale < 1 or tuple(y.shape[2:]) != (height * scale, width * scale):
            raise ValueError(f"{height} x {width} became {tuple(y.shape)}")
        results.add((scale, int(y.shape[1])))
    if len(results) != 1:
        raise ValueError(f"the scale depends on the size: {sorted(results)}")
    return results.pop()
