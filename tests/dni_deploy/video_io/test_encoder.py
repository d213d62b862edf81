"""Encoding: odd sizes keep every pixel, options reach the encoder by its own names, and times and tags reach the packets."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext

from dni_deploy.errors import UnavailableError, UsageError
from dni_deploy.video_io.color import ColorSpec
from dni_deploy.video_io.encoder import Encoder, EncoderOptions, OutputFormat, pad_size_to_even, pad_to_even
from tests.dni_deploy.api.test_video import psnr
from tests.support.video_clips import Clip, make_frame, see
from tests.support.video_command import Make


def test_odd_sides_keep_every_pixel(tmp_path: Path, make: Make) -> None:
    source = Clip(width=63, height=47, codec="ffv1", pixels="bgr0", matrix=None, audio=None).write(tmp_path / "in.mkv")
    report = make(source, tmp_path / "out.mp4")
    assert (report.width, report.height) == (64, 48)
    assert any("63x47 is odd: the last column and the last row are repeated" in note for note in report.notes)
    assert psnr(see(tmp_path / "out.mp4").frames[3][:47, :63], make_frame(3, 63, 47)) > 28
    rgb = make_frame(0, 5, 3)
    assert np.array_equal(pad_to_even(rgb)[:3, :5], rgb)
    assert np.array_equal(pad_to_even(rgb)[3, :5], rgb[2])
    assert pad_size_to_even(1, 1) == (2, 2)


def test_one_pixel_is_encoded(tmp_path: Path, make: Make) -> None:
    source = Clip(width=1, height=1, codec="ffv1", pixels="bgr0", matrix=None, audio=None).write(tmp_path / "in.mkv")
    make(source, tmp_path / "out.mp4")
    assert see(tmp_path / "out.mp4").frames[0].shape == (2, 2, 3)


OUTPUT_FORMAT = OutputFormat(64, 48, Fraction(1, 12800), Fraction(25), Fraction(4, 3), ColorSpec(9, True, 9, 16))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (EncoderOptions(), {"crf": "18", "preset": "veryfast"}),
        (EncoderOptions(crf=0, preset="slow"), {"crf": "0", "preset": "slow"}),
        (EncoderOptions(codec="libx265"), {"crf": "18", "preset": "veryfast", "x265-params": "log-level=none"}),
        (EncoderOptions(codec="libsvtav1"), {}),
        (EncoderOptions(codec="libvpx-vp9", crf=30), {"crf": "30"}),
        (EncoderOptions(codec="ffv1"), {}),
    ],
    ids=lambda value: value.codec if isinstance(value, EncoderOptions) else "",
)
def test_each_encoder_gets_its_own_option_names(options: EncoderOptions, expected: dict[str, str]) -> None:
    assert options.options == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"codec": "libx999"}, "There is no encoder 'libx999' here; common ones are libx264"),
        ({"codec": "aac"}, "aac encodes audio, not video"),
        ({"segment_frames": 0}, "A segment has at least 1 frame; got 0"),
    ],
)
def test_options_that_no_encoder_has_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EncoderOptions(**fields)


def test_crf_is_refused_for_an_encoder_without_it() -> None:
    with pytest.raises(UsageError, match=r"--crf is for libx264.*; ffv1 has no such number, leave it out"):
        EncoderOptions(codec="ffv1", crf=20).options  # noqa: B018


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (EncoderOptions(preset="nope"), UsageError, "The encoder libx264 does not take crf 18, preset nope"),
        (
            EncoderOptions(codec="prores_ks"),
            UnavailableError,
            "prores_ks could not be opened here for 64x48 .*; try another --codec",
        ),
    ],
    ids=["options", "pixel format"],
)
def test_an_encoder_that_cannot_be_opened_is_explained(options: EncoderOptions, kind: type[Exception], message: str) -> None:
    """The error says which of the two is at fault: the options or the encoder itself."""
    with pytest.raises(kind, match=message):
        Encoder(options, OUTPUT_FORMAT, global_header=True)


def test_packets_keep_times_and_tags() -> None:
    """The tags are in the stream, so that a bare decoder sees them; a timestamp is not rounded to the frame rate."""
    encoder = Encoder(EncoderOptions(preset="ultrafast"), OUTPUT_FORMAT, global_header=False)
    times = [0, 511, 1024, 5000]
    packets = [packet for pts in times for packet in encoder.encode(make_frame(0), pts)]
    packets += encoder.flush()
    assert sorted(packet.pts for packet in packets) == times
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    frame = next(frame for packet in [*packets, None] for frame in decoder.decode(packet))
    assert (int(frame.colorspace), int(frame.color_range)) == (9, 2)
    assert (int(frame.color_primaries), int(frame.color_trc)) == (9, 16)
    assert decoder.sample_aspect_ratio == Fraction(4, 3)
