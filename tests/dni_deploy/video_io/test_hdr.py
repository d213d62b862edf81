"""HDR: depth, tags and the metadata of display and brightness arrive in the stream and in the container."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from dni_deploy.api.video import LOST_HDR_NOTE
from dni_deploy.video_io.color import view_planes
from dni_deploy.video_io.hdr import HdrMetadata, MasteringDisplay
from dni_deploy.video_io.matroska import CODEC_IDS, open_hdr_template
from tests.support.video_clips import RATE
from tests.support.video_command import Make

DISPLAY_P3 = MasteringDisplay(
    ((Fraction(17, 25), Fraction(8, 25)), (Fraction(53, 200), Fraction(69, 100)), (Fraction(3, 20), Fraction(3, 50))),
    (Fraction(3127, 10000), Fraction(329, 1000)),
    Fraction(1, 200),
    Fraction(1000),
)
HDR10 = HdrMetadata(DISPLAY_P3, (1000, 400))


def write_hdr(path: Path, *, transfer: int = 16, hdr: HdrMetadata | None = HDR10) -> Path:
    """Writes three frames of BT.2020 in 10 bits by x265, losslessly, with metadata in the stream alone."""
    parameters = hdr.encoder_options("libx265")["x265-params"] + ":" if hdr is not None else ""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(
            "libx265", rate=RATE, options={"x265-params": f"{parameters}lossless=1:log-level=none", "preset": "ultrafast"}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = 9, 1, 9, transfer
        for pts in range(3):
            frame = VideoFrame(64, 48, "yuv420p10le")
            for plane, code in zip(view_planes(frame), (300 + 50 * pts, 500, 530), strict=True):
                plane[:] = code
            frame.pts = pts
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def read_first(path: Path) -> VideoFrame:
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


CONTAINER_MARKS = {".mp4": (b"mdcv", b"clli"), ".mov": (b"mdcv", b"clli"), ".mkv": (b"\x55\xd0", b"\x55\xbc")}
"""How metadata begins in each container: boxes, and MasteringMetadata and MaxCLL of Matroska."""


@pytest.mark.parametrize("suffix", CONTAINER_MARKS)
@pytest.mark.parametrize("codec", ["libx265", "ffv1"])
def test_hdr10_is_kept(tmp_path: Path, make: Make, codec: str, suffix: str) -> None:
    if (codec, suffix) in {("ffv1", ".mp4"), ("ffv1", ".mov")}:
        pytest.skip("no FFV1 in MP4")
    source = write_hdr(tmp_path / "in.mkv")
    options: dict[str, Any] = {"preset": None, "crf": None}
    if codec == "libx265":
        options = {"encoder_options": {"x265-params": "lossless=1"}}
    report = make(source, tmp_path / f"out{suffix}", codec=codec, **options)
    before, after = read_first(source), read_first(tmp_path / f"out{suffix}")
    assert after.format.name == "yuv420p10le"
    assert HdrMetadata.from_frame(after) == HdrMetadata.from_frame(before) == HDR10
    assert (int(after.color_trc), int(after.color_primaries), int(after.colorspace)) == (16, 9, 9)
    assert all(mark in (tmp_path / f"out{suffix}").read_bytes() for mark in CONTAINER_MARKS[suffix])
    for one, other in zip(view_planes(before), view_planes(after), strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    assert "PQ (HDR): the network gets the codes as they are, as if they were SDR" in report.notes


def test_av1_carries_hdr10(tmp_path: Path, make: Make) -> None:
    make(
        write_hdr(tmp_path / "in.mkv"),
        tmp_path / "out.mp4",
        codec="libsvtav1",
        crf=None,
        preset=None,
        encoder_options={"preset": "12"},
    )
    after = read_first(tmp_path / "out.mp4")
    assert after.format.name == "yuv420p10le"
    found = HdrMetadata.from_frame(after)
    assert found is not None
    assert found.light_level == (1000, 400)
    assert found.mastering is not None
    assert found.mastering.max_luminance == 1000
    assert abs(found.mastering.primaries[0][0] - Fraction(17, 25)) < Fraction(1, 10_000)


def test_hdr_that_becomes_8_bits_is_told(tmp_path: Path, make: Make) -> None:
    report = make(write_hdr(tmp_path / "in.mkv"), tmp_path / "out.mp4", pixel_format="yuv420p")
    assert "PQ in 8 bits shows bands; --codec libx265 keeps 10" in report.notes
    assert "4:2:0, 10 bits is written as 4:2:0, 8 bits: 2 bits left out" in report.notes


def test_hlg_is_kept(tmp_path: Path, make: Make) -> None:
    report = make(write_hdr(tmp_path / "in.mkv", transfer=18, hdr=None), tmp_path / "out.mp4", codec="libx265")
    after = read_first(tmp_path / "out.mp4")
    assert (int(after.color_trc), after.format.name, HdrMetadata.from_frame(after)) == (18, "yuv420p10le", None)
    assert any(note.startswith("HLG (HDR)") for note in report.notes)


@pytest.mark.parametrize("codec", CODEC_IDS)
def test_a_template_has_the_metadata_of_each_codec(codec: str) -> None:
    with open_hdr_template(codec, 64, 48, HDR10) as template:
        assert template is not None
        assert template.codec_context.codec.canonical_name == codec
    with open_hdr_template("mjpeg", 64, 48, HDR10) as template:
        assert template is None


def test_hdr_metadata_that_is_lost_is_told(tmp_path: Path, make: Make) -> None:
    """A transport stream has no place for it, and x264 has no option for it."""
    report = make(write_hdr(tmp_path / "in.mkv"), tmp_path / "out.ts")
    assert LOST_HDR_NOTE in report.notes
    assert LOST_HDR_NOTE not in make(tmp_path / "in.mkv", tmp_path / "out.mp4").notes
    assert LOST_HDR_NOTE not in make(tmp_path / "in.mkv", tmp_path / "kept.ts", codec="libx265").notes
