"""What an image file knows beside its pixels and their colors: EXIF, XMP, IPTC, resolution and texts."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from xml.parsers import expat

from dni_deploy.errors import escape_name
from dni_deploy.imaging.image_formats import ImageFormat
from dni_deploy.imaging.image_source import ImageSource
from dni_deploy.imaging.png_chunks import PngChunk, PngText, decode_text
from dni_deploy.imaging.tiff_tags import (
    ASCII,
    BYTE,
    IMAGE_LENGTH,
    IMAGE_WIDTH,
    ORIENTATION,
    PIXEL_HEIGHT,
    PIXEL_WIDTH,
    RATIONAL,
    SHORT,
    UNDEFINED,
    Tag,
    TagDirectory,
    correct_exif,
    make_tag,
    read_tiff,
    write_exif,
)

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, DESCRIPTION, COLOR_SPACE = 282, 283, 296, 270, 40961

XMP, IPTC, PHOTOSHOP = 700, 33723, 34377

PHOTOSHOP_IPTC = 0x0404

DESCRIPTIVE_TAGS = frozenset(
    {269, DESCRIPTION, 271, 272, X_RESOLUTION, Y_RESOLUTION, 285, RESOLUTION_UNIT, 305, 306, 315, 316, 18246, 18249, 33432,
     *range(40091, 40096)}
)  # fmt: skip
"""Tags of a TIFF file that describe the picture and not how its pixels are stored: DocumentName, ImageDescription, Make, Model,
resolution, PageName, Software, DateTime, Artist, HostComputer, ratings, Copyright, Windows' titles."""

MAX_TEXTS = 1000

MAX_XMP_BYTES = 16 << 20

UNHELD_BLOCKS = {"BMP": ("EXIF", "XMP", "IPTC"), "WEBP": ("IPTC",), "AVIF": ("IPTC",)}
"""Format -> what it has no place for."""

MAX_SEGMENT_BYTES = {"EXIF": 65_527, "XMP": 65_504, "IPTC": 65_500, "comment": 65_533}
"""What fits into one segment of a JPEG file, behind the segment's own name."""

XMP_KEYWORD = "XML:com.adobe.xmp"

RAW_PROFILE_PREFIX = "Raw profile type "
"""Keyword of the texts in which ImageMagick and others keep EXIF, IPTC and XMP in PNG files, as hexadecimal digits."""

MAX_DPI = 100_000.0


