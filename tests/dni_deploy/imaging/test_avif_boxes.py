"""The code points of an AVIF file's main picture, and files that are damaged."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from dni_deploy.imaging.avif_boxes import read_nclx


def box(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(data), name) + data


def color(primaries: int, transfer: int) -> bytes:
    return box(b"colr", b"nclx" + struct.pack(">HHHB", primaries, transfer, 6, 0x80))


def make_avif(*, is_wide: bool = False, version: int = 0) -> bytes:
    """Makes the boxes of a file of two items, whose second one is the main picture with the second of two colors."""
    number, index = (">I" if version else ">H"), (">H" if is_wide else ">B")
    entries = b"".join(
        struct.pack(number, item) + b"\2" + struct.pack(index, 1) + struct.pack(index, value)
        for item, value in ((1, 2), (2, 3))
    )
    properties = box(b"ipco", box(b"ispe", bytes(12)) + color(1, 1) + color(12, 16))
    associations = box(b"ipma", bytes([version, 0, 0, is_wide]) + struct.pack(">I", 2) + entries)
    meta = bytes(4) + box(b"pitm", bytes([version, 0, 0, 0]) + struct.pack(number, 2)) + box(b"iprp", properties + associations)
    return box(b"ftyp", b"avif") + box(b"meta", meta)


@pytest.mark.parametrize("is_wide", [False, True])
@pytest.mark.parametrize("version", [0, 1])
def test_the_main_picture_counts(is_wide: bool, version: int) -> None:
    assert read_nclx(io.BytesIO(make_avif(is_wide=is_wide, version=version))) == (12, 16, 6, 1)


def test_damaged_files_have_no_colors_and_end() -> None:
    data, random = make_avif(), np.random.default_rng(0)
    for length in range(len(data)):
        read_nclx(io.BytesIO(data[:length]))
    for _ in range(500):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), 3):
            damaged[position] = random.integers(256)
        read_nclx(io.BytesIO(bytes(damaged)))
    assert read_nclx(io.BytesIO(b"")) is None
