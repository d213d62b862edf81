"""What kind of file something is, by its first bytes, and what to do with a kind that is not read here."""

from __future__ import annotations

from dataclasses import dataclass

HEADER_BYTES = 4096
"""How much of a file `identify_file` looks at."""


@dataclass(frozen=True)
class FileKind:
    """One kind of file.

    Attributes:
        name: For people.
        pillow_name: Name of Pillow's decoder for a kind that is read here; None for one that is not.
        advice: What to do with one that is not.
    """

    name: str
    pillow_name: str | None = None
    advice: str = ""


def _converted_by(name: str, command: str) -> FileKind:
    return FileKind(name, advice=f"convert it first, for example: {command}")


PNG, JPEG, WEBP, TIFF, BMP = (FileKind(name, name.upper()) for name in ("PNG", "JPEG", "WebP", "TIFF", "BMP"))
GIF, AVIF, NETPBM = FileKind("GIF", "GIF"), FileKind("AVIF", "AVIF"), FileKind("PPM", "PPM")

RAW = _converted_by("a camera's raw file", "darktable-cli in.dng out.tif")
_HEIC = _converted_by("a HEIC or HEIF image", "heif-convert in.heic out.png")
_VIDEO = FileKind("a video or audio file", advice="`dni-deploy video` takes videos")
_MAGICK = "magick in.{0} out.png (convert in ImageMagick 6)"

MAGIC_BYTES: tuple[tuple[int, bytes, FileKind], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", PNG),
    (0, b"\xff\xd8\xff", JPEG),
    (8, b"WEBP", WEBP),
    (8, b"CR\x02\0", RAW),  # Canon's CR2 begins as a TIFF does
    (0, b"II*\0", TIFF),
    (0, b"MM\0*", TIFF),
    (0, b"II+\0", TIFF),
    (0, b"MM\0+", TIFF),
    (0, b"BM", BMP),
    (0, b"GIF87a", GIF),
    (0, b"GIF89a", GIF),
    *((0, b"P%d%c" % (number, separator), NETPBM) for number in range(1, 7) for separator in b" \t\r\n#"),
    (0, b"\xff\x0a", _converted_by("a JPEG XL image", "djxl in.jxl out.png")),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", _converted_by("a JPEG XL image", "djxl in.jxl out.png")),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", _converted_by("a JPEG 2000 image", "opj_decompress -i in.jp2 -o out.png")),
    (0, b"\xff\x4f\xff\x51", _converted_by("a JPEG 2000 image", "opj_decompress -i in.j2k -o out.png")),
    (0, b"8BPS", _converted_by("a Photoshop document", "magick 'in.psd[0]' out.png (convert in ImageMagick 6)")),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"IIRO", RAW),
    (0, b"IIRS", RAW),
    (0, b"IIU\0", RAW),
    (0, b"\0MRM", RAW),
    (0, b"FOVb", RAW),
    (0, b"\x76\x2f\x31\x01", _converted_by("an OpenEXR image", "oiiotool in.exr -o out.tif")),
    (0, b"#?RADIANCE", _converted_by("a Radiance HDR image", "oiiotool in.hdr -o out.tif")),
    (0, b"#?RGBE", _converted_by("a Radiance HDR image", "oiiotool in.hdr -o out.tif")),
    (0, b"PF\n", _converted_by("a portable float map", "oiiotool in.pfm -o out.tif")),
    (0, b"Pf\n", _converted_by("a portable float map", "oiiotool in.pfm -o out.tif")),
    (0, b"P7\n", _converted_by("a portable arbitrary map", "magick in.pam out.png (convert in ImageMagick 6)")),
    (0, b"DDS ", _converted_by("a DDS texture", _MAGICK.format("dds"))),
    (0, b"\0\0\x01\0", _converted_by("an icon of several sizes", "magick 'in.ico[0]' out.png (convert in ImageMagick 6)")),
    (0, b"qoif", _converted_by("a QOI image", "ffmpeg -i in.qoi out.png")),
    (0, b"gimp xcf", _converted_by("a GIMP document", _MAGICK.format("xcf"))),
    (0, b"\x0a\x05\x01", _converted_by("a PCX image", _MAGICK.format("pcx"))),
    (0, b"SIMPLE  =", _converted_by("a FITS image", _MAGICK.format("fits"))),
    (0, b"%PDF-", _converted_by("a PDF document", "pdftoppm -r 300 -png in.pdf out")),
    (0, b"%!PS", _converted_by("a PostScript document", "gs -dSAFER -sDEVICE=png16m -r300 -o out.png in.eps")),
    (0, b"\xc5\xd0\xd3\xc6", _converted_by("a PostScript document", "gs -dSAFER -sDEVICE=png16m -r300 -o out.png in.eps")),
    (0, b"\x1a\x45\xdf\xa3", _VIDEO),
    (0, b"OggS", _VIDEO),
    (0, b"FLV\x01", _VIDEO),
    (0, b"\0\0\x01\xba", _VIDEO),
    (0, b"\0\0\x01\xb3", _VIDEO),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _VIDEO),
    (0, b"YUV4MPEG2 ", _VIDEO),
    (8, b"AVI ", _VIDEO),
    (0, b"PK\x03\x04", FileKind("a zip archive", advice="unpack it first")),
    (0, b"\x1f\x8b", FileKind("a gzip archive", advice="unpack it first: gunzip")),
    (0, b"version https://git-lfs", FileKind("a pointer of Git LFS and not the file itself", advice="fetch it: git lfs pull")),
)
"""Offset and bytes -> the kind; the first one counts."""

BRANDS: dict[bytes, FileKind] = {
    **dict.fromkeys((b"avif", b"avis"), AVIF),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), _HEIC),
    b"crx ": RAW,
    b"jxl ": _converted_by("a JPEG XL image", "djxl in.jxl out.png"),
}
"""Brand of a file of the ISO base media format (bytes 8 to 11) -> the kind; every other brand is a video."""

TGA_FOOTER = b"TRUEVISION-XFILE.\0"


def identify_file(header: bytes, footer: bytes = b"") -> FileKind | None:
    """Identifies a file.

    Args:
        header: Its first bytes, up to HEADER_BYTES.
        footer: Its last bytes, for the one format that has its name there.

    Returns:
        The kind; None for one that is not known here.
    """
    if header[4:8] == b"ftyp":
        brands = [header[8:12], *(header[at : at + 4] for at in range(16, min(int.from_bytes(header[:4], "big"), 256), 4))]
        known = [BRANDS[brand] for brand in brands if brand in BRANDS]
        # mif1 says "some image"; a brand beside it says of which codec.
        return AVIF if AVIF in known else known[0] if known else _VIDEO
    for offset, magic, kind in MAGIC_BYTES:
        if header.startswith(magic, offset):
            return kind
    if footer.endswith(TGA_FOOTER) or _looks_like_tga(header):
        return _converted_by("a TGA image", _MAGICK.format("tga"))
    text = header.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return FileKind("a web page", advice="download the image itself")
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text):
        return _converted_by("an SVG drawing", "rsvg-convert in.svg -o out.png")
    return None


def _looks_like_tga(header: bytes) -> bool:
    """Tells whether the fields of a TGA header, which has no magic bytes, have values that occur. Source: TGA 2.0, page 6."""
    return (
        len(header) >= 18
        and header[1] <= 1
        and header[2] in (1, 2, 3, 9, 10, 11)
        and header[16] in (8, 15, 16, 24, 32)
        and any(header[12:14])
        and any(header[14:16])
    )
