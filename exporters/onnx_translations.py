"""PyTorch operators that are written to ONNX in another way than PyTorch's exporter has it, or at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18

op: Any = opset18
"""Its stubs know the types of ONNX's values, not those of a graph that is being made."""


def translate_pixel_unshuffle(image: Any, downscale_factor: int) -> Any:
    """Writes a pixel unshuffle of float (N, C, H, W) without arithmetic on sizes, which not every runtime has.

    The exporter's own is two Reshapes whose shapes are computed from the image's. ONNX's SpaceToDepth has the channels of one
    place last, PyTorch's operator has them first.
    """
    channels, block = image.shape[1], downscale_factor
    order = [(row * block + column) * channels + channel
             for channel in range(channels) for row in range(block) for column in range(block)]  # fmt: skip
    return op.Gather(op.SpaceToDepth(image, blocksize=block), op.Constant(value_ints=order), axis=1)


def translate_stable_sort(values: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Writes a stable sort, which the exporter lacks: of two equal values, TopK has the one of the lower index first, too."""
    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.pixel_unshuffle.default: translate_pixel_unshuffle,
    torch.ops.aten.sort.stable: translate_stable_sort,
}
"""PyTorch's operator -> the function that writes it."""
