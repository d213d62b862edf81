"""Crops: parts of one size from several pictures, spread evenly, as a network takes them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import MismatchError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame, to_network
from dni_deploy.imaging.image_file import read_image
from dni_deploy.signature import Signature

CROP_SIDE_PX, CROP_COUNT = 64, 48
"""Input pixels, and parts in all. Each picture gives as many as any other, but for one."""

MIN_CROP_SIDE_PX = 16
"""Pixels; on less than that the statistics would be those of the padding."""

R2_SEQUENCE_STEP = (0.7548776662466927, 0.5698402909980532)
"""Of the R2 sequence (Roberts, 2018): its first n points cover a square evenly, for every n."""


class CropSource(NamedTuple):
    """A picture that was used: name, SHA-256 of its file, and how many parts came from it."""

    name: str
    sha256: str
    parts: int


def read_crops(
    files: Sequence[Path], signature: Signature, *, side: int = CROP_SIDE_PX, count: int = CROP_COUNT
) -> tuple[NDArray[np.float32], list[CropSource]]:
    """Parts of the pictures, float32 (count, C, side, side) in the network's range, and where they come from. Always the same ones.

    The side is a multiple of the network's, and no longer than the shortest side of any picture. Of more pictures than parts, evenly
    spaced ones are used. Raises UsageError (no picture), MismatchError (a picture that is too small), and as read_image does.
    """
    if not files:
        raise UsageError("At least one picture is needed; name one like those that the network will see.")
    chosen = list(files) if len(files) <= count else [files[index * len(files) // count] for index in range(count)]
    frames: list[Frame] = []
    digests: list[str] = []
    for file in chosen:
        frames.append(read_image(file).rgb)
        digests.append(sha256(file.read_bytes()).hexdigest())
    smallest = min(range(len(frames)), key=lambda index: min(frames[index].shape[:2]))
    least = -(-MIN_CROP_SIDE_PX // signature.multiple) * signature.multiple
    side = max(min(side, *frames[smallest].shape[:2]) // signature.multiple * signature.multiple, least)
    height, width = frames[smallest].shape[:2]
    if side > min(height, width):
        raise MismatchError(
            f"{escape_name(chosen[smallest])} is {width}x{height} pixels; each picture needs at least {least}x{least}, leave it out."
        )
    parts, sources = [], []
    for number, (file, frame, digest) in enumerate(zip(chosen, frames, digests, strict=True)):
        own = len(range(number, count, len(frames)))
        for index in range(own):
            down, right = ((0.5 + step * (number + index * len(frames))) % 1 for step in R2_SEQUENCE_STEP)
            top, left = int(down * (frame.shape[0] - side + 1)), int(right * (frame.shape[1] - side + 1))
            parts.append(to_network(np.ascontiguousarray(frame[top : top + side, left : left + side]), signature))
        sources.append(CropSource(file.name, digest, own))
    return np.concatenate(parts), sources
