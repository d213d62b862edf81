"""A frame, and its conversion to and from the arrays of a network in NumPy: the reference that every engine's own is equal to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image

from dni_deploy.errors import EngineError, MismatchError, UsageError, escape_name
from dni_deploy.signature import Signature

Frame = NDArray[np.uint8]
"""uint8 (H, W, 3), RGB, row by row."""

AnyFrame = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
"""(H, W, 3), RGB: white is 255, 65535 or 1. A float32 frame is neither rounded nor clamped."""

WHITE_LEVELS: Mapping[np.dtype[Any], float] = {
    np.dtype(np.uint8): 255.0,
    np.dtype(np.uint16): 65535.0,
    np.dtype(np.float32): 1.0,
}
"""The value of white by a frame's dtype; black is 0."""


RED_WEIGHT, BLUE_WEIGHT = 0.299, 0.114
"""Of luma; green has the rest. Black is 0 and white is white: the full range of JPEG, not the 16 to 235 of video.

Source: ITU-R BT.601-7, 2.5.1; JFIF 1.02.
"""


def to_network(frame: AnyFrame, signature: Signature) -> NDArray[np.float32]:
    """Converts a frame to the input of a network.

    Args:
        frame: uint8, uint16 or float32 (H, W, 3), RGB.
        signature: Of the network; one that takes 3 channels or 1.

    Returns:
        float32 (1, 3, H', W') in [low, high], a fresh array. H' and W' are H and W rounded up to what the network takes
        (`Signature.round_up_side`); the rows and columns that are added mirror the lower and right border, or repeat it where
        the frame is too small to mirror. A network of one channel gets the three colors as a batch of three gray images,
        (3, 1, H', W'), or one that takes luma that alone, (1, 1, H', W').

    Raises:
        UsageError: `frame` is none.
        MismatchError: The network does not take images of 1 or 3 channels.
    """
    check_frame(frame)
    check_signature(signature)
    height, width = frame.shape[:2]
    padded_height, padded_width = padded_size(height, width, signature)
    if signature.color == "luma":
        luma = to_luma(pad_frame(frame, signature))
        luma /= np.float32(WHITE_LEVELS[frame.dtype])
        luma *= np.float32(signature.high - signature.low)
        luma += np.float32(signature.low)
        return luma[None, None]
    x = np.empty((3, padded_height, padded_width), np.float32)
    scale_to_range(frame, signature, x[:, :height, :width])
    if padded_height > height:
        x[:, height:, :width] = x[:, mirror_indices(height, padded_height - height), :width]
    if padded_width > width:
        x[:, :, width:] = x[:, :, mirror_indices(width, padded_width - width)]
    return x[:, None] if signature.input_channels == 1 else x[None]


def to_luma(frame: AnyFrame) -> NDArray[np.float32]:
    """Computes luma, float32 (H, W) in 0..white of the frame's dtype; exactly the gray where the three colors are equal."""
    red, green, blue = (frame[..., channel].astype(np.float32) for channel in range(3))
    luma: NDArray[np.float32] = green + np.float32(RED_WEIGHT) * (red - green) + np.float32(BLUE_WEIGHT) * (blue - green)
    return luma


def scale_to_range(frame: AnyFrame, signature: Signature, out: NDArray[np.float32]) -> None:
    """Maps a frame (H, W, 3) from 0..white to the value range of a network, into `out`, float32 (3, H, W)."""
    # A division, as in PyTorch's own uint8 to float: multiplying by 1/255 differs in the last bit for 1 value in 3.
    np.divide(frame.transpose(2, 0, 1), np.float32(WHITE_LEVELS[frame.dtype]), out=out, dtype=np.float32)
    if (signature.low, signature.high) != (0.0, 1.0):
        out *= np.float32(signature.high - signature.low)
        out += np.float32(signature.low)


