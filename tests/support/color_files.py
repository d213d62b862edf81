"""Small image files that say in every known way what their colors mean, and independent readings of what files say."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from dni_deploy.imaging.color_profile import SRGB, ColorProfile
from dni_deploy.imaging.icc_profile import ADOBE_RGB_CHROMATICITIES, ADOBE_RGB_CURVE, RgbSpace, make_profile
from dni_deploy.imaging.image_file import DECODERS, ImageFile, encode_image
from dni_deploy.imaging.image_formats import FORMAT_BY_SUFFIX, READABLE_SUFFIXES
from dni_deploy.imaging.png_chunks import PngChunk, encode_profile, insert_chunks
from dni_deploy.imaging.tiff_tags import (
    ASCII,
    EXIF,
    INTEROPERABILITY,
    ORIENTATION,
    RATIONAL,
    SHORT,
    UNDEFINED,
    TagDirectory,
    add_tags,
    make_tag,
    write_exif,
)

ADOBE_RGB = RgbSpace(ADOBE_RGB_CHROMATICITIES, (ADOBE_RGB_CURVE,))
P3 = RgbSpace((0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060))
LINEAR = RgbSpace(curves=((1.0,),))
ADOBE_ICC = make_profile(ADOBE_RGB, "Adobe RGB")
GRAY_ICC = make_profile(LINEAR, "linear gray", is_gray=True)


def make_pixels(height: int = 12, width: int = 16) -> NDArray[np.uint8]:
    """Makes colors all over the cube, with both ends."""
    pixels = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[0, :2] = [[0, 0, 0], [255, 255, 255]]
    return pixels


def make_exif(*, orientation: int = 1, color_space: int | None = None, interoperability: bytes | None = None) -> bytes:
    """Makes an EXIF block with an author, a resolution, sizes and a GPS position."""
    exif = TagDirectory(tags={0x9003: make_tag("<", ASCII, b"2026:01:02 03:04:05\0")})
    exif.tags[40962], exif.tags[40963] = make_tag("<", SHORT, (1,)), make_tag("<", SHORT, (2,))
    exif.tags[0x927C] = make_tag("<", UNDEFINED, b"maker's own note")
    if color_space is not None:
        exif.tags[40961] = make_tag("<", SHORT, (color_space,))
    if interoperability is not None:
        exif.children[INTEROPERABILITY] = TagDirectory(tags={1: make_tag("<", ASCII, interoperability + b"\0")})
    gps = TagDirectory(tags={1: make_tag("<", ASCII, b"N\0"), 2: make_tag("<", RATIONAL, (48, 1, 30, 1, 0, 1))})
    directory = TagDirectory(children={EXIF: exif, 0x8825: gps})
    directory.tags = {
        ORIENTATION: make_tag("<", SHORT, (orientation,)),
        282: make_tag("<", RATIONAL, (300, 1)),
        283: make_tag("<", RATIONAL, (300, 1)),
        296: make_tag("<", SHORT, (2,)),
        315: make_tag("<", ASCII, b"Ada Lovelace\0"),
    }
    return write_exif(directory)


def encode(pixels: NDArray[np.uint8] | Image.Image, name: str, **options: object) -> bytes:
    """Encodes pixels by Pillow; JPEG at full quality."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    if "exif" in options and name != "PNG":
        options["exif"] = b"Exif\0\0" + options["exif"]  # type: ignore[operator]
    defaults: dict[str, dict[str, object]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    image.save(buffer, name, **{**defaults.get(name, {}), **options})
    return buffer.getvalue()


def make_png(pixels: NDArray[np.uint8], *chunks: tuple[bytes, bytes]) -> bytes:
    """Makes a PNG file with chunks, given by name and content."""
    return insert_chunks(encode(pixels, "PNG"), [PngChunk(*chunk) for chunk in chunks])


def make_bmp(
    pixels: NDArray[np.uint8], kind: bytes, space: RgbSpace | None = None, gamma: float = 2.2, icc: bytes = b""
) -> bytes:
    """Makes a BMP file with a header of version 5.

    Args:
        pixels: uint8 (H, W, 3).
        kind: The color space type, 4 bytes.
        space: Its primaries, as the header's end points.
        gamma: Of all channels.
        icc: An embedded profile.
    """
    plain = encode(pixels, "BMP")
    body = plain[54:]
    points = bytes(36)
    if space is not None:
        xy = np.array(space.chromaticities).reshape(4, 2)
        xyz = np.column_stack([xy, 1 - xy.sum(axis=1)])
        columns = xyz[1:].T * np.linalg.solve(xyz[1:].T, xyz[0] / xyz[0, 1])
        points = struct.pack("<9i", *(round(value * 2**30) for value in columns.T.ravel()))
    head = struct.pack("<I", 124) + plain[18:54] + bytes(16) + kind[::-1] + points
    head += struct.pack("<3I", *[round(gamma * 65536)] * 3) + struct.pack("<4I", 4, 124 + len(body), len(icc), 0)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body) + len(icc), 0, 0, 14 + len(head)) + head + body + icc


