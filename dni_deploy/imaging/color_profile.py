"""What the numbers of an image mean: read from every place where a file may say it, and said again in the output.

An image without any color information is sRGB, as on the web.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from dni_deploy.errors import escape_name
from dni_deploy.imaging.avif_boxes import read_nclx
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.gif_blocks import read_application_block
from dni_deploy.imaging.icc_profile import (
    ADOBE_RGB_CHROMATICITIES,
    ADOBE_RGB_CURVE,
    SRGB_CHROMATICITIES,
    SRGB_CURVE,
    Curve,
    RgbSpace,
    convert_frame_to_srgb,
    make_profile,
    read_pixel_kind,
)
from dni_deploy.imaging.image_formats import ImageFormat
from dni_deploy.imaging.image_source import ImageSource
from dni_deploy.imaging.png_chunks import PngChunk, decode_profile, encode_profile
from dni_deploy.imaging.tiff_tags import EXIF, INTEROPERABILITY, TagDirectory

BT709_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)

PRIMARIES = {
    1: SRGB_CHROMATICITIES,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (0.3127, 0.3290, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
"""Code point of H.273 -> white, red, green, blue. Source: H.273 (07/2024), table 2."""

TRANSFERS: dict[int, Curve] = {
    1: BT709_CURVE, 4: (2.2,), 5: (2.8,), 6: BT709_CURVE, 7: (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0912), 8: (1.0,),
    13: SRGB_CURVE, 14: BT709_CURVE, 15: BT709_CURVE, 17: (2.6,),
}  # fmt: skip
"""Code point of H.273 -> curve, the inverse of its formula. Source: H.273 (07/2024), table 3."""

HDR_TRANSFERS = {16: "PQ", 18: "HLG"}

UNSPECIFIED = 2
"""Code point of H.273 for what is not known; taken for sRGB."""

SRGB_TOLERANCE = 0.0015
"""Of x and y: what writers round away."""

PNG_SRGB_GAMMA = 45455
"""What every sRGB picture of a PNG writer has as gAMA, beside or in place of the chunk sRGB; libpng and browsers take it for
sRGB's curve, too. Source: PNG 3, 11.3.2.5."""

MAX_CURVE_SAMPLES = 4096
"""Of a curve in a profile that is made; Little CMS reads at most 32,767."""

SRGB_NOTE = "the colors are taken for sRGB"


@dataclass(frozen=True)
class ColorProfile:
    """What the numbers of an image mean.

    Attributes:
        icc: An ICC profile that says it, the file's own or one made from what the file says; None: `cicp` says it, or the
            numbers are sRGB.
        kind: The pixels that `icc` is for: "RGB", "GRAY" or "CMYK".
        cicp: Primaries, transfer, matrix and full range, as in H.273, where the file gives them.
        png_chunks: The chunks sRGB, gAMA, cHRM, mDCV and cLLI of a PNG file, to be written again into one.
    """

    icc: bytes | None = None
    kind: str = "RGB"
    cicp: tuple[int, int, int, int] | None = None
    png_chunks: tuple[PngChunk, ...] = ()

    @property
    def is_srgb(self) -> bool:
        """Whether the numbers are sRGB, or nothing says what they are."""
        return self.icc is None and self.cicp_only is None

    @property
    def cicp_only(self) -> str | None:
        """What only the code points of `cicp` can say, such as "PQ (HDR)"; None if there is no such thing."""
        if self.cicp is None:
            return None
        if self.cicp[1] in HDR_TRANSFERS:
            return f"{HDR_TRANSFERS[self.cicp[1]]} (HDR)"
        return None if self.cicp[3] else "of narrow range"

    def describe_conversion(self, image_format: ImageFormat) -> str | None:
        """Says why the colors have to become sRGB in a file of some format; None if they need not."""
        if self.icc is None:
            return None
        if not image_format.has_profile:
            return f"the colors were converted to sRGB: a {image_format.name} file holds no color profile"
        if self.kind == "GRAY" and not image_format.has_gray:
            return f"the gray values were converted to sRGB: a {image_format.name} file holds no gray profile"
        return None

    def describe_loss(self, image_format: ImageFormat) -> str | None:
        """Says what a file of some format can neither hold nor get converted; None if there is no such thing."""
        if self.cicp_only is None or image_format.name == "PNG":
            return None
        return f"the colors are {self.cicp_only}, which a {image_format.name} file does not say; .png does"

    def convert_for_screen(self, frame: Frame) -> Frame:
        """Converts a frame, uint8 (H, W, 3), to sRGB, as pages and contact sheets show it; HDR stays as it is."""
        return frame if self.icc is None else convert_frame_to_srgb(frame, self.icc, is_gray=self.kind == "GRAY")

    def list_png_chunks(self) -> list[PngChunk]:
        """Lists the chunks that say it in a PNG file, in the order of the specification's precedence."""
        chunks = [] if self.cicp is None else [PngChunk(b"cICP", bytes(self.cicp))]
        if self.icc is not None:
            chunks.append(encode_profile(self.icc))
        # A decoder may stop at sRGB and iCCP side by side; the profile goes first.
        return [*chunks, *(chunk for chunk in self.png_chunks if chunk.name != b"sRGB" or self.icc is None)]