def from_network(y: NDArray[np.float32], frame: AnyFrame, signature: Signature) -> NDArray[Any]:
    """Converts the output of a network to a frame.

    Args:
        y: The network's output for `to_network(frame, signature)`.
        frame: uint8, uint16 or float32 (H, W, 3), the input frame.
        signature: Of the network.

    Returns:
        (scale * H, scale * W, 3) of the frame's dtype, a fresh array: the output without its padding (for a residual network
        subtracted from the frame), mapped from the value range to 0..white; integers are rounded half to even, and clamped.

    Raises:
        EngineError: y has another shape or holds a NaN or an infinity: a broken output is never shown as a black frame.
    """
    return round_pixels(to_pixels(y, frame, signature), frame.dtype)


def to_pixels(y: NDArray[np.float32], frame: AnyFrame, signature: Signature) -> NDArray[np.float32]:
    """Converts the output of a network to pixels that are neither rounded nor clamped.

    For callers that go on computing: rounding twice would add an error of its own.

    Args:
        y: As in `from_network`.
        frame: As in `from_network`.
        signature: As in `from_network`.

    Returns:
        float32 (3, scale * H, scale * W) in 0..white of the frame's dtype, a fresh array.

    Raises:
        EngineError: As in `from_network`.
    """
    height, width = signature.scale * frame.shape[0], signature.scale * frame.shape[1]
    pixels = check_output(y, frame, signature)[:, :height, :width]
    is_luma = signature.color == "luma"
    finite = np.isfinite(pixels)
    if not finite.all():
        raise not_finite_error(int(finite.size - np.count_nonzero(finite)), finite.size)
    factor = output_factor(signature, frame.dtype)
    if signature.residual:
        scaled: NDArray[np.float32] = np.multiply(pixels, factor, dtype=np.float32)
        scaled += to_luma(frame) if is_luma else frame.transpose(2, 0, 1)
    else:
        scaled = np.subtract(pixels, np.float32(signature.low), dtype=np.float32)
        scaled *= factor
    return add_colors(scaled[0], frame, signature.scale) if is_luma else scaled


def add_colors(luma: NDArray[np.float32], frame: AnyFrame, scale: int) -> NDArray[np.float32]:
    """Adds the colors of a frame to another luma: the differences of red, green and blue from the luma, enlarged.

    That is the same as enlarging Cb and Cr, of which they are multiples and sums.

    Args:
        luma: float32 (scale * H, scale * W), in 0..white of the frame's dtype.
        frame: The frame (H, W, 3).
        scale: How many times as high and wide the luma is.

    Returns:
        float32 (3, scale * H, scale * W), neither rounded nor clamped, a fresh array.
    """
    height, width = luma.shape
    old_luma = to_luma(frame)
    pixels = np.empty((3, height, width), np.float32)
    for channel in range(3):
        difference = frame[..., channel].astype(np.float32) - old_luma
        if scale > 1:
            difference = np.asarray(Image.fromarray(difference).resize((width, height), Image.Resampling.BICUBIC))
        np.add(luma, difference, out=pixels[channel])
    return pixels


def check_output(y: NDArray[np.float32], frame: AnyFrame, signature: Signature) -> NDArray[np.float32]:
    """Checks the shape of a network's output for a frame.

    Returns:
        The output as float32 (3, scale * H', scale * W'), or (1, ...) of luma, with its padding; a view.

    Raises:
        EngineError: y has another shape.
    """
    height, width = padded_size(frame.shape[0], frame.shape[1], signature)
    size = (signature.scale * height, signature.scale * width)
    expected = (signature.frame_batch, signature.output_channels, *size)
    if y.shape != expected:
        raise EngineError(f"The network gave an array of shape {y.shape} where {expected} was expected for this frame.")
    return y.reshape(-1, *size)


def output_factor(signature: Signature, dtype: np.dtype[Any]) -> np.float32:
    """Returns what the values of a network are multiplied by to be those of a frame; negative for a residual network."""
    span = np.float32(signature.high - signature.low)
    white: np.float32 = np.divide(np.float32(WHITE_LEVELS[dtype]), span)
    return -white if signature.residual else white


def not_finite_error(count: int, size: int) -> EngineError:
    """Makes the error for an output of `size` values, `count` of them a NaN or an infinity."""
    return EngineError(
        f"The network's output holds {count} values of {size} that are NaN or infinite; "
        "the frame was not made. Check the checkpoints and the value range."
    )


