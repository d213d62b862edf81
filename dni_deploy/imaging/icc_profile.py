"""ICC profiles: made from primaries and a curve, checked, and applied by Little CMS."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Union

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from dni_deploy.imaging.frames import Frame

SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""White, red, green, blue, each x and y."""

ADOBE_RGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)

SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)

ADOBE_RGB_CURVE = (563 / 256,)

D50 = (0.9642, 1.0, 0.8249)
"""White of the profile connection space. Source: ICC.1:2022, 7.2.16."""

BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
"""Source: ICC.1:2022, annex E.3."""

MAX_PROFILE_BYTES = 16 << 20
"""Larger than any profile in use; the largest that a JPEG file holds."""

Curve = Union[Sequence[float], NDArray[np.uint16]]
"""How a code V in 0..1 becomes light: (gamma,); (gamma, a, b, c, d), which is (aV + b)^gamma from d on and cV below; or an
array of samples, the last one 65535."""


@dataclass(frozen=True)
class RgbSpace:
    """What RGB numbers mean: light of three primaries, each by its curve.

    Attributes:
        chromaticities: White, red, green, blue, each x and y.
        curves: One for all channels, or three.
    """

    chromaticities: Sequence[float] = SRGB_CHROMATICITIES
    curves: Sequence[Curve] = (SRGB_CURVE,)


def make_profile(space: RgbSpace, description: str, *, is_gray: bool = False) -> bytes:
    """Makes an ICC profile, version 4.3, of primaries and curves.

    Args:
        space: What the numbers mean.
        description: Name of the profile, ASCII.
        is_gray: Whether it is for pixels of one channel; only the white and the first curve count then.

    Raises:
        ValueError: The primaries span no color space, or a number is too large for a profile.
    """
    try:
        adaptation, columns = _adapt_to_d50(space.chromaticities)
        tags = {b"desc": _encode_text(description), b"cprt": _encode_text("No copyright")}
        tags[b"wtpt"] = _encode_xyz(D50)
        tags[b"chad"] = b"sf32" + bytes(4) + _encode_numbers(adaptation.ravel())
        curves = [_encode_curve(curve) for curve in space.curves]
        if is_gray:
            tags[b"kTRC"] = curves[0]
        else:
            for name, column, curve in zip("rgb", columns.T, curves * (3 // len(curves)), strict=True):
                tags[f"{name}XYZ".encode()] = _encode_xyz(column)
                tags[f"{name}TRC".encode()] = curve
    except (struct.error, ArithmeticError, np.linalg.LinAlgError) as error:
        raise ValueError("The primaries or the curve describe no color space.") from error
    return _assemble(b"GRAY" if is_gray else b"RGB ", tags)


def _adapt_to_d50(chromaticities: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Computes the matrix that adapts the white to D50, and the adapted primaries, one a column, all XYZ."""
    if not all(math.isfinite(number) for number in chromaticities) or chromaticities[1] <= 0:
        raise ValueError("The primaries describe no color space.")
    xy = np.array(chromaticities, np.float64).reshape(4, 2)
    xyz = np.column_stack([xy, 1 - xy.sum(axis=1)])
    white = xyz[0] / xyz[0, 1]
    primaries = xyz[1:].T
    if abs(np.linalg.det(primaries)) < 1e-6:
        raise ValueError("The primaries describe no color space.")
    columns = primaries * np.linalg.solve(primaries, white)
    cones = (BRADFORD @ np.array(D50)) / (BRADFORD @ white)
    adaptation = np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD
    return adaptation, adaptation @ columns


def _assemble(pixels: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body = struct.pack(">I", len(tags)), b""
    begin = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += struct.pack(">4sII", name, begin + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = begin + len(body)
    date = struct.pack(">6H", 2026, 1, 1, 0, 0, 0)  # fixed: one input gives one output
    header = struct.pack(">I4sI4s4s4s12s4s", size, b"", 0x04300000, b"mntr", pixels, b"XYZ ", date, b"acsp")
    header += bytes(28) + _encode_numbers(D50)
    return header.ljust(128, b"\0") + table + body


def _encode_numbers(numbers: Sequence[float] | NDArray[np.float64]) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(float(number) * 65536) for number in numbers))


def _encode_xyz(xyz: Sequence[float] | NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + _encode_numbers(xyz)


def _encode_text(text: str) -> bytes:
    return struct.pack(">4s4xII2s2sII", b"mluc", 1, 12, b"en", b"US", 2 * len(text), 28) + text.encode("utf-16-be")


def _encode_curve(curve: Curve) -> bytes:
    if isinstance(curve, np.ndarray):
        return struct.pack(">4s4xI", b"curv", len(curve)) + curve.astype(">u2").tobytes()
    kind = {1: 0, 5: 3}[len(curve)]
    return struct.pack(">4s4xH2x", b"para", kind) + _encode_numbers(curve)


@lru_cache(maxsize=16)  # the pictures of a folder often share one
def read_pixel_kind(icc: bytes) -> str:
    """Reads for which pixels a profile is: "RGB", "GRAY", "CMYK" or another name of the ICC specification.

    Raises:
        ValueError: It is damaged, or Little CMS cannot convert from it.
    """
    try:
        if len(icc) > MAX_PROFILE_BYTES or len(icc) < struct.unpack_from(">I", icc)[0]:
            raise ValueError("The profile is cut off.")
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        kind = profile.profile.xcolor_space.strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}.get(kind)
        if mode is not None:
            ImageCms.buildTransform(profile, _make_srgb_profile(), mode, "RGB", flags=ImageCms.Flags.NOOPTIMIZE)
    except (ImageCms.PyCMSError, OSError, struct.error) as error:
        raise ValueError("The profile is damaged.") from error
    return kind


def convert_to_srgb(pixels: Image.Image, icc: bytes, flags: int = 0) -> Image.Image:
    """Converts pixels to sRGB, relative to white and black (relative colorimetric with black point compensation).

    Args:
        pixels: L, RGB or CMYK, as the profile says.
        icc: A profile that `read_pixel_kind` reads.
        flags: More flags for Little CMS.

    Returns:
        RGB of the same size.
    """
    converted = ImageCms.profileToProfile(
        pixels,
        ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        _make_srgb_profile(),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=flags | ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # None is for conversions in place
    return converted


def convert_frame_to_srgb(frame: Frame, icc: bytes, *, is_gray: bool = False) -> Frame:
    """Converts a frame, uint8 (H, W, 3), to sRGB.

    Args:
        frame: The frame; of a gray one, the mean of its channels counts.
        icc: Its profile.
        is_gray: Whether the profile is for gray pixels.

    Returns:
        A new frame.
    """
    if not is_gray:
        return np.array(convert_to_srgb(Image.fromarray(frame), icc))
    # Little CMS's fast path for gray is off by up to 10 levels in the dark; 256 values can take the slow one.
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    table: Frame = np.array(convert_to_srgb(ramp, icc, ImageCms.Flags.NOOPTIMIZE))[0]
    converted: Frame = table[np.rint(frame.mean(axis=2)).astype(np.uint8)]
    return converted


def _make_srgb_profile() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
