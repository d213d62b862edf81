"""PyTorch operators that are written to ONNX in another way than PyTorch's exporter has it, or at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset18

op: Any = opset18
"""Its stubs know the types of ONNX's values, not those of a graph that is being made."""


def translate_pixel_unshuffle(image: Any, downscale_factor: int) -> Any:
    """Writes a pixel unshuffle of float (N, C, H, W) as one convolution, which every runtime has.

    The exporter's own is two Reshapes whose shapes are computed from the image's. SpaceToDepth has another order of channels, and
    with the Gather that restores it OpenVINO 2026.4.1 computes something else in the convolution behind it.
    """
    channels, block = image.shape[1], downscale_factor
    kernels = np.tile(np.eye(block * block, dtype=np.float32).reshape(-1, 1, block, block), (channels, 1, 1, 1))
    weight = op.Constant(value=onnx.numpy_helper.from_array(kernels))
    return op.Conv(image, weight, kernel_shape=[block, block], strides=[block, block], group=channels)


def translate_stable_sort(values: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """Writes a stable sort, which the exporter lacks: of two equal values, TopK has the one of the lower index first, too."""
    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.pixel_unshuffle.default: translate_pixel_unshuffle,
    torch.ops.aten.sort.stable: translate_stable_sort,
}
"""PyTorch's operator -> the function that writes it."""
