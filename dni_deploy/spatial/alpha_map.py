"""How far each pixel of an image is from one alpha (black, 0) to another (white, 1), and at which levels it is rendered."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dni_deploy.errors import ImageFileError, MismatchError, UsageError, escape_name
from dni_deploy.imaging.image_file import decode_by_pillow, read_bit_depth
from dni_deploy.imaging.image_limits import check_image_size
from dni_deploy.utils.address import as_local_path

DEFAULT_LEVELS = 9
"""Levels from black to white where a map holds more values than that; docs/alpha-map.md has what the distance costs."""

MAX_LEVELS = 256

LEVEL_TOLERANCE = 2e-5
"""A value so near to a level is that level: what scaling at sixteen bits left (a step is 1.5e-5) must not need one more."""

GRAY_MODES = frozenset({"1", "L", "P", "RGB", "I;16", "I;16B", "I;16L", "I"})


@dataclass(frozen=True)
class AlphaMapOptions:
    """What a user asks for with a map; where it is black, the alpha is the one that holds without a map.

    Attributes:
        mask: A gray image; for videos, also a video of as many frames.
        white: The alpha where the map is white; None: the first member alone.
        levels: As in `AlphaMap.choose_levels`.
        resize_to_fit: Whether to scale the map to the image if it has another size.
        measure_error: Whether to measure what the levels cost, against twice as many; takes three times as long.
    """

    mask: str | os.PathLike[str]
    white: Any = None
    levels: int | None = None
    resize_to_fit: bool = False
    measure_error: bool = False


@dataclass(frozen=True, eq=False)
class AlphaMap:
    """One value in [0, 1] for each pixel, as codes into a table, so that what holds for a value is computed once.

    Attributes:
        codes: uint8 or uint16 (H, W); not to be written to.
        values: float64 (n,), what each code stands for; codes are below n. Not to be written to.
    """

    codes: NDArray[Any]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, array: NDArray[Any]) -> AlphaMap:
        """Makes a map from an array, which is copied.

        Args:
            array: (H, W): bool, uint8 (over 255), uint16 (over 65535), or floats in [0, 1]; floats of more than 65,536
                different values are rounded to sixteen bits.

        Raises:
            UsageError: The array has another type, shape or range.
        """
        if not isinstance(array, np.ndarray) or array.ndim != 2 or array.size == 0:
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else escape_name(type(array).__name__)
            raise UsageError(f"An alpha map is an array (height, width) of one number per pixel; got {got}.")
        if array.dtype == np.bool_:
            return cls(array.astype(np.uint8), np.array([0.0, 1.0]))
        if array.dtype in (np.uint8, np.uint16):
            top = np.iinfo(array.dtype).max
            return cls(array.copy(), np.arange(top + 1) / top)
        if array.dtype.kind != "f":
            raise UsageError(f"An alpha map holds bool, uint8, uint16 or floats in 0 to 1; got {array.dtype}.")
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise UsageError("An alpha map of floats goes from 0 (black) to 1 (white); this one has values outside, or NaN.")
        values, codes = np.unique(array.astype(np.float64), return_inverse=True)
        if values.size > 1 << 16:
            return cls.of(np.rint(array.astype(np.float64) * 65535).astype(np.uint16))
        kind = np.uint8 if values.size <= 256 else np.uint16
        return cls(codes.reshape(array.shape).astype(kind), values)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> AlphaMap:
        """Reads a gray image of 8 or 16 bits (PNG, TIFF) or one of 8 bits whose channels are equal; black is 0, white 1.

        Raises:
            InputError: The file is missing or not readable.
            ImageFileError: It is damaged, in color, transparent, or of another depth.
            LimitError: It is too large.
        """
        path = as_local_path(path, "an alpha map")

        def check(image: Image.Image) -> None:
            check_image_size(path, *image.size)
            _check_pixel_format(path, image)

        return cls.of(_read_gray(path, decode_by_pillow(path, check)))

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.codes.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.codes.shape[1])

    def used_codes(self) -> NDArray[np.bool_]:
        """Returns which codes some pixel has: bool (n,)."""
        return np.asarray(np.bincount(self.codes.ravel(), minlength=self.values.size) > 0)

    def resize_to(self, height: int, width: int) -> AlphaMap:
        """Scales the map, at sixteen bits, bilinear or by area where it shrinks; returns itself if it has that size."""
        if (height, width) == self.codes.shape:
            return self
        gray = Image.fromarray(self.values[self.codes].astype(np.float32))
        resized = np.asarray(gray.resize((width, height), Image.Resampling.BILINEAR), np.float64)
        return AlphaMap.of(np.rint(np.clip(resized, 0, 1) * 65535).astype(np.uint16))

    def snap_to_levels(self, levels: NDArray[np.float64], tolerance: float) -> AlphaMap:
        """Moves values within `tolerance` of a level to it: undoes what video coding did to a flat gray."""
        nearest = levels[np.abs(self.values[:, None] - levels).argmin(axis=1)]
        return replace(self, values=np.where(np.abs(self.values - nearest) <= tolerance, nearest, self.values))

    def choose_levels(self, max_levels: int | None = None) -> NDArray[np.float64]:
        """Chooses the levels at which the network runs.

        Args:
            max_levels: The most levels; None for DEFAULT_LEVELS.

        Returns:
            float64, ascending: the map's own values if there are at most `max_levels`, else `max_levels` from 0 to 1 at equal
            distances.

        Raises:
            UsageError: `max_levels` is not 2 to MAX_LEVELS.
        """
        if max_levels is not None and (type(max_levels) is not int or not 2 <= max_levels <= MAX_LEVELS):
            raise UsageError(f"A map is rendered at 2 to {MAX_LEVELS} levels; got {escape_name(max_levels)}.")
        values: NDArray[np.float64] = np.unique(self.values[self.used_codes()])
        limit = DEFAULT_LEVELS if max_levels is None else max_levels
        return values if values.size <= limit else np.linspace(0.0, 1.0, limit)

    def compute_weights(self, levels: NDArray[np.float64]) -> NDArray[np.float32]:
        """Computes how much of each level's output a code gets.

        Args:
            levels: float64 (K,), ascending.

        Returns:
            float32 (K, n): linear between the two neighbors of a value, 1 within LEVEL_TOLERANCE of a level.
        """
        values = self.snap_to_levels(levels, LEVEL_TOLERANCE).values
        return np.asarray([np.interp(values, levels, row) for row in np.eye(levels.size)], np.float32)

    def fits(self, height: int, width: int, scale: int) -> bool:
        """Returns whether the map has the size of an image, in pixels, or of its output."""
        return (self.height, self.width) in {(height, width), (height * scale, width * scale)}

    def check_fits(self, height: int, width: int, scale: int) -> None:
        """Checks that the map fits an image.

        Raises:
            MismatchError: It does not.
        """
        if not self.fits(height, width, scale):
            output = f" (its output {width * scale}x{height * scale})" if scale > 1 else ""
            raise MismatchError(
                f"The alpha map is {self.width}x{self.height} pixels and the image {width}x{height}{output}; make them of one "
                "size, or let the map be scaled (--alpha-map-fit)."
            )


def _check_pixel_format(path: Path, image: Image.Image) -> None:
    name = escape_name(path)
    if getattr(image, "n_frames", 1) > 1:
        raise ImageFileError(f"The alpha map {name} holds several images; a map is one.")
    if image.has_transparency_data:
        raise ImageFileError(
            f"The alpha map {name} has transparency, and then two numbers per pixel say where; "
            "save it as gray alone, white where the second alpha applies."
        )
    bits = read_bit_depth(image)
    if image.mode not in GRAY_MODES or bits > 16 or (bits == 16 and not image.mode.startswith("I")):
        kind = f"pixels of the kind {image.mode!r}" if bits <= 8 else f"{bits} bits a channel, {image.mode!r}"
        raise ImageFileError(f"The alpha map {name} has {kind}; save it as gray of 8 or 16 bits.")


def _read_gray(path: Path, image: Image.Image) -> NDArray[Any]:
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 65535:
            raise ImageFileError(
                f"The alpha map {escape_name(path)} has values outside 0 to 65535; save it as gray of 8 or 16 bits."
            )
        return wide.astype(np.uint16)
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    rgb = np.asarray(image.convert("RGB"))
    if not (rgb == rgb[..., :1]).all():
        raise ImageFileError(
            f"The alpha map {escape_name(path)} is in color; a map has one number per pixel: "
            "save it as gray, or with equal channels."
        )
    return np.ascontiguousarray(rgb[..., 0])