def make_tiff(pixels: NDArray[np.uint8], **tags: tuple[int, object]) -> bytes:
    """Makes a TIFF file with tags t301=(type, values), and so on."""
    directory = TagDirectory(tags={int(name[1:]): make_tag("<", kind, values) for name, (kind, values) in tags.items()})  # type: ignore[arg-type]
    return add_tags(encode(pixels, "TIFF"), directory)


def make_gif_with_profile(pixels: NDArray[np.uint8], icc: bytes) -> bytes:
    """Makes a GIF file with a profile in an application extension."""
    data = encode(Image.fromarray(pixels).quantize(64), "GIF")
    begin = 13 + (3 << ((data[10] & 7) + 1))
    blocks = b"".join(bytes([len(icc[at : at + 255])]) + icc[at : at + 255] for at in range(0, len(icc), 255))
    return data[:begin] + b"\x21\xff\x0bICCRGBG1012" + blocks + b"\0" + data[begin:]


def make_deep(pixels: NDArray[np.uint8], suffix: str, color: ColorProfile) -> bytes:
    """Makes a file of 16 bits a channel; skips the test without the extra `deep`."""
    pytest.importorskip("imagecodecs")
    image_format = FORMAT_BY_SUFFIX[suffix]
    return encode_image(ImageFile(pixels.astype(np.uint16) * 257, color=color), image_format)


def set_nclx(avif: bytes, primaries: int, transfer: int) -> bytes:
    """Changes the code points in an AVIF file."""
    at = avif.index(b"colrnclx") + 8
    return avif[:at] + struct.pack(">HH", primaries, transfer) + avif[at + 4 :]


def pack_chromaticities(space: RgbSpace) -> bytes:
    """The content of a cHRM chunk."""
    return struct.pack(">8I", *(round(value * 100_000) for value in space.chromaticities))


CURVE = (np.linspace(0, 1, 256) ** 1.8 * 65535).round().astype(int)
CURVE_SPACE = RgbSpace(P3.chromaticities, (CURVE.astype(np.uint16),))


def _rational(values: tuple[float, ...]) -> tuple[int, tuple[int, ...]]:
    return RATIONAL, tuple(number for value in values for number in (round(value * 100_000), 100_000))


def skip_unread(suffix: str) -> None:
    """Skips a test whose file this Pillow does not decode: it has AVIF from 11.3 on."""
    if suffix not in READABLE_SUFFIXES or (suffix == ".avif" and "AVIF" not in DECODERS):
        pytest.skip(f"{suffix} is not read")


