"""Trial: a picture to judge a blend by, with its reference or its noise, cut to a middle part where it is large."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dni_deploy.errors import InputError, MismatchError, UsageError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_file import read_picture
from dni_deploy.imaging.picture_files import pictures_of
from dni_deploy.signature import Signature

CROP = 256
"""Side in input pixels of the part that is taken of a larger picture, where nothing is said: a second a frame or less on two cores."""


@dataclass(frozen=True)
class Trial:
    """name: the file's. frame: what goes into the network. reference: what should come out, scale times as large; None without."""

    name: str
    frame: Frame
    reference: Frame | None = None


def paired(pictures: Sequence[Path], references: Sequence[str | os.PathLike[str]]) -> list[tuple[Path, Path | None]]:
    """Each picture with its reference: one file for each in their order, or of folders the one of the same name, whatever its suffix.

    Raises UsageError for another number of references, InputError where a name is missing.
    """
    if not references:
        return [(picture, None) for picture in pictures]
    if not any(Path(reference).is_dir() for reference in references):
        if len(references) != len(pictures):
            raise UsageError(
                f"There are {len(pictures)} pictures and {len(references)} references; give one for each, in the same order, or a folder "
                "with files of the same names."
            )
        return list(zip(pictures, map(Path, references), strict=True))
    by_name = {path.stem: path for path in pictures_of(references)}
    missing = [picture for picture in pictures if picture.stem not in by_name]
    if missing:
        raise InputError(
            f"There is no reference named {shown(missing[0].stem)} for {shown(missing[0])}; of {len(pictures)} pictures "
            f"{len(missing)} have none."
        )
    return [(picture, by_name[picture.stem]) for picture in pictures]


def read_trials(
    pairs: Sequence[tuple[Path, Path | None]], signature: Signature, crop: int | None
) -> tuple[list[Trial], list[str]]:
    """The trials, and a sentence for what was left out. crop: side in input pixels, None for CROP, 0 for the whole picture.

    A part has sides that are multiples of the network's. Raises MismatchError (a reference of another size), and as read_picture does.
    """
    side = CROP if crop is None else crop
    trials, cut = [], []
    for picture, clean in pairs:
        frame = read_picture(picture, scale=signature.scale).rgb
        reference = None if clean is None else read_picture(clean).rgb
        height, width = frame.shape[:2]
        scale = signature.scale
        if reference is not None and reference.shape[:2] != (scale * height, scale * width):
            raise MismatchError(
                f"The reference {shown(clean)} is {reference.shape[1]}x{reference.shape[0]} pixels and the output for {shown(picture)} "
                f"will be {scale * width}x{scale * height}; they must be of one size."
            )
        rows, columns = _middle(height, side, signature.multiple), _middle(width, side, signature.multiple)
        if (rows, columns) != (slice(0, height), slice(0, width)):
            cut.append(f"{shown(picture.name)} ({columns.stop - columns.start}x{rows.stop - rows.start} of {width}x{height})")
        trials.append(
            Trial(
                picture.name,
                np.ascontiguousarray(frame[rows, columns]),
                None if reference is None else np.ascontiguousarray(reference[_times(rows, scale), _times(columns, scale)]),
            )
        )
    if not cut:
        return trials, []
    listed = ", ".join(cut[:3]) + (f" and {len(cut) - 3} more" if len(cut) > 3 else "")
    return trials, [f"Judged by the middle of {listed}; --crop 0 takes whole pictures."]


def _middle(size: int, side: int, multiple: int) -> slice:
    if side == 0 or size <= side:
        return slice(0, size)
    part = max(side - side % multiple, multiple)
    start = (size - part) // 2
    return slice(start, start + part)


def _times(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)
