"""Orientation: each of the eight display matrices moves every pixel to its place; any other matrix is none of them."""

from __future__ import annotations

import io
import struct
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageOps

from dni_deploy.imaging.orientation import Orientation

UNIT = 1 << 16
PIXELS = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
EIGHT = [(a, 0, 0, d) for a, d in product((1, -1), repeat=2)] + [(0, b, c, 0) for b, c in product((1, -1), repeat=2)]
EXIF_NUMBER = {
    (1, 0, 0, 1): 1, (-1, 0, 0, 1): 2, (-1, 0, 0, -1): 3, (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5, (0, 1, -1, 0): 6, (0, -1, -1, 0): 7, (0, -1, 1, 0): 8,
}  # fmt: skip


def pack_matrix(a: float, b: float, c: float, d: float, u: int = 0) -> bytes:
    a, b, c, d = (round(value * UNIT) for value in (a, b, c, d))
    return struct.pack("=9i", a, b, u, c, d, 0, 12 * UNIT, -7 * UNIT, 1 << 30)


@pytest.mark.parametrize("matrix", EIGHT)
def test_every_pixel_goes_where_the_matrix_sends_it(matrix: tuple[int, int, int, int]) -> None:
    a, b, c, d = matrix
    orientation = Orientation.from_display_matrix(pack_matrix(*matrix))
    assert orientation is not None
    upright = orientation.apply(PIXELS)
    assert upright.shape[1::-1] == orientation.orient_size(3, 2)
    assert upright.flags.c_contiguous
    points = [(a * p + c * q, b * p + d * q) for q in range(2) for p in range(3)]
    left, top = min(x for x, _ in points), min(y for _, y in points)
    for (x, y), (q, p) in zip(points, np.ndindex(2, 3), strict=True):
        assert np.array_equal(upright[y - top, x - left], PIXELS[q, p])


@pytest.mark.parametrize("matrix", EIGHT)
def test_the_eight_are_those_of_exif(matrix: tuple[int, int, int, int]) -> None:
    image = Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[274] = EXIF_NUMBER[matrix]
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    orientation = Orientation.from_display_matrix(pack_matrix(*matrix))
    assert orientation is not None
    assert np.array_equal(orientation.apply(PIXELS), np.asarray(ImageOps.exif_transpose(Image.open(buffer))))


def test_descriptions() -> None:
    names = [str(Orientation.from_display_matrix(pack_matrix(*matrix))) for matrix in EXIF_NUMBER]
    assert names == [
        "upright",
        "mirrored",
        "turned clockwise by 180 degrees",
        "turned clockwise by 180 degrees and mirrored",
        "turned clockwise by 90 degrees and mirrored",
        "turned clockwise by 90 degrees",
        "turned clockwise by 270 degrees and mirrored",
        "turned clockwise by 270 degrees",
    ]
    assert Orientation().apply(PIXELS) is PIXELS


def test_a_uniform_scale_does_not_matter() -> None:
    assert Orientation.from_display_matrix(pack_matrix(0, 2.5, -2.5, 0)) == Orientation(True, True, False)
    assert Orientation.from_display_matrix(pack_matrix(1, 0.001, 0, 1)) == Orientation()


@pytest.mark.parametrize(
    "data",
    [
        pack_matrix(0.7071, 0.7071, -0.7071, 0.7071),  # 45 degrees
        pack_matrix(0, 0, 0, 0),
        pack_matrix(2, 0, 0, 1),
        pack_matrix(1, 0, 0.2, 1),  # sheared
        pack_matrix(0, 1, 0, 0),
        pack_matrix(1, 0, 0, 1, u=UNIT),  # perspective
        b"short",
    ],
)
def test_any_other_matrix_is_none_of_them(data: bytes) -> None:
    assert Orientation.from_display_matrix(data) is None
