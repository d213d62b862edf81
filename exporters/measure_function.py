"""The signature of a function from images to images, measured by running it on small inputs; without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import MismatchError
from dni_deploy.signature import Signature

ImageFunction = Callable[[NDArray[np.float32]], NDArray[Any]]
"""float32 (N, C, H, W) in 0..1 -> (N, C', H', W'); it may raise whatever it likes."""

TRIED_MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TRIED_SIDES_PX = (24, 96)
"""24 is enough for reflection padding by 4 after two halvings; 96 for all but a few networks that pad or pool more."""


def measure_function(run: ImageFunction, channels: Iterable[int]) -> Signature:
    """Measures channels, scale and multiple.

    Values of 0..1 are assumed, and the radius stays unknown.

    Args:
        run: The function.
        channels: Numbers of input channels to try, in order.

    Raises:
        MismatchError: No channel count and no multiple up to 256 gives an image of a whole multiple of the size.
    """
    tried, reasons = list(dict.fromkeys(channels)), []
    for count, multiple, side in product(tried, TRIED_MULTIPLES, TRIED_SIDES_PX):
        try:
            scale, output_channels = _measure_scale(run, count, multiple, side)
        except Exception as error:  # whatever an unknown network raises on a size it cannot take
            reasons.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
            continue
        return Signature(count, output_channels, scale, multiple)
    counts = " or ".join(map(str, tried))
    raise MismatchError(
        f"The network's signature could not be measured: on inputs of {counts} channels and sizes up to "
        f"{3 * TRIED_MULTIPLES[-1]} it gave no image of a whole multiple of the size ({reasons[0]} with {tried[0]} channels)."
    )


def find_border(input_size: tuple[int, int], output_size: tuple[int, int]) -> int:
    """Finds what a network's convolutions cut off, where output = scale * (input - 2 * border).

    Args:
        input_size: Height and width in pixels, two different numbers.
        output_size: Of the network's output.

    Returns:
        Pixels of the input on each side; 0 where nothing is cut off, or for another relation.
    """
    (height, width), (output_height, output_width) = input_size, output_size
    scale, rest = divmod(output_width - output_height, width - height)
    missing = scale * height - output_height
    return missing // (2 * scale) if rest == 0 and scale > 0 and missing > 0 and missing % (2 * scale) == 0 else 0


def _measure_scale(run: ImageFunction, channels: int, multiple: int, side: int) -> tuple[int, int]:
    """Runs three sizes, among them an odd and an even number of multiples per side; raises ValueError on a bad size."""
    least = max(side // multiple, 1) | 1
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
