"""Trial: a picture to judge a blend by, with its reference or its noise, cut to a middle part where it is large."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dni_deploy.errors import InputError, MismatchError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import list_images, read_image
from dni_deploy.signature import Signature

DEFAULT_CROP_PX = 256
"""Side in input pixels of the part that is taken of a larger picture, where nothing is said: a second a frame or less on two cores."""


@dataclass(frozen=True)
class TestImage:
    """name: the file's. frame: what goes into the network. reference: what should come out, scale times as large; None without."""

    name: str
    frame: Frame
    reference: Frame | None = None


def pair_with_references(
    images: Sequence[Path], references: Sequence[str | os.PathLike[str]]
) -> list[tuple[Path, Path | None]]:
    """Each picture with its reference: one file for each in their order, or of folders the one of the same name, whatever its suffix.

    Raises UsageError for another number of references, InputError where a name is missing.
    """
    if not references:
        return [(picture, None) for picture in images]
    if not any(Path(reference).is_dir() for reference in references):
        if len(references) != len(images):
            raise UsageError(
                f"There are {len(images)} pictures and {len(references)} references; give one for each, in the same order, or a folder "
                "with files of the same names."
            )
        return list(zip(images, map(Path, references), strict=True))
    by_name = {path.stem: path for path in list_images(references)}
    missing = [picture for picture in images if picture.stem not in by_name]
    if missing:
        raise InputError(
            f"There is no reference named {escape_name(missing[0].stem)} for {escape_name(missing[0])}; of {len(images)} pictures "
            f"{len(missing)} have none."
        )
    return [(picture, by_name[picture.stem]) for picture in images]


def read_test_images(
    pairs: Sequence[tuple[Path, Path | None]], signature: Signature, crop: int | None
) -> tuple[list[TestImage], list[str]]:
    """The trials, and a sentence for what was left out. crop: side in input pixels, None for DEFAULT_CROP_PX, 0 for the whole picture.

    A part has sides that are multiples of the network's. Raises MismatchError (a reference of another size), and as read_image does.
    """
    side = DEFAULT_CROP_PX if crop is None else crop
    trials, cut = [], []
    for picture, clean in pairs:
        frame = read_image(picture, scale=signature.scale).rgb
        reference = None if clean is None else read_image(clean).rgb
        height, width = frame.shape[:2]
        scale = signature.scale
        if reference is not None and reference.shape[:2] != (scale * height, scale * width):
            raise MismatchError(
                f"The reference {escape_name(clean)} is {reference.shape[1]}x{reference.shape[0]} pixels and the output for {escape_name(picture)} "
                f"will be {scale * width}x{scale * height}; they must be of one size."
            )
        rows, columns = _center_slice(height, side, signature.multiple), _center_slice(width, side, signature.multiple)
        if (rows, columns) != (slice(0, height), slice(0, width)):
            cut.append(
                f"{escape_name(picture.name)} ({columns.stop - columns.start}x{rows.stop - rows.start} of {width}x{height})"
            )
        trials.append(
            TestImage(
                picture.name,
                np.ascontiguousarray(frame[rows, columns]),
                None
                if reference is None
                else np.ascontiguousarray(reference[_scale_slice(rows, scale), _scale_slice(columns, scale)]),
            )
        )
    if not cut:
        return trials, []
    listed = ", ".join(cut[:3]) + (f" and {len(cut) - 3} more" if len(cut) > 3 else "")
    return trials, [f"Judged by the middle of {listed}; --crop 0 takes whole pictures."]


def _center_slice(size: int, side: int, multiple: int) -> slice:
    if side == 0 or size <= side:
        return slice(0, size)
    part = max(side - side % multiple, multiple)
    start = (size - part) // 2
    return slice(start, start + part)


def _scale_slice(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)