SRGB = ColorProfile()


class _Reader:
    """Collects what one file says, and the notes on what could not be used."""

    def __init__(self, pixels: str) -> None:
        self.pixels = pixels
        self.is_gray = pixels == "GRAY"
        self.notes: list[str] = []

    def from_icc(self, icc: bytes | None) -> ColorProfile | None:
        """Takes an embedded profile if it is whole and for these pixels."""
        if not icc or not isinstance(icc, bytes):
            return None
        try:
            kind = read_pixel_kind(icc)
        except ValueError:
            self.notes.append("the color profile is damaged and was left out")
            return None
        if kind != self.pixels and not (kind == "RGB" and self.is_gray):
            self.notes.append(
                f"the color profile is for {escape_name(kind)} and not for {self.pixels} pixels, and was left out"
            )
            return None
        return ColorProfile(icc, kind)

    def from_space(self, space: RgbSpace, description: str) -> ColorProfile | None:
        """Makes a profile of primaries and curves."""
        if self.pixels == "CMYK":
            return None
        if is_srgb(space):
            return SRGB
        try:
            icc = make_profile(space, description, is_gray=self.is_gray)
            return ColorProfile(icc, read_pixel_kind(icc))
        except ValueError:
            self.notes.append(f"the numbers of {description} describe no colors and were left out")
            return None

    def from_cicp(self, primaries: int, transfer: int, *, is_full: bool = True) -> ColorProfile | None:
        """Takes code points of H.273."""
        cicp = (primaries, transfer, 0, int(is_full))
        profile = ColorProfile(cicp=cicp)
        if profile.cicp_only is not None:
            self.notes.append(
                f"the colors are {profile.cicp_only}: the network gets the codes as they are, as if they were SDR"
            )
            return profile
        chromaticities = PRIMARIES.get(1 if primaries == UNSPECIFIED else primaries)
        curve = TRANSFERS.get(13 if transfer == UNSPECIFIED else transfer)
        if chromaticities is None or curve is None:
            self.notes.append(f"the color codes {primaries} and {transfer} are not known and were left out")
            return None
        made = self.from_space(RgbSpace(chromaticities, (curve,)), f"color codes {primaries} and {transfer}")
        return made and ColorProfile(made.icc, made.kind, cicp)


def is_srgb(space: RgbSpace) -> bool:
    """Returns whether primaries and curves are sRGB's, as far as they count: within what writers round away."""
    differences = (abs(a - b) for a, b in zip(space.chromaticities, SRGB_CHROMATICITIES, strict=True))
    return all(curve is SRGB_CURVE for curve in space.curves) and all(value < SRGB_TOLERANCE for value in differences)


