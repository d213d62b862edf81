"""The images by which a blend is judged, each with its reference or its noise, cropped to the middle where they are large."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dni_deploy.errors import InputError, MismatchError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import read_image
from dni_deploy.imaging.image_paths import list_images
from dni_deploy.signature import Signature

DEFAULT_CROP_PX = 256
"""Side in input pixels of the part that is used of a larger image: a second a frame or less on two cores."""

MAX_LISTED_CROPS = 3


@dataclass(frozen=True)
class TestImage:
    """An image to judge by.

    Attributes:
        name: The file's.
        frame: What goes into the network, uint8 (H, W, 3).
        reference: What should come out, uint8, scale times as large; None without.
    """

    name: str
    frame: Frame
    reference: Frame | None = None


def pair_with_references(
    images: Sequence[Path], references: Sequence[str | os.PathLike[str]]
) -> list[tuple[Path, Path | None]]:
    """Pairs each image with its reference.

    Args:
        images: The images.
        references: One file for each image in their order; or folders, of which the file of the same name is taken, whatever
            its suffix; or empty.

    Raises:
        UsageError: There is another number of references.
        InputError: The folders have no file of an image's name.
    """
    if not references:
        return [(image, None) for image in images]
    if not any(Path(reference).is_dir() for reference in references):
        if len(references) != len(images):
            raise UsageError(
                f"There are {len(images)} images and {len(references)} references; give one for each, "
                "in the same order, or a folder with files of the same names."
            )
        return list(zip(images, map(Path, references), strict=True))
    by_name = {path.stem: path for path in list_images(references)}
    missing = [image for image in images if image.stem not in by_name]
    if missing:
        raise InputError(
            f"There is no reference named {escape_name(missing[0].stem)} for {escape_name(missing[0])}; "
            f"of {len(images)} images {len(missing)} have none."
        )
    return [(image, by_name[image.stem]) for image in images]


def read_test_images(
    pairs: Sequence[tuple[Path, Path | None]], signature: Signature, crop: int | None
) -> tuple[list[TestImage], list[str]]:
    """Reads the images, and crops larger ones to their middle.

    Args:
        pairs: Each image with its reference.
        signature: The network's; the sides of a crop are multiples of its own.
        crop: Side of the crop in input pixels; None for DEFAULT_CROP_PX, 0 for whole images.

    Returns:
        The images, and a sentence for what was cropped.

    Raises:
        MismatchError: A reference has another size.
        ImageFileError: A file cannot be read.
    """
    side = DEFAULT_CROP_PX if crop is None else crop
    scale = signature.scale
    test_images, cropped = [], []
    for path, reference_path in pairs:
        frame = read_image(path, scale=scale).rgb
        reference = None if reference_path is None else read_image(reference_path).rgb
        height, width = frame.shape[:2]
        if reference is not None and reference.shape[:2] != (scale * height, scale * width):
            raise MismatchError(
                f"The reference {escape_name(reference_path)} is {reference.shape[1]}x{reference.shape[0]} pixels "
                f"and the output for {escape_name(path)} will be {scale * width}x{scale * height}; they must be of one size."
            )
        rows, columns = _center_slice(height, side, signature), _center_slice(width, side, signature)
        if (rows, columns) != (slice(0, height), slice(0, width)):
            size = f"{columns.stop - columns.start}x{rows.stop - rows.start} of {width}x{height}"
            cropped.append(f"{escape_name(path.name)} ({size})")
        if reference is not None:
            reference = np.ascontiguousarray(reference[_scale_slice(rows, scale), _scale_slice(columns, scale)])
        test_images.append(TestImage(path.name, np.ascontiguousarray(frame[rows, columns]), reference))
    if not cropped:
        return test_images, []
    more = f" and {len(cropped) - MAX_LISTED_CROPS} more" if len(cropped) > MAX_LISTED_CROPS else ""
    listed = ", ".join(cropped[:MAX_LISTED_CROPS]) + more
    return test_images, [f"Judged by the middle of {listed}; --crop 0 uses whole images."]


def _center_slice(size: int, side: int, signature: Signature) -> slice:
    part = max(side - side % signature.multiple, signature.round_up_side(1))
    if side == 0 or size <= max(side, part):
        return slice(0, size)
    start = (size - part) // 2
    return slice(start, start + part)


def _scale_slice(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)
