"""The radius of a stack of layers: how many input pixels around one it may depend on.

Each step maps the interval of its outputs that matter, (first, last), to the interval of inputs that they depend on.
Exact for each phase of strided and enlarging layers, where adding up kernel sizes is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

IntervalStep = Callable[[int, int], tuple[int, int]]


def conv_step(kernel: int, stride: int = 1) -> IntervalStep:
    """Makes the step of a convolution with padding kernel // 2."""
    padding = kernel // 2
    return lambda first, last: (first * stride - padding, last * stride + kernel - 1 - padding)


def transposed_conv_step(kernel: int, stride: int, padding: int) -> IntervalStep:
    """Makes the step of a transposed convolution: output = input * stride - padding + tap."""
    return lambda first, last: (-((kernel - 1 - padding - first) // stride), (last + padding) // stride)


def upsample_step(factor: int) -> IntervalStep:
    """Makes the step of a nearest-neighbor enlargement, or of a pixel shuffle."""
    return lambda first, last: (first // factor, last // factor)


def unshuffle_step(factor: int) -> IntervalStep:
    """Makes the step of a pixel unshuffle: factor x factor pixels become channels of one."""
    return lambda first, last: (first * factor, last * factor + factor - 1)


def compute_radius(steps: Sequence[IntervalStep], *, scale: int = 1, multiple: int = 1) -> int:
    """Computes how far away the farthest input pixel is that any output pixel of one input pixel depends on.

    Args:
        steps: From input to output.
        scale: Output pixels per input pixel.
        multiple: The period, in input pixels, after which the layers' phases repeat.

    Returns:
        The radius in input pixels.
    """
    farthest = 0
    for pixel in range(multiple):
        first, last = pixel * scale, pixel * scale + scale - 1
        for step in reversed(steps):
            first, last = step(first, last)
        farthest = max(farthest, pixel - first, last - pixel)
    return farthest