def read_color_profile(
    source: ImageSource, chunks: Sequence[PngChunk], tags: TagDirectory | None
) -> tuple[ColorProfile, list[str]]:
    """Reads what a file says about its numbers, the strongest statement first.

    Args:
        source: The file.
        chunks: The chunks of a PNG file.
        tags: The tags of a TIFF file, or of the EXIF block of another one.

    Returns:
        The profile, and a note for everything that is damaged, unknown or for other pixels, and was left out.
    """
    reader = _Reader(source.pixels)
    icc = source.info.get("icc_profile")
    by_format: dict[str, Callable[[], ColorProfile | None]] = {
        "PNG": lambda: _read_png(reader, chunks),
        "BMP": lambda: _read_bmp(reader, source.file),
        "GIF": lambda: reader.from_icc(read_application_block(source.file, b"ICCRGBG1012")),
        "TIFF": lambda: None if tags is None else _read_tiff(reader, tags),
        "AVIF": lambda: _read_avif(reader, icc, source.file),
    }
    profile = by_format.get(source.format, lambda: reader.from_icc(icc))()
    if profile is None and tags is not None:
        profile = _read_exif(reader, tags)
    if profile is None and reader.notes and reader.pixels != "CMYK":
        reader.notes[-1] += f"; {SRGB_NOTE}"
    return profile or SRGB, reader.notes