Maker = Callable[[NDArray[np.uint8]], bytes]
COLOR_SOURCES: dict[str, tuple[str, Maker, RgbSpace | None]] = {
    "png-none": (".png", lambda p: make_png(p), None),
    "png-icc": (".png", lambda p: make_png(p, (b"iCCP", encode_profile(ADOBE_ICC).data)), ADOBE_RGB),
    "png-srgb": (".png", lambda p: make_png(p, (b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455))), None),
    "png-gama": (".png", lambda p: make_png(p, (b"gAMA", struct.pack(">I", 100_000))), LINEAR),
    "png-gama-chrm": (
        ".png",
        lambda p: make_png(p, (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", pack_chromaticities(P3))),
        RgbSpace(P3.chromaticities, ((100_000 / 45455,),)),
    ),
    "png-cicp": (".png", lambda p: make_png(p, (b"cICP", bytes([12, 13, 0, 1]))), P3),
    "jpg-none": (".jpg", lambda p: encode(p, "JPEG"), None),
    "jpg-icc": (".jpg", lambda p: encode(p, "JPEG", icc_profile=ADOBE_ICC), ADOBE_RGB),
    "jpg-srgb": (".jpg", lambda p: encode(p, "JPEG", exif=make_exif(color_space=1, interoperability=b"R98")), None),
    "jpg-r03": (".jpg", lambda p: encode(p, "JPEG", exif=make_exif(color_space=65535, interoperability=b"R03")), ADOBE_RGB),
    "webp-icc": (".webp", lambda p: encode(p, "WEBP", icc_profile=ADOBE_ICC), ADOBE_RGB),
    "tif-icc": (".tif", lambda p: encode(p, "TIFF", icc_profile=ADOBE_ICC), ADOBE_RGB),
    "tif-primaries": (
        ".tif",
        lambda p: make_tiff(p, t318=_rational(P3.chromaticities[:2]), t319=_rational(P3.chromaticities[2:])),  # type: ignore[arg-type]
        P3,
    ),
    "tif-curve": (
        ".tif",
        lambda p: make_tiff(
            p,
            t301=(SHORT, tuple(CURVE)),
            t318=_rational(P3.chromaticities[:2]),  # type: ignore[arg-type]
            t319=_rational(P3.chromaticities[2:]),  # type: ignore[arg-type]
        ),
        CURVE_SPACE,
    ),
    "bmp-srgb": (".bmp", lambda p: make_bmp(p, b"sRGB"), None),
    "bmp-calibrated": (".bmp", lambda p: make_bmp(p, bytes(4), ADOBE_RGB, 563 / 256), ADOBE_RGB),
    "bmp-icc": (".bmp", lambda p: make_bmp(p, b"MBED", icc=ADOBE_ICC), ADOBE_RGB),
    "png16-icc": (".png", lambda p: make_deep(p, ".png", ColorProfile(ADOBE_ICC)), ADOBE_RGB),
    "png16-gama": (
        ".png",
        lambda p: insert_chunks(make_deep(p, ".png", SRGB), [PngChunk(b"gAMA", struct.pack(">I", 100_000))]),
        LINEAR,
    ),
    "png16-cicp": (".png", lambda p: make_deep(p, ".png", ColorProfile(cicp=(12, 13, 0, 1))), P3),
    "tif16-icc": (".tif", lambda p: make_deep(p, ".tif", ColorProfile(ADOBE_ICC)), ADOBE_RGB),
    "tif16-curve": (
        ".tif",
        lambda p: add_tags(
            make_deep(p, ".tif", SRGB),
            TagDirectory(
                tags={
                    301: make_tag("<", SHORT, tuple(CURVE.repeat(256).tolist())),
                    318: make_tag("<", *_rational(P3.chromaticities[:2])),
                    319: make_tag("<", *_rational(P3.chromaticities[2:])),
                }
            ),
        ),
        CURVE_SPACE,
    ),
    "gif-icc": (".gif", lambda p: make_gif_with_profile(p, ADOBE_ICC), ADOBE_RGB),
    "avif-icc": (".avif", lambda p: encode(p, "AVIF", quality=100, subsampling="4:4:4", icc_profile=ADOBE_ICC), ADOBE_RGB),
    "avif-nclx": (".avif", lambda p: set_nclx(encode(p, "AVIF", quality=100, subsampling="4:4:4"), 12, 13), P3),
}
"""Name -> suffix, what makes the file from pixels, and what its numbers mean; None for sRGB."""


def render(pixels: NDArray[np.uint8], space: RgbSpace | None) -> NDArray[np.uint8]:
    """Renders numbers that mean a space as sRGB, by Little CMS."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if space is None else make_profile(space, "truth")
    return render_by_profile(pixels, icc)


def render_by_profile(pixels: NDArray[np.uint8], icc: bytes | None) -> NDArray[np.uint8]:
    """Renders pixels with a profile as sRGB, by Little CMS; without one, they are sRGB."""
    if icc is None:
        return pixels
    converted = ImageCms.profileToProfile(
        Image.fromarray(pixels),
        ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=ImageCms.Flags.NOOPTIMIZE,  # the fast path for gray is off by up to 10 levels in the dark
    )
    assert converted is not None
    return np.array(converted)


def read_by_pillow(path: Path) -> tuple[NDArray[np.uint8], bytes | None]:
    """Reads pixels and embedded profile of a file, by Pillow alone."""
    with Image.open(path) as image:
        image.load()
        return np.array(image.convert("RGB")), image.info.get("icc_profile")
