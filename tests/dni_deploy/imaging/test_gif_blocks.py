"""Application blocks of GIF files, and files that are damaged."""

from __future__ import annotations

import io

import numpy as np

from dni_deploy.imaging.gif_blocks import read_application_block
from tests.support.color_files import ADOBE_ICC, make_gif_with_profile, make_pixels

IDENTIFIER = b"ICCRGBG1012"


def test_a_block_is_found_and_joined() -> None:
    data = make_gif_with_profile(make_pixels(), ADOBE_ICC)
    assert read_application_block(io.BytesIO(data), IDENTIFIER) == ADOBE_ICC
    assert read_application_block(io.BytesIO(data), b"NETSCAPE2.0") is None


def test_damaged_files_end() -> None:
    data, random = make_gif_with_profile(make_pixels(), ADOBE_ICC), np.random.default_rng(0)
    for length in range(0, len(data), 7):
        read_application_block(io.BytesIO(data[:length]), IDENTIFIER)
    for _ in range(500):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), 3):
            damaged[position] = random.integers(256)
        read_application_block(io.BytesIO(bytes(damaged)), IDENTIFIER)
