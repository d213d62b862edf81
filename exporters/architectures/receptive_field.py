"""Reach: how many input pixels around one a stack of layers may depend on.

Each step takes the interval of its outputs that matter, (first, last), to the interval of inputs that they depend on.
Exact for each phase of strided and enlarging layers, where adding up kernel sizes is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

IntervalStep = Callable[[int, int], tuple[int, int]]


def conv_step(kernel: int, stride: int = 1) -> IntervalStep:
    """A convolution with padding kernel // 2."""
    padding = kernel // 2
    return lambda first, last: (first * stride - padding, last * stride + kernel - 1 - padding)


def transposed_conv_step(kernel: int, stride: int, padding: int) -> IntervalStep:
    """A transposed convolution: output = input * stride - padding + tap."""
    return lambda first, last: (-((kernel - 1 - padding - first) // stride), (last + padding) // stride)


def upsample_step(factor: int) -> IntervalStep:
    """Nearest-neighbour enlargement, or a pixel shuffle."""
    return lambda first, last: (first // factor, last // factor)


def unshuffle_step(factor: int) -> IntervalStep:
    """A pixel unshuffle: factor x factor pixels become channels of one."""
    return lambda first, last: (first * factor, last * factor + factor - 1)


def compute_radius(steps: Sequence[IntervalStep], *, scale: int = 1, multiple: int = 1) -> int:
    """The farthest input pixel that any output pixel of one input pixel depends on.

    steps      from input to output.
    multiple   the period, in input pixels, after which the layers' phases repeat.
    """
    farthest = 0
    for pixel in range(multiple):
        first, last = pixel * scale, pixel * scale + scale - 1
        for step in reversed(steps):
            first, last = step(first, last)
        farthest = max(farthest, pixel - first, last - pixel)
    return farthest