def round_pixels(pixels: NDArray[np.float32], dtype: DTypeLike = np.uint8) -> NDArray[Any]:
    """Rounds pixels half to even and clamps them; for float32 frames it does neither.

    Args:
        pixels: float32 (3, H, W) in 0..white; used as scratch memory.
        dtype: Of the frame.

    Returns:
        (H, W, 3) of that dtype, a fresh array.
    """
    dtype = np.dtype(dtype)
    if dtype != np.float32:
        np.rint(pixels, out=pixels)
        np.clip(pixels, 0, WHITE_LEVELS[dtype], out=pixels)
    out = np.empty((*pixels.shape[1:], 3), dtype)
    np.copyto(out, pixels.transpose(1, 2, 0), casting="unsafe")
    return out


def convert_depth(values: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """Converts the values of a frame, or of its transparency, to another depth, black to black and white to white.

    Args:
        values: uint8, uint16 or float32, of any shape.
        dtype: One of these. To an integer one, values are rounded half to even, and clamped.

    Returns:
        An array of that dtype; `values` itself where it has it.
    """
    dtype = np.dtype(dtype)
    if values.dtype == dtype:
        return values
    scaled: NDArray[Any] = values * np.float32(WHITE_LEVELS[dtype] / WHITE_LEVELS[values.dtype])
    if dtype != np.float32:
        scaled = np.rint(np.clip(scaled, 0, WHITE_LEVELS[dtype])).astype(dtype)
    return scaled


_FRAME_RULE = "A frame is a uint8, uint16 or float32 array (height, width, 3), RGB"


def check_frame(frame: Any) -> None:
    """Checks that an object is a frame.

    Raises:
        UsageError: It is not a uint8, uint16 or float32 array (H, W, 3) with at least one pixel.
    """
    if not isinstance(frame, np.ndarray):
        raise UsageError(f"{_FRAME_RULE}; got {escape_name(type(frame).__name__)}.")
    if frame.dtype not in WHITE_LEVELS or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise UsageError(f"{_FRAME_RULE}; got {frame.dtype} {frame.shape}.")


def check_signature(signature: Signature) -> None:
    """Checks that a network turns frames into frames.

    Raises:
        MismatchError: It takes no image, other channels, or is residual with a scale above 1.
    """
    if signature.kind != "image":
        raise MismatchError("This network makes images from noise and takes none; use Session.infer with an array.")
    if not signature.takes_frames:
        raise MismatchError(
            f"Frames need a network of 3 channels or of 1; this one takes {signature.input_channels} and gives "
            f"{signature.output_channels}. Use Session.infer with arrays."
        )
    if signature.residual and signature.scale != 1:
        raise MismatchError(f"A residual network must keep the image's size; this one has scale {signature.scale}.")


def padded_size(height: int, width: int, signature: Signature) -> tuple[int, int]:
    """Rounds height and width, in pixels, up to what the network takes."""
    return signature.round_up_side(height), signature.round_up_side(width)


def mirror_indices(size: int, count: int) -> NDArray[np.intp]:
    """Lists the rows (or columns) that pad a side of `size` pixels by `count`.

    Returns:
        intp (count,): the rows mirrored at the last one, without it; the last one repeated where there are too few to mirror.
    """
    if count < size:
        return np.arange(size - 2, size - 2 - count, -1)
    return np.full(count, size - 1)


def pad_frame(frame: AnyFrame, signature: Signature) -> NDArray[Any]:
    """Pads a frame as `to_network` does.

    Returns:
        The frame's dtype, in a height and width that the network takes; the frame itself if its own are.
    """
    height, width = frame.shape[:2]
    padded_height, padded_width = padded_size(height, width, signature)
    if padded_height > height:
        frame = np.concatenate([frame, frame[mirror_indices(height, padded_height - height)]])
    if padded_width > width:
        frame = np.concatenate([frame, frame[:, mirror_indices(width, padded_width - width)]], axis=1)
    return frame
