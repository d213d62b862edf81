"""Crops of one size from several images, spread evenly, as input for a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import MismatchError, UsageError, escape_name
from dni_deploy.imaging.frames import AnyFrame, to_network
from dni_deploy.imaging.image_file import read_image
from dni_deploy.signature import Signature
from dni_deploy.utils.text_file import hash_file

CROP_SIDE_PX, CROP_COUNT = 64, 48
"""Side in input pixels, and crops in all. Each image gives as many as any other, but for one."""

MIN_CROP_SIDE_PX = 16
"""On less than that the statistics would be those of the padding."""

R2_SEQUENCE_STEP = (0.7548776662466927, 0.5698402909980532)
"""Of the R2 sequence (Roberts, 2018): its first n points cover a square evenly, for every n."""


class CropSource(NamedTuple):
    """An image that crops were taken from.

    Attributes:
        name: Of the file.
        sha256: Of the file, in hex.
        parts: Number of crops from it.
    """

    name: str
    sha256: str
    parts: int


def read_crops(
    files: Sequence[Path], signature: Signature, *, side: int = CROP_SIDE_PX, count: int = CROP_COUNT
) -> tuple[NDArray[np.float32], list[CropSource]]:
    """Cuts crops from images; the same files always give the same crops.

    Args:
        files: Of more images than `count`, evenly spaced ones are used.
        signature: Of the network; the side becomes a multiple of its own.
        side: In input pixels; shortened to the shortest side of any image.
        count: Number of crops in all.

    Returns:
        float32 (count, C, side, side) in the network's range, and the images that they come from.

    Raises:
        UsageError: There is no image.
        MismatchError: An image is too small.
        InputError: As `read_image`, like its other errors.
    """
    if not files:
        raise UsageError("At least one image is needed; name one like those that the network will see.")
    chosen = list(files) if len(files) <= count else [files[index * len(files) // count] for index in range(count)]
    frames = [read_image(file).rgb for file in chosen]
    digests = [hash_file(file, "image") for file in chosen]
    smallest = min(range(len(frames)), key=lambda index: min(frames[index].shape[:2]))
    height, width = frames[smallest].shape[:2]
    least = signature.round_up_side(MIN_CROP_SIDE_PX)
    side = max(min(side, height, width) // signature.multiple * signature.multiple, least)
    if side > min(height, width):
        raise MismatchError(
            f"{escape_name(chosen[smallest])} is {width}x{height} pixels; "
            f"each image needs at least {least}x{least}, leave it out."
        )
    crops, sources = [], []
    for number, (file, frame, digest) in enumerate(zip(chosen, frames, digests, strict=True)):
        points = range(number, count, len(frames))
        for point in points:
            down, right = ((0.5 + step * point) % 1 for step in R2_SEQUENCE_STEP)
            top, left = int(down * (frame.shape[0] - side + 1)), int(right * (frame.shape[1] - side + 1))
            crop: AnyFrame = np.ascontiguousarray(frame[top : top + side, left : left + side])  # type: ignore[assignment]
            crops.append(to_network(crop, signature))
        sources.append(CropSource(file.name, digest, len(points)))
    return np.concatenate(crops), sources
