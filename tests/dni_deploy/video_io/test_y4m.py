"""y4m: valid and invalid headers, complete frames, and frames truncated anywhere."""

from __future__ import annotations

import io
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import DniError, InputError, LimitError, PartialResultError, UsageError
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.video_io.color import ColorSpec, view_planes
from dni_deploy.video_io.y4m import (
    PIXEL_FORMATS,
    Y4mFormat,
    Y4mHeader,
    choose_color,
    format_frame_line,
    read_header,
    read_y4m_frames,
)

PLAIN = b"YUV4MPEG2 W6 H4 F30000:1001 Ip A1:1 C420jpeg XYSCSS=420JPEG XCOLORRANGE=FULL\n"


def header(line: bytes) -> Y4mHeader:
    return read_header(io.BytesIO(line))


def test_valid_headers_are_parsed() -> None:
    read = header(PLAIN)
    assert (read.width, read.height, read.chroma, read.full_range) == (6, 4, "420jpeg", True)
    assert read.rate == Fraction(30000, 1001)
    assert read.frame_bytes == 6 * 4 * 3 // 2
    assert read.to_bytes() == PLAIN
    assert not read.is_interlaced


def test_a_scale_changes_width_and_height_alone() -> None:
    assert header(PLAIN).scale_by(4).to_bytes() == PLAIN.replace(b"W6 H4", b"W24 H16")
    with pytest.raises(LimitError, match="20000x20000"):
        header(b"YUV4MPEG2 W5000 H5000 F25:1\n").scale_by(4)


def test_chroma_defaults_to_420() -> None:
    read = header(b"YUV4MPEG2 W5 H3 F25:1\n")
    assert read.plane_sizes == ((3, 5), (2, 3), (2, 3))
    assert not read.full_range


def test_bytes_after_the_header_are_not_consumed() -> None:
    stream = io.BytesIO(PLAIN + b"FRAME\n")
    read_header(stream)
    assert stream.read() == b"FRAME\n"