@dataclass(frozen=True)
class Metadata:
    """What a file knows beside pixels and colors.

    Attributes:
        exif: The EXIF block, without the prefix "Exif".
        xmp: The XMP packet, UTF-8.
        iptc: The IPTC records.
        dpi: Pixels per inch across and down.
        texts: The texts of a PNG file; a comment of other formats has the keyword "Comment".
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None
    texts: tuple[PngText, ...] = ()

    @property
    def comment(self) -> bytes | None:
        """The first text with the keyword "Comment", UTF-8."""
        return next((text.text.encode("utf-8", "replace") for text in self.texts if text.keyword == "Comment"), None)

    def transpose(self) -> Metadata:
        """Returns the same for pixels whose rows became columns."""
        return self if self.dpi is None else replace(self, dpi=self.dpi[::-1])

    def mark_as_srgb(self) -> Metadata:
        """Returns the same for colors that were converted to sRGB."""
        return replace(self, exif=self.exif and correct_exif(self.exif, {COLOR_SPACE: 1}))

    def correct(self, width: int, height: int) -> Metadata:
        """Returns the same for upright pixels of some size, without thumbnails.

        Args:
            width: Width of the output in pixels.
            height: Height of the output in pixels.
        """
        sizes = {IMAGE_WIDTH: width, IMAGE_LENGTH: height, PIXEL_WIDTH: width, PIXEL_HEIGHT: height}
        exif = self.exif and correct_exif(self.exif, {ORIENTATION: 1, **sizes})
        return replace(self, exif=exif, xmp=self.xmp and correct_xmp(self.xmp, width, height))

    def fit(self, image_format: ImageFormat) -> tuple[Metadata, list[str]]:
        """Leaves out what a format does not hold.

        Returns:
            The rest, and notes on what was left out.
        """
        name = image_format.name
        blocks = {"EXIF": self.exif, "XMP": self.xmp, "IPTC": self.iptc}
        missing = [kind for kind in UNHELD_BLOCKS.get(name, ()) if blocks[kind] is not None]
        too_long = [kind for kind, data in blocks.items() if name == "JPEG" and len(data or b"") > MAX_SEGMENT_BYTES[kind]]
        changes: dict[str, Any] = {kind.lower(): None for kind in (*missing, *too_long)}
        if self.texts and name != "PNG":
            comment = next((text for text in self.texts if text.keyword == "Comment"), None)
            holds_comment = name == "TIFF" or (name == "JPEG" and len(self.comment or b"") <= MAX_SEGMENT_BYTES["comment"])
            changes["texts"] = (comment,) if holds_comment and comment is not None else ()
            keywords = [text.keyword for text in self.texts if text not in changes["texts"]]
            if keywords:
                more = f" and {len(keywords) - 5} more" if len(keywords) > 5 else ""
                missing.append(f"the text {', '.join(escape_name(keyword, 40) for keyword in keywords[:5])}{more}")
        if self.dpi is not None and name in ("WEBP", "AVIF") and self.exif is not None and not _has_resolution(self.exif):
            changes["dpi"] = None
            missing.append("a resolution outside EXIF")
        notes = [f"left out: {', '.join(missing)}, for which a {name} file has no place"] if missing else []
        notes += [f"left out: {', '.join(too_long)}, too long for a {name} file"] if too_long else []
        return (replace(self, **changes) if changes else self), notes

    def list_png_chunks(self) -> list[PngChunk]:
        """Lists the chunks that hold it in a PNG file."""
        chunks = []
        if self.dpi is not None:
            chunks.append(PngChunk(b"pHYs", struct.pack(">IIB", *(round(dpi / 0.0254) for dpi in self.dpi), 1)))
        if self.exif is not None:
            chunks.append(PngChunk(b"eXIf", self.exif))
        if self.xmp is not None:
            chunks.append(PngChunk(b"iTXt", XMP_KEYWORD.encode() + bytes(5) + self.xmp))
        if self.iptc is not None:
            digits = re.sub(r"(.{72})", r"\1\n", self.iptc.hex())
            chunks.append(PngText(f"{RAW_PROFILE_PREFIX}iptc", f"\niptc\n{len(self.iptc):8}\n{digits}\n").to_chunk())
        return [*chunks, *(text.to_chunk() for text in self.texts)]

    def make_tags(self, icc: bytes | None) -> TagDirectory:
        """Makes the tags that hold it, and a color profile, in a TIFF file."""
        directory = TagDirectory()
        if self.exif is not None:
            exif = read_tiff(io.BytesIO(self.exif))
            directory.order, directory.children = exif.order, exif.children
            directory.tags = {number: tag for number, tag in exif.tags.items() if number in DESCRIPTIVE_TAGS}
        order = directory.order
        if self.comment is not None and DESCRIPTION not in directory.tags:
            directory.tags[DESCRIPTION] = make_tag(order, ASCII, self.comment.replace(b"\0", b" ") + b"\0")
        for number, kind, data in ((XMP, BYTE, self.xmp), (IPTC, UNDEFINED, self.iptc), (34675, UNDEFINED, icc)):
            if data is not None:
                directory.tags[number] = make_tag(order, kind, data)
        directory.tags.update(_make_resolution_tags(order, self.dpi))
        return directory

    def make_encoder_options(self, image_format: ImageFormat) -> dict[str, object]:
        """Makes the options of Pillow's encoder that write it; those of PNG and TIFF files are chunks and tags instead."""
        options: dict[str, object] = {}
        exif = self.exif
        if self.dpi is not None and image_format.name in ("JPEG", "BMP"):
            options["dpi"] = self.dpi
        elif self.dpi is not None and exif is None:
            exif = write_exif(TagDirectory(tags=_make_resolution_tags("<", self.dpi)))
        if exif is not None:
            options["exif"] = b"Exif\0\0" + exif
        if self.xmp is not None:
            options["xmp"] = self.xmp
        if image_format.name == "JPEG":
            if self.comment is not None:
                options["comment"] = self.comment
            if self.iptc is not None:
                resource = struct.pack(">4sHxxI", b"8BIM", PHOTOSHOP_IPTC, len(self.iptc)) + self.iptc
                content = b"Photoshop 3.0\0" + resource + bytes(len(self.iptc) % 2)
                options["extra"] = b"\xff\xed" + struct.pack(">H", len(content) + 2) + content
        return options


NO_METADATA = Metadata()


def _has_resolution(exif: bytes) -> bool:
    return X_RESOLUTION in read_tiff(io.BytesIO(exif)).tags


