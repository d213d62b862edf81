"""Pictures as a film: a folder of frames, or names with a number such as %05d.png, in and out."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import Any

from dni_deploy.errors import InputError, UsageError, escape_name
from dni_deploy.utils.atomic_write import write_bytes_atomically
from dni_deploy.video_io.segments import Segment

ENCODER_BY_SUFFIX = {
    ".png": "png", ".jpg": "mjpeg", ".jpeg": "mjpeg", ".webp": "libwebp", ".tif": "tiff", ".tiff": "tiff", ".bmp": "bmp",
    ".exr": "exr", ".dpx": "dpx", ".jp2": "jpeg2000", ".tga": "targa", ".ppm": "ppm",
}  # fmt: skip
"""The pictures that are read and written as frames -> their encoder."""

DEFAULT_FRAME_RATE = Fraction(25)
"""Frames per second of pictures, unless --fps says another rate."""

_NUMBER_PATTERN = re.compile(r"%(0\d{1,2})?d")


def names_frames(path: Path) -> bool:
    """Tells whether a path stands for many pictures: its name has %d or %05d in it, and no file is called so."""
    return _NUMBER_PATTERN.search(path.name) is not None and not os.path.lexists(path)


def is_image_sequence(path: Path) -> bool:
    """Tells whether a path names pictures to read as a film."""
    return path.is_dir() or names_frames(path)


def list_frames(path: Path) -> list[Path]:
    """Lists the pictures of a film: those of a folder by name, numbers in it as numbers; those of a pattern by number.

    Raises:
        InputError: There are none, or a folder has several kinds.
    """
    try:
        if path.is_dir():
            found = [entry for entry in path.iterdir() if entry.suffix.lower() in ENCODER_BY_SUFFIX and entry.name[:1] != "."]
            frames = sorted((entry for entry in found if entry.is_file()), key=lambda entry: _split_numbers(entry.name))
        else:
            numbered = {int(match[1]): path.with_name(match[0]) for match in _match_names(path)}
            frames = [numbered[number] for number in sorted(numbered)]
    except OSError as error:
        raise InputError(f"{escape_name(path)} could not be read ({error.strerror}).") from error
    suffixes = sorted({frame.suffix.lower() for frame in frames})
    if not frames:
        raise InputError(f"{escape_name(path)} holds no frames ({', '.join(ENCODER_BY_SUFFIX)}).")
    if len(suffixes) > 1 or suffixes[0] not in ENCODER_BY_SUFFIX:
        raise InputError(f"{escape_name(path)} holds {' and '.join(suffixes)}; the frames of a film are of one kind.")
    return frames


def _match_names(path: Path) -> Iterator[re.Match[str]]:
    """Matches the names in the pattern's folder that the pattern stands for."""
    before, _, after = path.name.partition(_find_number(path)[0])
    width = _find_number(path)[1]
    digits = rf"\d{{{int(width[1:])},}}" if width else r"\d+"
    pattern = re.compile(f"{re.escape(before)}({digits}){re.escape(after)}", re.ASCII)
    for entry in path.parent.iterdir() if path.parent.is_dir() else ():
        if match := pattern.fullmatch(entry.name):
            yield match


def _find_number(path: Path) -> re.Match[str]:
    match = _NUMBER_PATTERN.search(path.name)
    assert match is not None
    return match


def _split_numbers(name: str) -> list[tuple[bool, int, str]]:
    """Splits a name so that frame2 comes before frame10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", name, flags=re.ASCII)]


@contextmanager
def link_frames(path: Path) -> Iterator[Path]:
    """Makes a folder of links to the frames, numbered without gaps, for FFmpeg, which stops at a gap.

    Yields:
        The pattern of the links.

    Raises:
        InputError: As `list_frames`.
    """
    frames = list_frames(path)
    with tempfile.TemporaryDirectory(prefix="dni-frames-") as folder:
        for number, frame in enumerate(frames):
            os.symlink(frame.absolute(), Path(folder, f"{number:09d}{frame.suffix.lower()}"))
        yield Path(folder, f"%09d{frames[0].suffix.lower()}")


def fingerprint_frames(path: Path) -> dict[str, Any]:
    """Describes what distinguishes one sequence from another: names, sizes and modification times."""
    digest = sha256()
    frames = list_frames(path)
    for frame in frames:
        status = os.stat(frame)
        digest.update(f"{frame.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return {"frames": len(frames), "sha256 of names, sizes and times": digest.hexdigest()}


def find_frame_encoder(path: Path) -> str:
    """Returns the encoder of the pictures that a pattern names.

    Raises:
        UsageError: The suffix is none of ENCODER_BY_SUFFIX.
    """
    try:
        return ENCODER_BY_SUFFIX[path.suffix.lower()]
    except KeyError:
        raise UsageError(
            f"{escape_name(path.name)} names frames that do not end in one of {', '.join(ENCODER_BY_SUFFIX)}. Nothing was written."
        ) from None


def check_no_frame_exists(path: Path) -> None:
    """Checks that no picture of a pattern exists.

    Raises:
        UsageError: One does.
    """
    existing = sorted(match[0] for match in _match_names(path))
    if existing:
        raise UsageError(f"{escape_name(path.with_name(existing[0]))} exists; give --force to replace it. Nothing was written.")


def write_frames(path: Path, segments: Sequence[Segment], first_number: int) -> None:
    """Writes each packet of the segments as a picture of its own, numbered in the order of the film.

    Args:
        path: The pattern.
        segments: The whole segments, in order, of an encoder that makes a whole picture of each frame.
        first_number: Number of the first picture.
    """
    number, width = _find_number(path)[0], _find_number(path)[1]
    for segment in segments:
        for index, packet in enumerate(segment.read_packets(), first_number + segment.first_frame):
            name = path.name.replace(number, str(index).zfill(int(width[1:]) if width else 0), 1)
            write_bytes_atomically(path.with_name(name), packet.data, force=True)
