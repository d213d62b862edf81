"""The images by which a blend is judged, each with its reference or its noise, cropped to the middle where they are large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import escape_name
from dni_deploy.imaging.color_profile import SRGB, ColorProfile
from dni_deploy.imaging.frames import WHITE_LEVELS, AnyFrame, Frame, convert_depth
from dni_deploy.imaging.image_file import ImageFile, read_image
from dni_deploy.imaging.image_pairs import ImagePair, check_reference_size
from dni_deploy.signature import Signature

DEFAULT_CROP_PX = 256
"""Side in input pixels of the part that is used of a larger image: a second a frame or less on two cores."""

MAX_LISTED_CROPS = 3


@dataclass(frozen=True)
class TestImage:
    """An image to judge by.

    Attributes:
        name: The file's.
        frame: What goes into the network, uint8, uint16 or float32 (H, W, 3), at the depth of the file.
        reference: What should come out, scale times as large, at the depth of its file; None without.
        color: What an output is converted to sRGB by before it is compared; sRGB where it is compared as it is.
        crop: What was cut out of the file, such as "256x256 of 640x480"; empty for the whole image.
    """

    name: str
    frame: AnyFrame
    reference: AnyFrame | None = None
    color: ColorProfile = SRGB
    crop: str = ""

    @classmethod
    def from_files(cls, name: str, image: ImageFile, reference: ImageFile | None = None) -> TestImage:
        """Makes one of decoded files. Numbers of one meaning are compared as they are, others as sRGB in 8 bits."""
        if reference is None:
            return cls(name, image.rgb, color=image.color)
        if image.color.icc == reference.color.icc:
            return cls(name, image.rgb, reference.rgb)
        return cls(name, image.rgb, reference.color.convert_for_screen(reference.to_frame()), image.color)

    @cached_property
    def reference_frame(self) -> Frame:
        """The reference in 8 bits, uint8 (H, W, 3)."""
        assert self.reference is not None
        frame: Frame = convert_depth(self.reference, np.uint8)
        return frame

    @cached_property
    def reference_levels(self) -> NDArray[Any]:
        """The reference as `to_levels` has outputs."""
        assert self.reference is not None
        return to_levels(self.reference)

    def to_frame(self, output: AnyFrame) -> Frame:
        """Converts an output to what the reference is compared with: uint8 (H, W, 3)."""
        return self.color.convert_for_screen(convert_depth(output, np.uint8))

    def to_levels(self, output: AnyFrame) -> NDArray[Any]:
        """Converts an output as `to_frame`, but not rounded where its depth is higher and its colors need no conversion."""
        return to_levels(output) if self.color.icc is None else self.to_frame(output)


def to_levels(frame: AnyFrame) -> NDArray[Any]:
    """Converts a frame to levels of 8 bits that are not rounded: float32 in 0..255, or a uint8 frame itself."""
    return frame if frame.dtype == np.uint8 else frame * np.float32(255 / WHITE_LEVELS[frame.dtype])


def read_test_image(pair: ImagePair, signature: Signature, crop: int | None = 0) -> TestImage:
    """Reads an image with its reference, and crops a larger one to its middle.

    Args:
        pair: The image with its reference.
        signature: The network's; the sides of a crop are multiples of its own.
        crop: Side of the crop in input pixels; None for DEFAULT_CROP_PX, 0 for the whole image.

    Raises:
        MismatchError: The reference has another size.
        ImageFileError: A file cannot be read.
    """
    scale = signature.scale
    image = read_image(pair.path, scale=scale)
    height, width = image.rgb.shape[:2]
    clean = None if pair.reference is None else read_image(pair.reference)
    if pair.reference is not None and clean is not None:
        check_reference_size(pair.path, pair.reference, (scale * height, scale * width), clean.rgb.shape[:2])
    whole = TestImage.from_files(pair.name, image, clean)
    side = DEFAULT_CROP_PX if crop is None else crop
    rows, columns = _center_slice(height, side, signature), _center_slice(width, side, signature)
    if (rows, columns) == (slice(0, height), slice(0, width)):
        return whole
    reference = whole.reference
    if reference is not None:
        reference = _copy_part(reference, _scale_slice(rows, scale), _scale_slice(columns, scale))
    size = f"{columns.stop - columns.start}x{rows.stop - rows.start} of {width}x{height}"
    return replace(whole, frame=_copy_part(whole.frame, rows, columns), reference=reference, crop=size)


def read_test_images(pairs: Sequence[ImagePair], signature: Signature, crop: int | None) -> tuple[list[TestImage], list[str]]:
    """Reads images as `read_test_image` does.

    Returns:
        The images, and a sentence for what was cropped.

    Raises:
        InputError: As `read_test_image`, like its other errors.
    """
    images = [read_test_image(pair, signature, crop) for pair in pairs]
    return images, describe_crops([(image.name, image.crop) for image in images])


def describe_crops(crops: Sequence[tuple[str, str]]) -> list[str]:
    """Says which images were cropped; nothing where none was.

    Args:
        crops: Name of each image, and what was cut out as TestImage has it.
    """
    cropped = [f"{escape_name(name)} ({crop})" for name, crop in crops if crop]
    if not cropped:
        return []
    more = f" and {len(cropped) - MAX_LISTED_CROPS} more" if len(cropped) > MAX_LISTED_CROPS else ""
    return [f"Judged by the middle of {', '.join(cropped[:MAX_LISTED_CROPS])}{more}; --crop 0 uses whole images."]


def _copy_part(frame: AnyFrame, rows: slice, columns: slice) -> AnyFrame:
    part: NDArray[Any] = np.ascontiguousarray(frame[rows, columns])
    return part


def _center_slice(size: int, side: int, signature: Signature) -> slice:
    part = max(side - side % signature.multiple, signature.round_up_side(1))
    if side == 0 or size <= max(side, part):
        return slice(0, size)
    start = (size - part) // 2
    return slice(start, start + part)


def _scale_slice(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)