def _make_resolution_tags(order: str, dpi: tuple[float, float] | None) -> dict[int, Tag]:
    if dpi is None:
        return {}
    x, y = (make_tag(order, RATIONAL, (round(value * 1000), 1000)) for value in dpi)
    return {X_RESOLUTION: x, Y_RESOLUTION: y, RESOLUTION_UNIT: make_tag(order, SHORT, (2,))}


def read_metadata(
    source: ImageSource, chunks: Sequence[PngChunk], exif: bytes | None, tags: TagDirectory | None
) -> tuple[Metadata, list[str]]:
    """Reads what a file knows beside pixels and colors.

    Args:
        source: The file.
        chunks: The chunks of a PNG file.
        exif: The EXIF block, if it can be read.
        tags: The tags of the block, or of a TIFF file.

    Returns:
        The metadata as they are in the file, and a note for everything that is damaged or too long and was left out.
    """
    notes: list[str] = []
    texts, raw_profiles = _read_texts(chunks, notes)
    comment = source.info.get("comment")
    if isinstance(comment, bytes) and comment and source.format != "PNG":
        texts.append(PngText("Comment", _decode(comment)))
    xmp = raw_profiles.get("xmp") or source.info.get("xmp") or (tags.data(XMP) if tags is not None else None)
    xmp = _check_xmp(xmp, notes) if isinstance(xmp, bytes) and xmp else None
    iptc = raw_profiles.get("iptc")
    if source.format == "TIFF" and tags is not None:
        iptc = tags.data(IPTC) or find_photoshop_iptc(tags.data(PHOTOSHOP) or b"")
    elif isinstance(source.info.get("photoshop"), dict):
        iptc = source.info["photoshop"].get(PHOTOSHOP_IPTC)
    if iptc is not None and not (isinstance(iptc, bytes) and iptc[:1] == b"\x1c"):
        notes.append("IPTC could not be read and was left out")
        iptc = None
    dpi, aspect = _read_resolution(source, chunks, tags)
    if aspect is not None:
        notes.append(f"the pixels are not square ({aspect[0]}:{aspect[1]}), which the output does not say")
    return Metadata(exif, xmp, iptc, dpi, tuple(texts)), notes


def read_exif_block(source: ImageSource, chunks: Sequence[PngChunk]) -> bytes | None:
    """Finds the EXIF block of a file that is no TIFF file.

    Returns:
        The block without the prefix "Exif"; None if there is none.
    """
    block = next((chunk.data for chunk in chunks if chunk.name == b"eXIf"), None)
    if block is None and source.format == "PNG":
        profiles = _read_texts(chunks, [])[1]
        block = profiles.get("exif") or profiles.get("APP1")
    elif block is None:
        block = source.info.get("exif")
    if not isinstance(block, bytes):
        return None
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    return block or None


def make_exif_block(tags: TagDirectory) -> bytes | None:
    """Makes an EXIF block of what describes the picture in a TIFF file; None if nothing does."""
    chosen = {number: tag for number, tag in tags.tags.items() if number in DESCRIPTIVE_TAGS}
    if not chosen and not tags.children:
        return None
    return write_exif(TagDirectory(tags.order, chosen, dict(tags.children)))


def read_orientation(tags: TagDirectory | None, xmp: bytes | None) -> int:
    """Returns the EXIF orientation, 1 to 8; XMP's where EXIF has none, and 1 where neither has a valid one."""
    numbers = tags.numbers(ORIENTATION) if tags is not None else ()
    if not numbers and xmp is not None:
        match = re.search(rb"""tiff:Orientation(?:\s*=\s*["']|>)([1-8])["'<]""", xmp)
        numbers = (int(match[1]),) if match else ()
    return int(numbers[0]) if numbers and numbers[0] in range(1, 9) else 1


def correct_xmp(xmp: bytes, width: int, height: int) -> bytes:
    """Corrects orientation and sizes in an XMP packet and removes its thumbnails."""
    values: Mapping[str, int] = {
        "tiff:Orientation": 1, "tiff:ImageWidth": width, "tiff:ImageLength": height,
        "exif:PixelXDimension": width, "exif:PixelYDimension": height,
    }  # fmt: skip
    for name, value in values.items():
        pattern = rb"(" + name.encode() + rb"""(?:\s*=\s*["']|>\s*))\d{1,10}(?=\s*["'<])"""
        xmp = re.sub(pattern, lambda match, value=value: match[1] + str(value).encode(), xmp)  # type: ignore[misc]
    return re.sub(rb"<(xmp|xap):Thumbnails>.*?</\1:Thumbnails>", b"", xmp, flags=re.DOTALL)


