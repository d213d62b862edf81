"""What a picture knew is in the output, with the right orientation and sizes, or a note says what was left out."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.imaging.image_file import ImageFile, fit_to_format, read_image, write_image
from dni_deploy.imaging.image_formats import FORMAT_BY_SUFFIX, IMAGE_FORMATS
from dni_deploy.imaging.metadata import NO_METADATA, Metadata, correct_xmp
from dni_deploy.imaging.png_chunks import PngChunk, PngText, encode_profile, insert_chunks
from dni_deploy.imaging.tiff_tags import EXIF, GPS, ORIENTATION, TagDirectory, add_tags, make_tag, read_tiff, write_exif
from tests.support.color_files import ADOBE_ICC, encode, make_exif, make_pixels, skip_unread

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" tiff:Orientation="6" '
    b'tiff:ImageWidth="1"><exif:PixelXDimension>1</exif:PixelXDimension></rdf:Description></rdf:RDF></x:xmpmeta>'
)
IPTC = b"\x1c\x02\x78\x00\x07caption\x1c\x02\x50\x00\x04name"
TEXTS = (PngText("Author", "Grüße"), PngText("Title", "題", "ja", "表題"), PngText("Comment", "a comment"))
EVERYTHING = Metadata(make_exif(orientation=6), XMP, IPTC, (300.0, 150.0), TEXTS)
HELD = {
    ".png": "exif xmp iptc dpi texts", ".jpg": "exif xmp iptc dpi comment", ".tif": "exif xmp iptc dpi comment",
    ".webp": "exif xmp", ".bmp": "dpi",
}  # fmt: skip
"""Suffix -> what a file of this format holds of EVERYTHING."""


@pytest.mark.parametrize("suffix", HELD)
def test_every_format_holds_what_it_can_and_the_rest_is_named(tmp_path: Path, suffix: str) -> None:
    image = ImageFile(make_pixels(10, 20), metadata=EVERYTHING)
    write_image(tmp_path / f"out{suffix}", image)
    got = read_image(tmp_path / f"out{suffix}")
    assert np.array_equal(got.rgb, image.rgb) or suffix == ".jpg"  # not rotated again
    assert got.notes == ()
    held = HELD[suffix].split()
    metadata = got.metadata
    assert (metadata.exif is not None) == ("exif" in held)
    if metadata.exif is not None:
        tags = read_tiff(io.BytesIO(metadata.exif))
        assert tags.text(315) == "Ada Lovelace"
        assert tags.children[GPS].numbers(2) == (48, 30, 0)
        assert tags.children[EXIF].data(0x927C) == b"maker's own note"
        assert tags.numbers(ORIENTATION) in ((1,), ())
        if suffix != ".tif":
            assert (tags.children[EXIF].numbers(40962), tags.children[EXIF].numbers(40963)) == ((20,), (10,))
    assert metadata.xmp == (correct_xmp(XMP, 20, 10) if "xmp" in held else None)
    assert metadata.iptc == (IPTC if "iptc" in held else None)
    if "dpi" in held:
        assert metadata.dpi is not None
        assert np.allclose(metadata.dpi, (300, 150), atol=0.02)  # whole pixels a meter
    if "texts" in held:
        assert metadata.texts == TEXTS
    note = " ".join(fit_to_format(image, FORMAT_BY_SUFFIX[suffix]).notes)
    for name, what in {"exif": "EXIF", "xmp": "XMP", "iptc": "IPTC", "texts": "the text Author, Title"}.items():
        assert (what in note) == (name not in held)


def test_comments_become_texts_and_descriptions(tmp_path: Path) -> None:
    (tmp_path / "in.jpg").write_bytes(encode(make_pixels(), "JPEG", comment="Grüße".encode()))
    image = read_image(tmp_path / "in.jpg")
    assert image.metadata.texts == (PngText("Comment", "Grüße"),)
    for suffix in (".png", ".jpg"):
        write_image(tmp_path / f"out{suffix}", image)
        assert read_image(tmp_path / f"out{suffix}").metadata.texts == image.metadata.texts
    write_image(tmp_path / "out.tif", image)
    with (tmp_path / "out.tif").open("rb") as file:
        assert read_tiff(file).text(270) == "Grüße"


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_orientation_is_baked_in_and_everything_says_one(tmp_path: Path, name: str) -> None:
    pixels = make_pixels(8, 16)
    (tmp_path / "in").write_bytes(encode(pixels, name, exif=make_exif(orientation=6)))
    image = read_image(tmp_path / "in")
    assert image.rgb.shape == (16, 8, 3)
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        write_image(tmp_path / f"out{suffix}", image)
        with Image.open(tmp_path / f"out{suffix}") as written:
            assert written.size == (8, 16)
            assert written.getexif().get(ORIENTATION, 1) == 1
        assert read_image(tmp_path / f"out{suffix}").rgb.shape == (16, 8, 3)


def test_a_tiff_file_keeps_what_describes_it(tmp_path: Path) -> None:
    directory = read_tiff(io.BytesIO(make_exif(orientation=6)))
    write_image(tmp_path / "a.tif", ImageFile(make_pixels(), metadata=Metadata(exif=write_exif(directory), xmp=XMP, iptc=IPTC)))
    image = read_image(tmp_path / "a.tif")
    write_image(tmp_path / "b.tif", image)
    write_image(tmp_path / "b.jpg", image)
    for name in ("b.tif", "b.jpg"):
        with Image.open(tmp_path / name) as written:
            exif = written.getexif()
            assert exif[315] == "Ada Lovelace"
            assert exif.get_ifd(GPS)[1] == "N"
            assert exif.get_ifd(EXIF)[0x9003] == "2026:01:02 03:04:05"
            written.load()


def test_the_resolution_of_a_turned_picture_is_turned(tmp_path: Path) -> None:
    exif = write_exif(TagDirectory(tags={ORIENTATION: make_tag("<", 3, (6,))}))
    (tmp_path / "in.jpg").write_bytes(encode(make_pixels(), "JPEG", exif=exif, dpi=(300, 150)))
    assert read_image(tmp_path / "in.jpg").metadata.dpi == (150, 300)


def test_thumbnails_are_left_out(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[315] = "Ada"
    block = exif.tobytes()[6:]  # big-endian
    thumbnail = encode(make_pixels(), "JPEG")
    end = len(block)
    directory = struct.pack(">HHHIIHHIII", 2, 513, 4, 1, end + 30, 514, 4, 1, len(thumbnail), 0)
    count = struct.unpack_from(">H", block, 8)[0]
    block = block[: 10 + 12 * count] + struct.pack(">I", end) + block[14 + 12 * count :] + directory + thumbnail
    corrected = Metadata(exif=block).correct(1, 1).exif
    assert corrected is not None
    assert thumbnail[:20] not in corrected
    assert len(corrected) <= end
    assert read_tiff(io.BytesIO(corrected)).text(315) == "Ada"


def test_sizes_that_outgrow_their_type_are_widened() -> None:
    corrected = Metadata(exif=make_exif()).correct(70_000, 80_000).exif
    assert corrected is not None
    exif = read_tiff(io.BytesIO(corrected)).children[EXIF]
    assert (exif.numbers(40962), exif.numbers(40963)) == ((70_000,), (80_000,))


def test_texts_of_imagemagick_are_read_as_what_they_are(tmp_path: Path) -> None:
    exif = b"Exif\0\0" + make_exif(orientation=3)
    resources = struct.pack(">4sHxxI", b"8BIM", 0x0404, len(IPTC)) + IPTC
    texts = [
        PngText(f"Raw profile type {name}", f"\n{name}\n{len(data):8}\n{data.hex()}\n").to_chunk()
        for name, data in (("exif", exif), ("iptc", resources))
    ]
    (tmp_path / "in.png").write_bytes(insert_chunks(encode(make_pixels(), "PNG"), texts))
    image = read_image(tmp_path / "in.png")
    assert image.metadata.exif == exif[6:]
    assert (image.metadata.iptc, image.metadata.texts) == (IPTC, ())
    assert np.array_equal(image.rgb, make_pixels()[::-1, ::-1])


@pytest.mark.parametrize(
    ("chunk", "note"),
    [
        (PngChunk(b"eXIf", b"junk" * 10), "EXIF could not be read and was left out; the image was not rotated"),
        (PngChunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta><rdf:RDF"), "XMP could not be read and was left out"),
        (
            PngChunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<!DOCTYPE a [<!ENTITY b "c">]><RDF>&b;</RDF>'),
            "XMP could not be read and was left out",
        ),
        (
            PngChunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.replace(b"tiff:ImageWidth", b"hdrgm:Version")),
            "XMP describes a gain map",
        ),
        (PngText("Raw profile type iptc", "\niptc\n 3\n616263\n").to_chunk(), "IPTC could not be read and was left out"),
        (PngText("Raw profile type iptc", "\niptc\n 9\n616263\n").to_chunk(), "1 damaged or excessive text was left out"),
        (PngChunk(b"pHYs", struct.pack(">IIB", 2, 1, 0)), "the pixels are not square (2:1)"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_pixels_are_read(tmp_path: Path, chunk: PngChunk, note: str) -> None:
    (tmp_path / "in.png").write_bytes(insert_chunks(encode(make_pixels(), "PNG"), [chunk]))
    image = read_image(tmp_path / "in.png")
    assert np.array_equal(image.rgb, make_pixels())
    assert len(image.notes) == 1
    assert note in image.notes[0]


def test_what_is_too_long_for_a_jpeg_file_is_named(tmp_path: Path) -> None:
    directory = TagDirectory(tags={315: make_tag("<", 2, b"a" * 70_000)})
    metadata = Metadata(write_exif(directory), XMP.replace(b"1", b"1" + b" " * 70_000, 1), IPTC + bytes(70_000))
    image = ImageFile(make_pixels(), metadata=metadata)
    write_image(tmp_path / "out.jpg", image)
    assert fit_to_format(image, FORMAT_BY_SUFFIX[".jpg"]).notes == ("left out: EXIF, XMP, IPTC, too long for a JPEG file",)
    assert read_image(tmp_path / "out.jpg").metadata == NO_METADATA


def make_file(name: str, exif: bytes, icc: bytes, xmp: bytes, iptc: bytes) -> bytes:
    """Makes a file of one format around blocks of metadata, whatever they are."""
    pixels = make_pixels(4, 4)
    if name == "PNG":
        text = PngText("Raw profile type iptc", f"\niptc\n{len(iptc):8}\n{iptc.hex()}\n")
        chunks = [PngChunk(b"eXIf", exif), encode_profile(icc), PngChunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)]
        return insert_chunks(encode(pixels, name), [*chunks, text.to_chunk(), PngChunk(b"zTXt", b"a\0\0" + exif)])
    if name == "TIFF":
        tags = {34675: make_tag("<", 7, icc), 700: make_tag("<", 1, xmp), 33723: make_tag("<", 7, iptc)}
        return add_tags(encode(pixels, name), TagDirectory(tags=tags, children=read_tiff(io.BytesIO(EXIF_BLOCK)).children))
    if name == "AVIF":
        return replace_blocks(encode(pixels, name, exif=EXIF_BLOCK, icc_profile=ADOBE_ICC, xmp=XMP), exif, icc, xmp)
    segment = b"Photoshop 3.0\0" + struct.pack(">4sHxxI", b"8BIM", 0x0404, len(iptc)) + iptc
    extra = {"extra": b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment} if name == "JPEG" else {}
    return encode(pixels, name, exif=exif, icc_profile=icc, xmp=xmp, **extra)


def replace_blocks(avif: bytes, exif: bytes, icc: bytes, xmp: bytes) -> bytes:
    """Overwrites the blocks in a file whose encoder takes only good ones."""
    with Image.open(io.BytesIO(avif)) as image:
        written = image.info["exif"][6:]
    for old, new in ((written, exif), (ADOBE_ICC, icc), (XMP, xmp)):
        assert old in avif
        avif = avif.replace(old, new[: len(old)].ljust(len(old), b"\0"))
    return avif


EXIF_BLOCK = make_exif(color_space=65535, interoperability=b"R03")
BLOCKS = (EXIF_BLOCK, ADOBE_ICC, XMP, IPTC)


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_damaged_metadata_never_cost_the_pixels(tmp_path: Path, name: str, count: int) -> None:
    if name == "AVIF":
        skip_unread(".avif")
    (tmp_path / "in").write_bytes(make_file(name, *BLOCKS))
    pixels = read_image(tmp_path / "in").rgb
    random = np.random.default_rng(0)
    for _ in range(count):
        blocks = [bytearray(block) for block in BLOCKS]
        for block in blocks:
            for _ in range(random.integers(0, 4)):
                block[random.integers(len(block))] = random.integers(256)
            if random.integers(10) == 0:
                del block[random.integers(len(block)) :]
        (tmp_path / "in").write_bytes(make_file(name, *(bytes(block) for block in blocks)))
        image = read_image(tmp_path / "in")
        assert sorted(image.rgb.ravel()) == sorted(pixels.ravel())  # the orientation may have changed
        for image_format in IMAGE_FORMATS:
            metadata = image.metadata.fit(image_format)[0].mark_as_srgb().correct(8, 8)
            metadata.make_tags(image.color.icc), metadata.make_encoder_options(image_format)
        image.metadata.list_png_chunks(), image.color.list_png_chunks()
