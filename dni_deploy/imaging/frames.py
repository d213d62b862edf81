"""Frame: one picture as uint8 RGB, and its way into and out of a network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, MismatchError, UsageError, escape_name
from dni_deploy.signature import Signature

Frame = NDArray[np.uint8]
"""uint8 (H, W, 3), RGB, row by row."""


def to_network(frame: Frame, signature: Signature) -> NDArray[np.float32]:
    """One frame as the network wants it: float32 (1, 3, H', W') in [low, high], a fresh array.

    H' and W' are H and W rounded up to `signature.multiple`; the rows and columns that are added mirror the picture's lower
    and right border, or repeat it where the picture is too small to mirror. A network of one channel gets the three colours
    as a batch of three grey pictures, (3, 1, H', W').
    Raises UsageError if `frame` is not uint8 (H, W, 3), MismatchError if the network does not take pictures of 1 or 3 channels.
    """
    check_frame(frame)
    check_signature(signature)
    height, width = frame.shape[:2]
    padded_height, padded_width = padded_size(height, width, signature.multiple)
    x = np.empty((3, padded_height, padded_width), np.float32)
    inside = x[:, :height, :width]
    # A division, as in PyTorch's own uint8 to float: multiplying by 1/255 differs in the last bit for 1 value in 3.
    np.divide(frame.transpose(2, 0, 1), np.float32(255), out=inside, dtype=np.float32)
    if (signature.low, signature.high) != (0.0, 1.0):
        inside *= np.float32(signature.high - signature.low)
        inside += np.float32(signature.low)
    if padded_height > height:
        x[:, height:, :width] = inside[:, mirror_indices(height, padded_height - height)]
    if padded_width > width:
        x[:, :, width:] = x[:, :, mirror_indices(width, padded_width - width)]
    return x[:, None] if signature.input_channels == 1 else x[None]


def from_network(y: NDArray[np.float32], frame: Frame, signature: Signature) -> Frame:
    """What the network made of `frame`, as a frame: uint8 (scale * H, scale * W, 3), a fresh array.

    y: the raw network's output for to_network(frame, signature). Its padding is cut off; a residual network's output is
    subtracted from the frame; the value range is mapped to 0..255, rounded half to even, and clamped.
    Raises EngineError if y has another shape or holds a NaN or an infinity: a broken picture is never shown as a black one.
    """
    return round_to_uint8(to_pixels(y, frame, signature))


def to_pixels(y: NDArray[np.float32], frame: Frame, signature: Signature) -> NDArray[np.float32]:
    """What the network made of `frame`, as float32 (3, scale * H, scale * W) in 0..255, neither rounded nor clamped, a fresh array.

    For whoever goes on computing: rounding twice would add an error of its own. y and errors as in from_network.
    """
    height, width = frame.shape[:2]
    scale = signature.scale
    padded_height, padded_width = padded_size(height, width, signature.multiple)
    size = (scale * padded_height, scale * padded_width)
    expected = (3, 1, *size) if signature.output_channels == 1 else (1, 3, *size)
    if y.shape != expected:
        raise EngineError(f"The network gave an array of shape {y.shape} where {expected} was expected for this frame.")
    pixels = y.reshape(3, *size)[:, : scale * height, : scale * width]
    finite = np.isfinite(pixels)
    if not finite.all():
        count = int(finite.size - np.count_nonzero(finite))
        raise EngineError(
            f"The network's output holds {count} values of {finite.size} that are NaN or infinite; "
            "the picture was not made. Check the checkpoints and the value range."
        )
    span = np.float32(signature.high - signature.low)
    if signature.residual:
        scaled: NDArray[np.float32] = np.multiply(pixels, np.float32(255) / -span, dtype=np.float32)
        scaled += frame.transpose(2, 0, 1)
    else:
        scaled = np.subtract(pixels, np.float32(signature.low), dtype=np.float32)
        scaled *= np.float32(255) / span
    return scaled


def round_to_uint8(pixels: NDArray[np.float32]) -> Frame:
    """float32 (3, H, W) in 0..255, rounded half to even and clamped: uint8 (H, W, 3), a fresh array. `pixels` is used up."""
    np.rint(pixels, out=pixels)
    np.clip(pixels, 0, 255, out=pixels)
    out = np.empty((*pixels.shape[1:], 3), np.uint8)
    np.copyto(out, pixels.transpose(1, 2, 0), casting="unsafe")
    return out


def check_frame(frame: Any) -> None:
    """Raises UsageError unless `frame` is a uint8 array (H, W, 3) with at least one pixel."""
    if not isinstance(frame, np.ndarray):
        raise UsageError(f"A frame is a uint8 array (height, width, 3); got {escape_name(type(frame).__name__)}.")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise UsageError(f"A frame is a uint8 array (height, width, 3), RGB; got {frame.dtype} {frame.shape}.")


def check_signature(signature: Signature) -> None:
    """Raises MismatchError if the network does not turn an RGB picture into an RGB picture."""
    channels = (signature.input_channels, signature.output_channels)
    if signature.kind != "image":
        raise MismatchError("This network makes pictures from noise and takes no picture; use Session.infer with an array.")
    if channels not in ((3, 3), (1, 1)):
        raise MismatchError(
            f"Frames need a network of 3 channels or of 1; this one takes {channels[0]} and gives {channels[1]}. "
            "Use Session.infer with arrays."
        )
    if signature.residual and signature.scale != 1:
        raise MismatchError(f"A residual network must keep the picture's size; this one has scale {signature.scale}.")


def padded_size(height: int, width: int, multiple: int) -> tuple[int, int]:
    """Height and width rounded up to the multiple."""
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def mirror_indices(size: int, count: int) -> NDArray[np.intp]:
    """Indices of the `count` rows or columns behind the last one: mirrored without the border, or the last one repeated."""
    if count < size:
        return np.arange(size - 2, size - 2 - count, -1)
    return np.full(count, size - 1)


def pad_frame(frame: Frame, multiple: int) -> Frame:
    """The frame as to_network pads it: uint8, height and width multiples of `multiple`; the frame itself if they are."""
    height, width = frame.shape[:2]
    padded_height, padded_width = padded_size(height, width, multiple)
    if padded_height > height:
        frame = np.concatenate([frame, frame[mirror_indices(height, padded_height - height)]])
    if padded_width > width:
        frame = np.concatenate([frame, frame[:, mirror_indices(width, padded_width - width)]], axis=1)
    return frame