def _check_xmp(xmp: bytes, notes: list[str]) -> bytes | None:
    xmp = xmp.rstrip(b"\0")
    if any(name in xmp for name in (b"hdrgm:", b"GCamera:MotionPhoto", b"GCamera:MicroVideo")):
        notes.append("XMP describes a gain map or a video inside the file; all three were left out")
        return None
    if not _is_xml(xmp):
        notes.append("XMP could not be read and was left out")
        return None
    extended = re.sub(rb"""\s+xmpNote:HasExtendedXMP\s*=\s*(["'])[^"'<]*\1""", b"", xmp)
    if extended != xmp:
        notes.append("the extended part of XMP was left out")
    return extended


def _is_xml(data: bytes) -> bool:
    """Returns whether a text is well-formed XML in UTF-8, without a document type, which could define entities."""

    def refuse(*_: object) -> None:
        raise ValueError

    if len(data) > MAX_XMP_BYTES or b"RDF" not in data:
        return False
    parser = expat.ParserCreate("utf-8")
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError):
        return False
    return True


def _read_texts(chunks: Sequence[PngChunk], notes: list[str]) -> tuple[list[PngText], dict[str, bytes]]:
    """Reads the texts of a PNG file, and the blocks of other formats that some of them hold."""
    texts: list[PngText] = []
    profiles: dict[str, bytes] = {}
    damaged = 0
    for chunk in chunks:
        if chunk.name not in (b"tEXt", b"zTXt", b"iTXt"):
            continue
        try:
            text = decode_text(chunk)
            if text.keyword == XMP_KEYWORD:
                profiles["xmp"] = text.text.encode()
            elif text.keyword.startswith(RAW_PROFILE_PREFIX):
                _, _, length, digits = text.text.split("\n", 3)
                profiles[text.keyword[len(RAW_PROFILE_PREFIX) :]] = _take_profile(bytes.fromhex(digits), int(length))
            elif len(texts) < MAX_TEXTS:
                texts.append(text)
            else:
                damaged += 1
        except ValueError:
            damaged += 1
    if damaged:
        notes.append(f"{damaged} damaged or excessive text{'s were' if damaged > 1 else ' was'} left out")
    if "iptc" in profiles and profiles["iptc"].startswith(b"8BIM"):
        profiles["iptc"] = find_photoshop_iptc(profiles["iptc"]) or b""
    return texts, profiles


def _take_profile(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise ValueError("The profile is cut off.")
    return data


def find_photoshop_iptc(resources: bytes) -> bytes | None:
    """Finds the IPTC records among Photoshop's image resources."""
    at = 0
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        number, name_bytes = struct.unpack_from(">HB", resources, at + 4)
        at += 6 + (name_bytes + 2) // 2 * 2
        if at + 4 > len(resources):
            return None
        size = struct.unpack_from(">I", resources, at)[0]
        if number == PHOTOSHOP_IPTC:
            return resources[at + 4 : at + 4 + size]
        at += 4 + size + size % 2
    return None


def _read_resolution(
    source: ImageSource, chunks: Sequence[PngChunk], tags: TagDirectory | None
) -> tuple[tuple[float, float] | None, tuple[int, int] | None]:
    """Reads pixels per inch, or else the ratio of pixels that are not square."""
    physical = next((chunk.data for chunk in chunks if chunk.name == b"pHYs" and len(chunk.data) == 9), None)
    x: float = 0
    y: float = 0
    if physical is not None:
        x, y, unit = struct.unpack(">IIB", physical)
        if unit == 0:
            return None, ((int(x), int(y)) if x != y else None)
        x, y = x * 0.0254, y * 0.0254
    elif source.info.get("jfif_unit") in (1, 2):
        x, y = source.info["jfif_density"]
        x, y = (x * 2.54, y * 2.54) if source.info["jfif_unit"] == 2 else (x, y)
    elif source.format == "BMP":
        x, y = source.info.get("dpi", (0, 0))
    elif tags is not None and tags.numbers(X_RESOLUTION) and tags.numbers(Y_RESOLUTION):
        unit = int((*tags.numbers(RESOLUTION_UNIT), 2)[0])
        factor = {2: 1.0, 3: 2.54}.get(unit, 0.0)
        x, y = tags.numbers(X_RESOLUTION)[0] * factor, tags.numbers(Y_RESOLUTION)[0] * factor
    return ((float(x), float(y)) if 0 < x < MAX_DPI and 0 < y < MAX_DPI else None), None


def _decode(text: bytes) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1")
