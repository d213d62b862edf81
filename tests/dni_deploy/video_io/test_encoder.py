"""Encoding: odd sizes keep every pixel, options reach the encoder by its own names, and times and tags reach the packets."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext

from dni_deploy.errors import UnavailableError, UsageError
from dni_deploy.imaging.orientation import Orientation
from dni_deploy.video_io.color import ColorSpec
from dni_deploy.video_io.encoder import Encoder, EncoderOptions, OutputFormat, choose_output_format, pad_frame
from dni_deploy.video_io.scheduling import keep_scheduling
from dni_deploy.video_io.video_file import VideoFile
from tests.dni_deploy.api.test_video import psnr
from tests.support.video_clips import Clip, make_frame, see
from tests.support.video_command import Make


def test_odd_sides_keep_every_pixel(tmp_path: Path, make: Make) -> None:
    source = Clip(width=63, height=47, codec="ffv1", pixels="yuv420p", matrix=None, audio=None).write(tmp_path / "in.mkv")
    report = make(source, tmp_path / "out.mp4")
    assert (report.width, report.height) == (64, 48)
    note = "63x47 becomes 64x48, for 4:2:0: the last column is repeated and the last row is repeated"
    assert note in report.notes
    assert psnr(see(tmp_path / "out.mp4").frames[3][:47, :63], make_frame(3, 63, 47)) > 28
    rgb = make_frame(0, 5, 3)
    assert np.array_equal(pad_frame(rgb, (4, 2))[:3, :5], rgb)
    assert np.array_equal(pad_frame(rgb, (4, 2))[3, :5], rgb[2])
    assert pad_frame(rgb, (4, 2)).shape == (4, 8, 3)
    assert pad_frame(rgb, (1, 1)) is rgb
    assert pad_frame(rgb[..., 0], (2, 2)).shape == (4, 6)


def test_one_pixel_is_encoded(tmp_path: Path, make: Make) -> None:
    source = Clip(width=1, height=1, codec="ffv1", pixels="yuv420p", matrix=None, audio=None).write(tmp_path / "in.mkv")
    make(source, tmp_path / "out.mp4")
    assert see(tmp_path / "out.mp4").frames[0].shape == (2, 2, 3)


OUTPUT_FORMAT = OutputFormat(64, 48, Fraction(1, 12800), Fraction(25), Fraction(4, 3), ColorSpec(9, True, 9, 16))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (EncoderOptions(), {"crf": "18", "preset": "veryfast"}),
        (EncoderOptions(crf=0, preset="slow"), {"crf": "0", "preset": "slow"}),
        (EncoderOptions(encoder_options={"tune": "film", "qp": "20"}), {"preset": "veryfast", "tune": "film", "qp": "20"}),
        (EncoderOptions(codec="h264", crf=20), {"crf": "20", "preset": "veryfast"}),
        (EncoderOptions(codec="libx265"), {"crf": "18", "preset": "veryfast"}),
        (EncoderOptions(codec="libsvtav1"), {}),
        (EncoderOptions(codec="libvpx-vp9", crf=30), {"crf": "30"}),
        (EncoderOptions(codec="ffv1", encoder_options={"tag": "FFV1"}), {}),
    ],
    ids=lambda value: value.codec if isinstance(value, EncoderOptions) else "",
)
def test_each_encoder_gets_its_own_option_names(options: EncoderOptions, expected: dict[str, str]) -> None:
    assert options.given_options == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"codec": "libx999"}, "There is no encoder 'libx999' here; common ones are libx264"),
        ({"codec": "aac"}, "aac encodes audio, not video"),
        ({"segment_frames": 0}, "A segment has at least 1 frame; got 0"),
        ({"codec": "ffv1", "crf": 20}, "--crf is a number that ffv1 does not have; leave it out"),
        ({"codec": "ffv1", "preset": "slow"}, "ffv1 has no presets; leave --preset out"),
        (
            {"codec": "libx264", "encoder_options": {"tuen": "film"}},
            "libx264 has no option 'tuen'; its own are .*tune.* Nothing was written",
        ),
        ({"codec": "libx264", "encoder_options": {"tag": "h"}}, "A tag has four letters, such as hvc1; got 'h'"),
        (
            {"codec": "libx264", "pixel_format": "yuv411p"},
            "libx264 does not take the pixel format yuv411p; libx264 takes yuv420p, ",
        ),
        ({"codec": "libx264", "pixel_format": "nonsense"}, "libx264 does not take the pixel format nonsense"),
        ({"codec": "h264_nvenc", "pixel_format": "cuda"}, "h264_nvenc does not take the pixel format cuda"),
    ],
)
def test_options_that_no_encoder_has_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EncoderOptions(**fields)


def test_only_encoders_that_are_there_are_named() -> None:
    with pytest.raises(UsageError) as caught:
        EncoderOptions(codec="libx999")
    named = str(caught.value).partition("common ones are ")[2].rstrip(".").split(", ")
    assert set(named) <= av.codecs_available


def source_file(pixel_format: str = "yuv420p", width: int = 64, height: int = 48, **changed: Any) -> VideoFile:
    """Returns a description of a video that is not there; it is not opened."""
    return VideoFile(
        path=Path("none.mkv"),
        stream_index=0,
        width=width,
        height=height,
        coded_size=(width, height),
        orientation=Orientation(),
        time_base=Fraction(1, 12800),
        start_pts=0,
        frame_rate=Fraction(25),
        frame_count=3,
        pixel_aspect=None,
        color=ColorSpec(1, False, 1, 1),
        copied_streams=(),
        notes=(),
        pixel_format=pixel_format,
        **changed,
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "nope"}, r"The encoder libx264 does not take preset=nope \(.*\)\. Nothing was written"),
        ({"encoder_options": {"tune": "film", "profile": "bad"}}, "The encoder libx264 does not take profile=bad "),
        ({"codec": "libx265", "crf": 60}, "The encoder libx265 does not take crf=60 "),
    ],
    ids=["preset", "option", "crf"],
)
def test_a_refused_option_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_output_format(EncoderOptions(**fields), source_file(), 1, "matroska")


def test_an_encoder_that_cannot_be_opened_names_its_pixel_formats() -> None:
    with pytest.raises(
        UnavailableError,
        match=r"rv10 could not be opened here for 70x50, 25 frames/s and the pixel format yuv420p \(.*\); try another --codec",
    ):
        choose_output_format(EncoderOptions(codec="rv10"), source_file(width=70, height=50), 1, "matroska")


@pytest.mark.parametrize(
    ("codec", "source", "expected"),
    [
        ("libx264", "yuv420p", "yuv420p"),
        ("libx264", "nv12", "yuv420p"),
        ("libx264", "yuvj420p", "yuv420p"),
        ("libx264", "gray", "yuv420p"),
        ("libx264", "yuyv422", "yuv422p"),
        ("libx264", "yuv422p10le", "yuv422p10le"),
        ("libx265", "yuv444p12le", "yuv444p12le"),
        ("libx265", "gbrp10le", "gbrp10le"),
        ("libx264", "bgr0", "yuv444p"),
        ("libx264rgb", "bgr0", "rgb24"),
        ("libsvtav1", "p010le", "yuv420p10le"),
        ("libvpx-vp9", "yuva420p", "yuva420p"),
        ("ffv1", "yuva444p10le", "yuva444p10le"),
        ("prores_ks", "yuv420p", "yuv422p10le"),
        ("prores_ks", "rgba", "yuva444p10le"),
        ("dnxhd", "yuv420p", "yuv422p"),
        ("dnxhd", "yuv420p10le", "yuv422p10le"),
        ("mjpeg", "yuv422p", "yuvj422p"),
        ("huffyuv", "rgb24", "rgb24"),
        ("qtrle", "rgba", "argb"),
        ("png", "gbrp16le", "rgb48be"),
        ("png", "gray", "gray"),
        ("gif", "yuv420p", "pal8"),
        ("pgm", "yuv420p", "gray"),
        ("rawvideo", "yuv422p10le", "yuv422p10le"),
    ],
)
def test_the_nearest_pixel_format_is_chosen(codec: str, source: str, expected: str) -> None:
    """Depth, chroma, transparency and RGB stay where the encoder has them."""
    settings = EncoderOptions(codec=codec)
    chosen = choose_output_format(settings, source_file(source, 320, 180), 1, "matroska")
    assert chosen.pixel_format == expected
    assert chosen.color.is_full_range == expected.startswith(("yuvj", "gray"))


@pytest.mark.parametrize(
    ("codec", "suffix", "pixel_format", "error"),
    [
        ("prores_ks", ".mov", "yuv422p10le", 3),
        ("prores_ks", ".mkv", "yuv422p10le", 3),
        ("dnxhd", ".mov", "yuv422p", 3),
        ("dnxhd", ".mxf", "yuv422p", 3),
        ("ffv1", ".mkv", "yuv420p", 1),
        ("mjpeg", ".avi", "yuvj420p", 4),
        ("mjpeg", ".mov", "yuvj420p", 4),
        ("huffyuv", ".avi", "yuv422p", 2),
        ("utvideo", ".avi", "yuv420p", 1),
        ("qtrle", ".mov", "rgb24", 2),
        ("png", ".mov", "rgb24", 2),
        ("libx264rgb", ".mkv", "gbrp", 4),
        ("mpeg4", ".mp4", "yuv420p", 6),
        ("libsvtav1", ".mp4", "yuv420p", 10),
        ("libvpx", ".webm", "yuv420p", 12),
    ],
)
def test_codecs_of_editors_play(tmp_path: Path, make: Make, codec: str, suffix: str, pixel_format: str, error: float) -> None:
    """Each film is read again: its format, its times, and colors to within what the codec loses."""
    source = Clip(width=256, height=128, frames=3, audio=None).write(tmp_path / "in.mp4")
    make(source, tmp_path / f"out{suffix}", codec=codec, crf=None, preset=None)
    before, after = see(source), see(tmp_path / f"out{suffix}")
    assert after.tags["pixels"] == pixel_format
    assert after.times == before.times
    for one, other in zip(before.frames, after.frames, strict=True):
        assert np.abs(one.astype(int) - other).mean() < error


PICTURE_SIZES = ((320, 240), (352, 288), (48, 48))
"""Most encoders take the first; H.261 and H.263 take CIF, xface takes its own."""

SEVERAL_FRAMES_A_PACKET = frozenset({"a64multi", "a64multi5", "libwebp_anim", "vnull"})
"""Encoders that make no packet of each frame, so that a segment cannot hold what they make."""

FAILING_ENCODERS = frozenset({"roqvideo", "vbn", "xface"})
"""Encoders that open at these sizes and then refuse the first frame, whoever calls them."""


def list_encoders() -> list[str]:
    """Lists all video encoders of this FFmpeg, by their own names."""
    names = []
    for name in sorted(av.codecs_available):
        with contextlib.suppress(ValueError):
            codec = av.Codec(name, "w")
            if codec.type == "video" and codec.name == name:
                names.append(name)
    return names


def opens_in_ffmpeg(name: str, width: int, height: int) -> bool:
    """Tells whether avcodec opens an encoder with the first format of its list and no options."""
    context: Any = av.CodecContext.create(name, "w")
    formats = [item.name for item in context.codec.video_formats or () if item.components]
    context.width, context.height, context.pix_fmt = width, height, (formats or ["yuv420p"])[0]
    context.framerate, context.time_base = 25, Fraction(1, 25)
    context.options = {"strict": "experimental"} if context.codec.experimental else {}
    try:
        with keep_scheduling():
            context.open()
    except (av.error.FFmpegError, ValueError):
        return False
    return True


@pytest.mark.parametrize("name", list_encoders())
def test_every_encoder_that_ffmpeg_opens_encodes(name: str) -> None:
    """Each gets a frame in a format of its own, and gives one packet for each with its timestamp."""
    size = next((size for size in PICTURE_SIZES if opens_in_ffmpeg(name, *size)), None)
    if size is None:
        pytest.skip("FFmpeg does not open it here: its hardware or a special size is missing")
    settings = EncoderOptions(codec=name, encoder_options={"preset": "12"} if name == "libsvtav1" else {})
    output_format = choose_output_format(settings, source_file("yuv420p", *size), 1, "matroska")
    if name in FAILING_ENCODERS:
        return
    encoder = Encoder(settings, output_format, global_header=False)
    rgb = make_frame(0, *size)
    packets = [packet for number in range(3) for packet in encoder.encode(rgb, 512 * number)]
    packets += encoder.flush()
    if name not in SEVERAL_FRAMES_A_PACKET:
        assert sorted(packet.pts for packet in packets) == [0, 512, 1024]


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
