"""Notes on the format of the output: what is lost is named, and how to get what plays everywhere."""

from __future__ import annotations

import pytest

from dni_deploy.video_io.encoder import EncoderOptions, choose_output_format
from dni_deploy.video_io.output_notes import describe_output_format
from tests.dni_deploy.video_io.test_encoder import source_file


@pytest.mark.parametrize(
    ("codec", "source", "notes"),
    [
        ("libx264", "yuv420p", []),
        ("libx264", "yuv420p10le", []),
        ("libx264", "gray", []),
        ("libx264", "bgr0", ["written as yuv444p (4:4:4, 8 bits); --pix-fmt yuv420p plays everywhere"]),
        ("prores_ks", "yuv420p", ["written as yuv422p10le (4:2:2, 10 bits)"]),
        ("gif", "yuv420p", ["written as pal8 (a palette of 256 colors)"]),
        ("libx264", "yuv444p12le", ["4:4:4, 12 bits is written as 4:4:4, 10 bits: 2 bits left out"]),
        ("libsvtav1", "yuv422p10le", ["4:2:2, 10 bits is written as 4:2:0, 10 bits: detail of color left out"]),
        (
            "mjpeg",
            "yuva420p",
            [
                "4:2:0, 8 bits, with transparency is written as 4:2:0, 8 bits: transparency left out",
                "limited range becomes full range, since the encoder takes yuvj420p",
            ],
        ),
    ],
)
def test_what_the_pixel_format_changes_is_named(codec: str, source: str, notes: list[str]) -> None:
    video_file = source_file(source, 320, 180)
    target = choose_output_format(EncoderOptions(codec=codec), video_file, 1, "matroska")
    assert list(describe_output_format(video_file, 1, target, codec)) == notes


def test_sides_that_a_format_cannot_hold_are_named() -> None:
    video_file = source_file("yuv420p", 321, 180)
    target = choose_output_format(EncoderOptions(), video_file, 1, "matroska")
    assert list(describe_output_format(video_file, 1, target, "libx264")) == [
        "321x180 becomes 322x180, for 4:2:0: the last column is repeated"
    ]