def _read_png(reader: _Reader, chunks: Sequence[PngChunk]) -> ColorProfile | None:
    """Takes the first of cICP, iCCP, sRGB, gAMA with cHRM that is whole. Source: PNG 3, 4.3 and 11.3.2."""
    data = {chunk.name: chunk.data for chunk in reversed(chunks)}  # of two, the first counts
    names = (b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI")
    kept = tuple(PngChunk(name, data[name]) for name in names if name in data)
    icc_profile = None
    if b"iCCP" in data:
        try:
            icc_profile = reader.from_icc(decode_profile(data[b"iCCP"]))
        except ValueError:
            reader.notes.append("the color profile is damaged and was left out")
    if len(data.get(b"cICP", b"")) == 4:
        primaries, transfer, matrix, is_full = data[b"cICP"]
        profile = reader.from_cicp(primaries, transfer, is_full=bool(is_full)) if matrix == 0 else None
        if profile is not None:
            icc, kind = (profile.icc, profile.kind) if icc_profile is None else (icc_profile.icc, icc_profile.kind)
            return ColorProfile(icc, kind, profile.cicp, kept)
    kept = tuple(chunk for chunk in kept if chunk.name not in (b"mDCV", b"cLLI"))
    if icc_profile is not None:
        return ColorProfile(icc_profile.icc, icc_profile.kind, png_chunks=kept)
    if len(data.get(b"sRGB", b"")) == 1:
        return ColorProfile(png_chunks=kept)
    kept = tuple(
        chunk for chunk in kept if len(chunk.data) == {b"gAMA": 4, b"cHRM": 32}.get(chunk.name, -1) and any(chunk.data)
    )
    if not kept:
        return None
    curve: Curve = SRGB_CURVE
    chromaticities: Sequence[float] = SRGB_CHROMATICITIES
    for chunk in kept:
        if chunk.name == b"cHRM":
            chromaticities = [number / 100_000 for number in struct.unpack(">8I", chunk.data)]
    gamma = next((struct.unpack(">I", chunk.data)[0] for chunk in kept if chunk.name == b"gAMA"), PNG_SRGB_GAMMA)
    if abs(gamma - PNG_SRGB_GAMMA) > 5 or not is_srgb(RgbSpace(chromaticities)):
        curve = (100_000 / gamma,) if any(chunk.name == b"gAMA" for chunk in kept) else SRGB_CURVE
    profile = reader.from_space(RgbSpace(chromaticities, (curve,)), "gAMA and cHRM")
    return profile and ColorProfile(profile.icc, profile.kind, png_chunks=kept)


def _read_avif(reader: _Reader, icc: bytes | None, file: BinaryIO) -> ColorProfile | None:
    profile = reader.from_icc(icc)
    codes = read_nclx(file)
    if profile is not None or codes is None:
        return profile
    return reader.from_cicp(codes[0], codes[1])  # matrix and range are gone when the decoder has made RGB


def _read_bmp(reader: _Reader, file: BinaryIO) -> ColorProfile | None:
    """Reads the color space in a header of version 4 or 5. Source: wingdi.h, BITMAPV5HEADER."""
    file.seek(0)
    head = file.read(14 + 124)
    size = struct.unpack_from("<I", head, 14)[0] if len(head) >= 18 else 0
    if size < 108 or len(head) < 14 + min(size, 124):
        return None
    kind = head[70:74][::-1]
    if kind == b"\0\0\0\0":
        endpoints = np.array(struct.unpack_from("<9i", head, 74)).reshape(3, 3) / 2**30
        gammas = [value / 65536 for value in struct.unpack_from("<3I", head, 110)]
        if not endpoints.any() or not all(gammas):
            return None  # as most writers leave it
        with np.errstate(all="ignore"):
            xy = [row[:2] / row.sum() for row in (endpoints.sum(axis=0), *endpoints)]
        space = RgbSpace([float(number) for row in xy for number in row], [(gamma,) for gamma in gammas])
        return reader.from_space(space, "the BMP header")
    if kind == b"MBED" and size >= 124:
        offset, length = struct.unpack_from("<II", head, 14 + 112)
        file.seek(14 + offset)
        return reader.from_icc(file.read(min(length, 1 << 24)))
    if kind == b"LINK":
        reader.notes.append("the color profile is a file of its own, which was not read")
    return None


def _read_tiff(reader: _Reader, tags: TagDirectory) -> ColorProfile | None:
    """Reads the profile, or the tags of the colorimetry section. Source: TIFF 6.0, section 20."""
    profile = reader.from_icc(tags.data(34675))
    if profile is not None:
        return profile
    white, primaries, table, photometric = (tags.numbers(number) for number in (318, 319, 301, 262))
    levels = 1 << int(max(tags.numbers(258) or (1,)))
    reference = tags.numbers(532)
    if photometric == (2,) and len(reference) == 6 and reference != (0, levels - 1) * 3:
        reader.notes.append("the tag ReferenceBlackWhite was not applied")
    curves: list[Curve] = []
    if table and len(table) in (levels, 3 * levels):
        samples = np.array(table, np.float64).reshape(-1, levels)
        if photometric == (0,):  # white is zero: the decoder turns the numbers round
            samples = samples[:, ::-1]
        if levels > MAX_CURVE_SAMPLES:
            at = np.linspace(0, levels - 1, MAX_CURVE_SAMPLES)
            samples = np.array([np.interp(at, np.arange(levels), row) for row in samples])
        curves = [row.clip(0, 65535).astype(np.uint16) for row in samples]
    if not curves and len(white) != 2 and len(primaries) != 6:
        return None
    white = white if len(white) == 2 else SRGB_CHROMATICITIES[:2]
    primaries = primaries if len(primaries) == 6 else SRGB_CHROMATICITIES[2:]
    return reader.from_space(RgbSpace((*white, *primaries), curves or (SRGB_CURVE,)), "the TIFF tags")


def _read_exif(reader: _Reader, tags: TagDirectory) -> ColorProfile | None:
    """Reads the color space of an EXIF block. Source: CIPA DC-008, 4.6.6; DCF 2.0 for R03, Adobe RGB."""
    exif = tags.children.get(EXIF)
    color_space = exif.numbers(40961) if exif is not None else ()
    if exif is None or color_space not in ((2,), (65535,)):
        return None
    interoperability = exif.children.get(INTEROPERABILITY, TagDirectory()).text(1)
    if color_space == (2,) or interoperability == "R03":
        return reader.from_space(RgbSpace(ADOBE_RGB_CHROMATICITIES, (ADOBE_RGB_CURVE,)), "Adobe RGB (1998) compatible")
    white, primaries, gamma = tags.numbers(318), tags.numbers(319), exif.numbers(0xA500)
    if len(white) == 2 and len(primaries) == 6:
        curve = (gamma[0],) if len(gamma) == 1 and gamma[0] > 0 else (2.2,)
        return reader.from_space(RgbSpace((*white, *primaries), (curve,)), "the EXIF tags")
    if not reader.notes:
        reader.notes.append("EXIF says that the colors are not sRGB, and nothing says what they are")
    return None