@pytest.mark.parametrize("chroma", PIXEL_FORMATS)
def test_plane_sizes_of_odd_frames(chroma: str) -> None:
    expected = {"420": [(3, 4)] * 2, "422": [(5, 4)] * 2, "444": [(5, 7)] * 2, "mon": []}[chroma[:3]]
    assert header(f"YUV4MPEG2 W7 H5 F25:1 C{chroma}\n".encode()).plane_sizes == ((5, 7), *expected)


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        (b"", InputError, "ended before a video began"),
        (b"RIFF\x00\x00\x00\x00WEBP", InputError, r"does not begin with YUV4MPEG2, but with 'RIFF\\x00\\x00"),
        (b"YUV4MPEG2\n", InputError, "does not begin with"),
        (b"YUV4MPEG2 W6 H4 F25:1", InputError, "does not end within 21 bytes"),
        (b"YUV4MPEG2 W6 H4 F25:1" + b" Xjunk" * 10_000, InputError, "does not end within 1024 bytes"),
        (b"YUV4MPEG2 H4 F25:1\n", InputError, "has no W"),
        (b"YUV4MPEG2 W0 H4 F25:1\n", InputError, "says W0"),
        (b"YUV4MPEG2 W6 H-4 F25:1\n", InputError, "says H-4"),
        (b"YUV4MPEG2 W6 H4.5 F25:1\n", InputError, "says H4.5"),
        (b"YUV4MPEG2 W\xd9\xa6 H4 F25:1\n", InputError, "must be a whole number"),
        (b"YUV4MPEG2 W6 W6 H4 F25:1\n", InputError, "gives 'W' twice"),
        (b"YUV4MPEG2 W999999999 H999999999 F25:1\n", LimitError, "999999999x999999999"),
        (b"YUV4MPEG2 W1000000000 H1 F25:1\n", InputError, "says W1000000000"),
        (b"YUV4MPEG2 W6 H4 F25\n", InputError, "frame rate F25"),
        (b"YUV4MPEG2 W6 H4 F25:0\n", InputError, "frame rate F25:0"),
        (b"YUV4MPEG2 W6 H4 F-1:1\n", InputError, "frame rate F-1:1"),
        (b"YUV4MPEG2 W6 H4 F25:1 C444alpha\n", UsageError, "does not read"),
        (b"YUV4MPEG2 W6 H4 F25:1 C411\n", UsageError, "does not read"),
        (b"YUV4MPEG2 W6 H4 F25:1 C\x1b[2J\n", UsageError, "does not read"),
    ],
)
def test_invalid_headers_are_refused(line: bytes, kind: type[DniError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        header(line)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_the_size_in_a_header_is_not_allocated_early() -> None:
    tracemalloc.start()
    for line in (b"YUV4MPEG2 W999999999 H999999999 F25:1\n", b"YUV4MPEG2 W10000 H10000 F25:1\n"):
        with pytest.raises(LimitError) if b"99" in line else pytest.raises(InputError):
            read = header(line)
            next(read_y4m_frames(io.BytesIO(b"FRAMING"), read))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("color_range", [b"", b" XCOLORRANGE=FULL"])
@pytest.mark.parametrize("chroma", PIXEL_FORMATS)
def test_an_identity_keeps_every_sample_of_every_depth(chroma: str, color_range: bytes) -> None:
    """A ramp of luma from black to white, with colors that the frame can have, through RGB and back."""
    line = f"YUV4MPEG2 W64 H4 F25:1 C{chroma}".encode() + color_range + b"\n"
    bits = header(line).bits
    unit = (1 << bits) // 256
    black, white = (0, (1 << bits) - 1) if color_range else (16 * unit, 235 * unit)
    sizes = header(line).plane_sizes
    planes = [np.tile(np.linspace(black, white, 64).astype(header(line).dtype), (4, 1))]
    planes += [
        np.full(size, 128 * unit + offset * unit // 4, header(line).dtype)
        for size, offset in zip(sizes[1:], (3, -2), strict=False)
    ]
    data = line + b"FRAME\n" + b"".join(plane.tobytes() for plane in planes)
    raw_format = Y4mFormat(io.BytesIO(data), 1, stamp=False)
    (frame,) = raw_format.read()
    assert frame.rgb.dtype == (np.uint8 if bits == 8 else np.uint16)
    result = raw_format.encode_frame(frame, RenderedFrame(frame.rgb, 1, Coefficients.one_hot("a", ("a", "b"))))
    assert raw_format.encode_header() == line
    (again,) = read_y4m_frames(io.BytesIO(result.tobytes()), header(line))
    inside = slice(4, 60)  # at the ends, colors leave the gamut of RGB
    for read, written in zip(planes, again.planes, strict=True):
        columns = inside if read.shape[1] == 64 else slice(2, 30)
        difference = written.astype(int)[:, columns] - read.astype(int)[:, columns]
        assert np.abs(difference).max() <= 1
        assert abs(difference.mean()) <= (0.3 if bits == 8 else 0.1)  # 8-bit RGB has fewer colors than its codes


def test_samples_beyond_the_depth_are_taken_as_white() -> None:
    data = b"YUV4MPEG2 W2 H2 F25:1 Cmono10\nFRAME\n" + b"\xff\xff" * 4
    (frame,) = Y4mFormat(io.BytesIO(data), 1).read()
    assert frame.rgb.min() == 65535


@pytest.mark.parametrize("rate", [b"", b" F0:0"])
def test_an_unknown_rate_is_accepted(rate: bytes) -> None:
    read = header(b"YUV4MPEG2 W6 H4" + rate + b" C444\n")
    assert read.rate is None
    assert read.with_rate(Fraction(24)).to_bytes() == b"YUV4MPEG2 W6 H4 C444 F24:1\n"


def stream(count: int = 3, parameters: bytes = b"") -> tuple[bytes, list[np.ndarray]]:
    frames = [np.random.default_rng(number).integers(0, 256, 36, np.uint8) for number in range(count)]
    return b"".join(b"FRAME" + parameters + b"\n" + frame.tobytes() for frame in frames), frames


def test_frames_are_read_in_order() -> None:
    data, frames = stream()
    read = list(read_y4m_frames(io.BytesIO(data), header(PLAIN)))
    assert [[plane.shape for plane in frame.planes] for frame in read] == [[(4, 6), (2, 3), (2, 3)]] * 3
    for frame, expected in zip(read, frames, strict=True):
        assert np.concatenate([plane.ravel() for plane in frame.planes]).tobytes() == expected.tobytes()


def test_frame_parameters_are_kept() -> None:
    data, _ = stream(2, b" Ip Xcomment")
    assert [frame.parameters for frame in read_y4m_frames(io.BytesIO(data), header(PLAIN))] == [(b"Ip", b"Xcomment")] * 2


@pytest.mark.parametrize("keep", range(43, 126))
def test_a_stream_truncated_anywhere_keeps_complete_frames(keep: int) -> None:
    """Three frames of 6 + 36 bytes, truncated after the first: complete frames are returned, and a partial one is reported."""
    data, _ = stream()
    frames = read_y4m_frames(io.BytesIO(data[:keep]), header(PLAIN))
    assert len([next(frames) for _ in range(keep // 42)]) == keep // 42
    if keep % 42 == 0:
        assert next(frames, None) is None
    else:
        with pytest.raises(PartialResultError, match=f"After frame {keep // 42}, "):
            next(frames)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"FRAM", "ends in a frame's line"),
        (b"FRAME\n" + bytes(35), "ends 35 bytes into a frame of 36"),
        (b"FRAMES\n" + bytes(36), "stands where FRAME was expected"),
        (b"frame\n" + bytes(36), "stands where FRAME was expected"),
        (b"\x00" * 100, "stands where FRAME was expected"),
        (b"FRAME " + b"X" * 5000, "has no end"),
        (b"FRAME X", "ends in a frame's line"),
    ],
)
def test_a_stream_without_a_complete_frame_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(read_y4m_frames(io.BytesIO(data), header(PLAIN)))


def test_junk_between_frames_is_an_error() -> None:
    data, _ = stream(2)
    with pytest.raises(PartialResultError, match="After frame 2, '123456' stands where FRAME was expected"):
        list(read_y4m_frames(io.BytesIO(data + b"1234567"), header(PLAIN)))


def test_the_frame_line_has_parameters_and_a_stamp_that_fits() -> None:
    assert format_frame_line(()) == b"FRAME\n"
    assert format_frame_line((b"Ip",), "3:0.25,0.75") == b"FRAME Ip XDNI=3:0.25,0.75\n"
    long = format_frame_line((b"X" + b"c" * 60,), "3:" + ",".join(["0.125"] * 8))
    assert long == b"FRAME X" + b"c" * 60 + b"\n"  # no space: the parameters are kept, and only the side file has the stamp
    assert len(format_frame_line((), "1" * 68)) == 80
    assert format_frame_line((), "1" * 69) == b"FRAME\n"


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", ["601", "709"])
@pytest.mark.parametrize("chroma", PIXEL_FORMATS)
def test_frames_of_every_chroma_round_trip(chroma: str, matrix: str, full: bool) -> None:
    """Flat patches through an identity network: each code is kept to within the rounding of RGB. Mono has no chroma plane."""
    tokens = f"W33 H17 F25:1 C{chroma}" + (" XCOLORRANGE=FULL" if full else "")
    read = header(f"YUV4MPEG2 {tokens}\n".encode())
    sizes, unit = read.plane_sizes, 1 << (read.bits - 8)
    for y, u, v in ((70, 120, 140), (180, 105, 150), (125, 128, 128)):
        codes = (y, 128, 128) if chroma.startswith("mono") else (y, u, v)
        data = b"".join(np.full(size, code * unit, read.dtype).tobytes() for size, code in zip(sizes, codes, strict=False))
        video = Y4mFormat(io.BytesIO(f"YUV4MPEG2 {tokens}\nFRAME\n".encode() + data), 1, matrix=matrix, stamp=False)
        (frame,) = video.read()
        encoded = video.encode_frame(frame, RenderedFrame(frame.rgb, 0, Coefficients(("a",), (1.0,))))[len(b"FRAME\n") :]
        assert encoded.size == len(data)
        assert np.abs(encoded.view(read.dtype).astype(int) - np.frombuffer(data, read.dtype)).max() <= 1
        if chroma.startswith("mono"):
            assert np.ptp(frame.rgb[0, 0]) == 0


@pytest.mark.parametrize("height", [240, 719, 720, 1080])
def test_the_matrix_follows_the_option_or_the_height(height: int) -> None:
    assert choose_color("auto", height, False) == ColorSpec(1 if height >= 720 else 6, False, is_guessed=True)
    assert choose_color("601", height, True) == ColorSpec(6, True)
    assert choose_color("709", height, True) == ColorSpec(1, True)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "yuv444p12le", "yuv420p16le", "gray10le", "gray16le"])
def test_streams_of_ffmpeg_are_read_as_they_were_written(pixel_format: str) -> None:
    stream = io.BytesIO()
    bits = 8 if pixel_format == "yuv420p" else int(pixel_format.rstrip("le").split("p")[-1].removeprefix("gray"))
    with av.open(stream, "w", format="yuv4mpegpipe", options={"strict": "-1"}) as container:
        video = container.add_stream("wrapped_avframe" if bits == 8 else "rawvideo", rate=25)
        video.width, video.height, video.pix_fmt = 8, 4, pixel_format
        video.options = {"strict": "-1"}
        frame = av.VideoFrame(8, 4, pixel_format)
        for index, plane in enumerate(view_planes(frame)):
            plane[:] = (100 + index) << (bits - 8)
        frame.pts = 0
        container.mux(video.encode(frame))
        container.mux(video.encode())
    stream.seek(0)
    read = read_header(stream)
    assert (read.bits, PIXEL_FORMATS[read.chroma]) == (bits, pixel_format)
    (only,) = read_y4m_frames(stream, read)
    assert [np.unique(plane).tolist() for plane in only.planes] == [
        [(100 + index) << (bits - 8)] for index in range(len(only.planes))
    ]
