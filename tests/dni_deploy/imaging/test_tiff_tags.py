"""Tags of TIFF files and EXIF blocks: read within limits, written, and corrected without moving a byte."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from dni_deploy.imaging.tiff_tags import (
    ASCII,
    EXIF,
    ORIENTATION,
    RATIONAL,
    SHORT,
    TagDirectory,
    add_tags,
    correct_exif,
    make_tag,
    read_tiff,
    write_exif,
)
from tests.support.color_files import encode, make_exif, make_pixels


@pytest.mark.parametrize("order", "<>")
def test_what_is_written_is_read(order: str) -> None:
    tags = {
        1: make_tag(order, SHORT, (7,)),
        5: make_tag(order, RATIONAL, (1, 3, 1, 0)),
        9: make_tag(order, ASCII, b"odd length\0"),
    }
    block = write_exif(TagDirectory(order, tags, {EXIF: TagDirectory(order, {2: make_tag(order, SHORT, range(9))})}))
    got = read_tiff(io.BytesIO(block))
    assert (got.order, got.numbers(1), got.numbers(5), got.text(9)) == (order, (7,), (1 / 3, 0.0), "odd length")
    assert got.children[EXIF].numbers(2) == tuple(range(9))
    assert got.numbers(99) == got.numbers(9) == ()
    assert write_exif(read_tiff(io.BytesIO(write_exif(got.set_order("<>"[order == "<"])))).set_order(order)) == block


@pytest.mark.parametrize("order", "<>")
def test_tags_are_added_to_a_file_whose_pixels_stay(order: str) -> None:
    plain = encode(make_pixels(), "TIFF", compression="tiff_deflate")
    extra = TagDirectory(
        order, {315: make_tag(order, ASCII, b"Ada\0")}, {EXIF: TagDirectory(order, {40961: make_tag(order, SHORT, (1,))})}
    )
    tiff = add_tags(plain, extra)
    with Image.open(io.BytesIO(tiff)) as image:
        assert np.array_equal(np.array(image), make_pixels())
        assert image.getexif()[315] == "Ada"
        assert image.getexif().get_ifd(EXIF)[40961] == 1


def test_nothing_moves_when_numbers_are_corrected() -> None:
    block = make_exif(orientation=8)
    corrected = correct_exif(block, {ORIENTATION: 1, 40962: 5, 999: 1})
    assert len(corrected) == len(block)
    assert sum(a != b for a, b in zip(block, corrected, strict=True)) == 2
    assert read_tiff(io.BytesIO(corrected)).numbers(ORIENTATION) == (1,)


def test_big_tiff_is_read() -> None:
    entry = struct.pack("<HHQ8s", 315, 2, 4, b"Ada\0")
    block = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 1) + entry + bytes(8)
    assert read_tiff(io.BytesIO(block)).text(315) == "Ada"
    with pytest.raises(ValueError, match="EXIF"):
        correct_exif(block, {})


def test_tags_are_added_to_big_tiff() -> None:
    extra = TagDirectory(
        tags={315: make_tag("<", ASCII, b"Ada Lovelace\0")}, children={EXIF: TagDirectory(tags={1: make_tag("<", SHORT, (7,))})}
    )
    tiff = add_tags(encode(make_pixels(), "TIFF", big_tiff=True), extra)
    assert tiff[2] == 43
    with Image.open(io.BytesIO(tiff)) as image:
        assert np.array_equal(np.array(image), make_pixels())
    got = read_tiff(io.BytesIO(tiff))
    assert (got.text(315), got.children[EXIF].numbers(1)) == ("Ada Lovelace", (7,))


@pytest.mark.parametrize(
    "block", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\0\0", b"II*\0\x08\0\0\0\xff\xff", b"MM\0+" + bytes(12)]
)
def test_damaged_blocks_are_refused(block: bytes) -> None:
    with pytest.raises(ValueError, match=r"TIFF header|directory"):
        read_tiff(io.BytesIO(block))


def test_directories_that_point_at_themselves_end() -> None:
    block = struct.pack("<2sHIH", b"II", 42, 8, 1) + struct.pack("<HHII", EXIF, 4, 1, 8) + bytes(4)
    assert read_tiff(io.BytesIO(block)).children[EXIF].children == {}
