"""Color conversion: every matrix, range, depth and chroma format is converted to RGB and back as the standards define."""

from __future__ import annotations

import io
import re
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.errors import InputError
from dni_deploy.imaging.frames import WHITE_LEVELS
from dni_deploy.imaging.rendered import RenderedFrame
from dni_deploy.video_io.color import (
    SWSCALE_COLORSPACES,
    ColorConverter,
    ColorSpec,
    choose_matrix,
    component_bits,
    view_planes,
)
from dni_deploy.video_io.reader import VideoReader
from dni_deploy.video_io.video_file import open_video_file
from dni_deploy.video_io.y4m import Y4mFormat
from tests.support.video_clips import make_frame
from tests.support.video_command import Make

LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}
"""Kr and Kb of each AVCOL_SPC_*: ITU-R BT.709, FCC 73.682, BT.601, BT.601, SMPTE 240M, BT.2020."""

MATRICES = [number for number in LUMA_WEIGHTS if SWSCALE_COLORSPACES[number] in Colorspace.__members__]
SUBSAMPLING = {"420": (2, 2), "422": (1, 2), "444": (1, 1)}
"""Rows and columns of luma that share one chroma sample."""

GRID = 9
PATCH_PX = 16
SIDE = GRID**2 // 3 * PATCH_PX
"""GRID**3 patches lie in a square of 27 x 27."""


def patch_colors() -> NDArray[np.float64]:
    """Returns RGB in 0..1, float64 (729, 3): a grid over the whole cube."""
    return np.array(list(product(np.linspace(0, 1, GRID), repeat=3)))


def rgb_to_codes(rgb: NDArray[np.float64], matrix: int, full: bool, bits: int) -> NDArray[np.float64]:
    """Computes Y, Cb and Cr, not rounded, by the equations of the standards (BT.601 2.5, BT.709 3.2, BT.2020 table 4)."""
    kr, kb = LUMA_WEIGHTS[matrix]
    red, green, blue = np.moveaxis(rgb, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    unit, top = 2 ** (bits - 8), 2**bits - 1
    scale = (top, top) if full else (219 * unit, 224 * unit)
    cb, cr = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    codes = np.stack([luma * scale[0] + (0 if full else 16 * unit), cb * scale[1] + 128 * unit, cr * scale[1] + 128 * unit], -1)
    return np.clip(codes, 0, top)


def codes_to_rgb(codes: NDArray[Any], matrix: int, full: bool, bits: int) -> NDArray[np.float64]:
    """Computes RGB in 0..255, not rounded, by the inverse of the same equations."""
    kr, kb = LUMA_WEIGHTS[matrix]
    unit, top = 2 ** (bits - 8), 2**bits - 1
    scale = (top, top) if full else (219 * unit, 224 * unit)
    luma = (codes[..., 0] - (0 if full else 16 * unit)) / scale[0]
    red = luma + (2 - 2 * kr) * (codes[..., 2] - 128 * unit) / scale[1]
    blue = luma + (2 - 2 * kb) * (codes[..., 1] - 128 * unit) / scale[1]
    return np.clip(255 * np.stack([red, (luma - kr * red - kb * blue) / (1 - kr - kb), blue], -1), 0, 255)


def make_patches(codes: NDArray[Any], pixel_format: str, subsampling: str) -> av.VideoFrame:
    """Fills a planar frame with a flat patch for each row of codes, (729, 3)."""
    frame = av.VideoFrame(SIDE, SIDE, pixel_format)
    image = codes.reshape(SIDE // PATCH_PX, -1, 3).repeat(PATCH_PX, 0).repeat(PATCH_PX, 1)
    rows, columns = SUBSAMPLING[subsampling]
    for index, plane in enumerate(view_planes(frame)):
        plane[:] = image[..., 0] if index == 0 else image[::rows, ::columns, index]
    return frame


def read_patches(frame: av.VideoFrame, subsampling: str) -> NDArray[np.float64]:
    """Returns the codes in the middle of each patch, (729, 3)."""
    rows, columns = SUBSAMPLING[subsampling]
    steps = [(PATCH_PX, PATCH_PX), *[(PATCH_PX // rows, PATCH_PX // columns)] * 2]
    planes = [
        plane[down // 2 :: down, across // 2 :: across] for plane, (down, across) in zip(view_planes(frame), steps, strict=True)
    ]
    return np.stack(planes, -1).reshape(-1, 3).astype(np.float64)


def assert_exact(actual: NDArray[Any], expected: NDArray[Any]) -> None:
    """Allows errors of 0.1 of a code on average, since rounding is to even, and 1 at most."""
    errors = actual.astype(np.float64) - expected
    assert np.abs(errors.mean(axis=0)).max() < 0.1
    assert np.abs(errors).max() <= 1


@pytest.mark.parametrize("subsampling", SUBSAMPLING)
@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_flat_patches_round_trip(matrix: int, full: bool, bits: int, subsampling: str) -> None:
    codes = np.rint(rgb_to_codes(patch_colors(), matrix, full, bits))
    converter = ColorConverter(ColorSpec(matrix, full), f"yuv{subsampling}p")
    frame = make_patches(codes, f"yuv{subsampling}p" + (f"{bits}le" if bits > 8 else ""), subsampling)
    rgb = converter.to_rgb(frame)
    middle = rgb[PATCH_PX // 2 :: PATCH_PX, PATCH_PX // 2 :: PATCH_PX].reshape(-1, 3)
    assert_exact(middle, codes_to_rgb(codes, matrix, full, bits))
    frame_back = converter.from_rgb(rgb)
    assert (frame_back.format.name, int(frame_back.colorspace), int(frame_back.color_range)) == (
        f"yuv{subsampling}p",
        matrix,
        2 if full else 1,
    )
    assert_exact(read_patches(frame_back, subsampling), rgb_to_codes(middle / 255, matrix, full, 8))
    assert_exact(
        read_patches(frame_back, subsampling), rgb_to_codes(codes_to_rgb(codes, matrix, full, bits) / 255, matrix, full, 8)
    )


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("pixel_format", ["nv12", "uyvy422", "yuv411p", "yuv440p", "p010le", "yuva420p10le", "y210le"])
def test_all_pixel_layouts_give_the_same_rgb(pixel_format: str, full: bool) -> None:
    """Packed, semi-planar and transparent layouts hold the same codes, so a flat patch has the same RGB."""
    bits = max(component.bits for component in av.VideoFormat(pixel_format).components)
    codes = np.rint(rgb_to_codes(patch_colors(), 1, full, bits))
    planar = make_patches(codes, "yuv444p" + (f"{bits}le" if bits > 8 else ""), "444")
    color_range = "JPEG" if full else "MPEG"
    frame = planar.reformat(
        format=pixel_format, src_color_range=color_range, dst_color_range=color_range, interpolation="POINT"
    )
    rgb = ColorConverter(ColorSpec(1, full)).to_rgb(frame)
    middle = rgb[PATCH_PX // 2 :: PATCH_PX, PATCH_PX // 2 :: PATCH_PX].reshape(-1, 3)
    assert_exact(middle, codes_to_rgb(codes, 1, full, bits))


@pytest.mark.parametrize("pixel_format", ["gbrp", "gbrp10le", "gbrp12le", "gbrp16le"])
def test_rgb_is_rounded_and_not_converted(pixel_format: str) -> None:
    bits = av.VideoFormat(pixel_format).components[0].bits
    frame = av.VideoFrame(256, 16, pixel_format)
    codes = np.linspace(0, 2**bits - 1, 256).round()
    for plane in view_planes(frame):
        plane[:] = codes
    rgb = ColorConverter(ColorSpec.from_frame(frame)).to_rgb(frame)
    assert_exact(rgb.reshape(-1, 256, 3).transpose(0, 2, 1).reshape(-1, 256).T, (codes * 255 / (2**bits - 1))[:, None])


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_gray_range_follows_its_tag(full: bool, bits: int) -> None:
    """swscale treats gray as full range, whatever it is set to."""
    frame = av.VideoFrame(256, 16, "gray" if bits == 8 else "gray10le")
    codes = np.linspace(0, 2**bits - 1, 256).round()
    view_planes(frame)[0][:] = codes
    frame.color_range = 2 if full else 1
    rgb = ColorConverter(ColorSpec.from_frame(frame)).to_rgb(frame)
    neutral = np.stack([codes, np.full(256, 2 ** (bits - 1)), np.full(256, 2 ** (bits - 1))], -1)
    assert_exact(rgb[3], codes_to_rgb(neutral, 6, full, bits))
    assert np.array_equal(rgb[0], rgb[15])


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (33, 1), (2, 2), (7, 5), (16, 17), (17, 16), (63, 47)])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("subsampling", SUBSAMPLING)
def test_odd_sizes_stay_flat_to_the_border(subsampling: str, full: bool, width: int, height: int) -> None:
    """A flat frame stays flat to the last column and row."""
    frame = av.VideoFrame(width, height, f"yuv{subsampling}p")
    for plane, code in zip(view_planes(frame), (120, 110, 140), strict=True):
        plane[:] = code
    converter = ColorConverter(ColorSpec(1, full), frame.format.name)
    rgb = converter.to_rgb(frame)
    assert rgb.shape == (height, width, 3)
    assert np.ptp(rgb.reshape(-1, 3), axis=0).max() == 0
    for before, after in zip(view_planes(frame), view_planes(converter.from_rgb(rgb)), strict=True):
        assert before.shape == after.shape
        assert np.abs(before.astype(int) - after).max() <= 1  # 8-bit RGB rounds the codes once, the conversion back once more


def test_a_wrong_matrix_or_range_is_detected() -> None:
    """The tests above can fail: another matrix or range moves a saturated patch by more than 10 of 255."""
    codes = np.full((GRID**3, 3), (100, 90, 190))
    rgb = ColorConverter(ColorSpec(1, False)).to_rgb(make_patches(codes, "yuv444p", "444"))[0, 0]
    assert np.abs(rgb - codes_to_rgb(codes[0], 6, False, 8)).max() > 10
    assert np.abs(rgb - codes_to_rgb(codes[0], 1, True, 8)).max() > 10


def test_a_smooth_frame_round_trips() -> None:
    """In 4:2:0 luma comes back within 1 (rounding), chroma within 2 (it is interpolated and averaged again)."""
    rows, columns = np.mgrid[0:48, 0:64]
    frame = av.VideoFrame(64, 48, "yuv420p")
    luma, *chroma = view_planes(frame)
    luma[:] = 110 + 40 * np.sin(rows / 7) * np.cos(columns / 9)
    for index, plane in enumerate(chroma):
        plane[:] = 128 + 20 * np.sin(rows[::2, ::2] / (9 + index) + index)
    converter = ColorConverter(ColorSpec(1, False))
    frame_back = converter.from_rgb(converter.to_rgb(frame))
    errors = [int(np.abs(a.astype(int) - b).max()) for a, b in zip(view_planes(frame), view_planes(frame_back), strict=True)]
    assert errors[0] <= 1
    assert max(errors[1:]) <= 2


def test_ten_passes_do_not_darken_a_photograph() -> None:
    """Luma of a photograph in 4:2:0 stays within 1: it is rounded in each pass, but never in one direction."""
    converter = ColorConverter(ColorSpec(6, False))
    first = frame = converter.from_rgb(make_frame(0, 128, 96))
    for _ in range(10):
        frame = converter.from_rgb(converter.to_rgb(frame))
    shift = view_planes(frame)[0].astype(int) - view_planes(first)[0]
    assert abs(shift.mean()) < 0.1
    assert np.abs(shift).max() <= 1


def test_frames_are_scaled_and_not_changed() -> None:
    frame = make_patches(np.rint(rgb_to_codes(patch_colors(), 1, True, 10)), "yuv420p10le", "420")
    before = [plane.copy() for plane in view_planes(frame)]
    assert ColorConverter(ColorSpec(1, True)).to_rgb(frame, (54, 27)).shape == (27, 54, 3)
    assert all(np.array_equal(plane, old) for plane, old in zip(view_planes(frame), before, strict=True))


def test_untagged_video_gets_a_matrix_by_its_height() -> None:
    for height, matrix in ((48, 6), (576, 6), (719, 6), (720, 1), (2160, 1)):
        color = ColorSpec.from_frame(av.VideoFrame(64, height, "yuv420p"))
        assert (color.matrix, color.is_full_range, color.is_guessed) == (matrix, False, True)
        assert choose_matrix(height) == matrix
    assert ColorSpec.from_frame(av.VideoFrame(64, 48, "yuvj420p")).is_full_range
    assert not ColorSpec.from_frame(av.VideoFrame(64, 48, "rgb24")).is_guessed
    assert str(ColorSpec(9, True)) == "BT.2020, full range"


def test_a_matrix_that_swscale_does_not_know_is_refused() -> None:
    frame = av.VideoFrame(64, 48, "yuv420p")
    frame.colorspace = 8  # YCgCo
    with pytest.raises(InputError, match="matrix is number 8 of AVCOL_SPC"):
        ColorSpec.from_frame(frame)


def test_color_is_converted_in_one_module() -> None:
    """A second converter could show the network different frames."""
    root = Path(__file__).parents[3]
    files = [path for package in ("dni_deploy", "engines", "exporters") for path in (root / package).rglob("*.py")]
    converting = {
        path.name for path in files if re.search(r"VideoReformatter|\.reformat\(|to_ndarray\(", path.read_text("utf-8"))
    }
    assert converting == {"color.py"}


def write_ffv1(path: Path, frame: av.VideoFrame) -> Path:
    """Writes three equal frames losslessly, with the tags of the first."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        stream.codec_context.colorspace, stream.codec_context.color_range = int(frame.colorspace), int(frame.color_range)
        for pts in range(3):
            frame.pts = pts
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def check_identity(folder: Path, make: Make, frame: av.VideoFrame, subsampling: str, **options: Any) -> None:
    """Runs an identity network over a file with that frame: the same format, tags and codes come out."""
    source = write_ffv1(folder / "in.mkv", frame)
    make(source, folder / "out.mkv", force=True, **{"crf": None, "preset": None, **options})
    with av.open(str(folder / "out.mkv")) as container:
        decoded = next(container.decode(video=0))
    tags = (frame.format.name, int(frame.colorspace), int(frame.color_range))
    assert (decoded.format.name.replace("yuvj", "yuv"), int(decoded.colorspace), int(decoded.color_range)) == tags
    assert_exact(read_patches(decoded, subsampling), read_patches(frame, subsampling))


def make_tagged_patches(matrix: int, full: bool, bits: int, subsampling: str) -> av.VideoFrame:
    codes = np.rint(rgb_to_codes(patch_colors(), matrix, full, bits))
    frame = make_patches(codes, f"yuv{subsampling}p" + (f"{bits}le" if bits > 8 else ""), subsampling)
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


@pytest.mark.parametrize(
    ("matrix", "full", "bits", "subsampling"),
    [(1, False, 8, "420"), (6, True, 8, "422"), (1, True, 10, "420"), (6, False, 12, "444"), (7, True, 12, "444")],
)
def test_an_identity_network_does_not_change_a_video(
    tmp_path: Path, make: Make, matrix: int, full: bool, bits: int, subsampling: str
) -> None:
    """Uses real files, since decoders deliver other layouts and tags than a frame made by hand."""
    check_identity(tmp_path, make, make_tagged_patches(matrix, full, bits, subsampling), subsampling, codec="ffv1")


LOSSLESS = {
    "ffv1": {},
    "libx264": {"preset": "ultrafast", "encoder_options": {"qp": "0"}},  # crf 0 is not lossless with 10 bits
    "libx265": {"preset": "ultrafast", "encoder_options": {"x265-params": "lossless=1"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("codec", LOSSLESS)
@pytest.mark.parametrize("subsampling", SUBSAMPLING)
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_an_identity_network_is_invisible(tmp_path: Path, make: Make, bits: int, subsampling: str, codec: str) -> None:
    """Every matrix and range through real encoders; x264 has no 12 bits."""
    if codec == "libx264" and bits == 12:
        pytest.skip("x264 encodes at most 10 bits")
    for matrix, full in product(MATRICES, (False, True)):
        frame = make_tagged_patches(matrix, full, bits, subsampling)
        check_identity(tmp_path, make, frame, subsampling, codec=codec, **LOSSLESS[codec])


@pytest.mark.parametrize("subsampling", SUBSAMPLING)
@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES[:1] + MATRICES[-1:])
def test_deep_patches_round_trip(matrix: int, full: bool, bits: int, subsampling: str) -> None:
    """More than 8 bits go through RGB of 16 bits: exact RGB, and the same codes back."""
    frame = make_tagged_patches(matrix, full, bits, subsampling)
    converter = ColorConverter(ColorSpec(matrix, full), frame.format.name)
    rgb = converter.to_deepest_rgb(frame)
    assert rgb.dtype == np.uint16
    codes = read_patches(frame, subsampling)
    middle = rgb[PATCH_PX // 2 :: PATCH_PX, PATCH_PX // 2 :: PATCH_PX].reshape(-1, 3)
    assert_exact(middle, codes_to_rgb(codes, matrix, full, bits) * 257)
    assert_exact(read_patches(converter.from_rgb(rgb), subsampling), codes)


DEEP_TARGETS = ["yuv420p", "yuvj420p", "nv12", "yuyv422", "yuv411p", "yuv420p10le", "p010le", "yuv444p10be", "yuva444p12le"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("pixel_format", DEEP_TARGETS)
def test_every_yuv_format_shows_the_same_colors(pixel_format: str, dtype: type[np.generic]) -> None:
    """A flat frame in each format has its color again, to within the coarser of both depths."""
    white = np.iinfo(dtype).max
    rgb = np.empty((16, 32, 3), dtype)
    rgb[:] = np.rint(np.array([0.8, 0.4, 0.2]) * white)
    color = ColorSpec(1, pixel_format.startswith("yuvj"))
    frame = ColorConverter(color, pixel_format).from_rgb(rgb)
    assert frame.format.name == pixel_format
    back = ColorConverter(color).to_deepest_rgb(frame)
    assert np.abs(back[8, 8] / WHITE_LEVELS[back.dtype] - rgb[8, 8] / white).max() < 1.6 / 255
    # swscale dithers chroma of 4:1:1.
    assert np.ptp(back.reshape(-1, 3).astype(int), axis=0).max() <= (4 if pixel_format == "yuv411p" else 0)


RGB_TARGETS = [
    "rgb24",
    "bgr24",
    "bgra",
    "argb",
    "bgr0",
    "gbrp",
    "gbrap",
    "gbrp10le",
    "gbrap12le",
    "rgb48le",
    "rgb48be",
    "rgba64be",
]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("pixel_format", [*RGB_TARGETS, "gbrpf32le"])
def test_rgb_formats_keep_every_level(pixel_format: str, dtype: type[np.generic]) -> None:
    white = np.iinfo(dtype).max
    levels = np.rint(np.linspace(0, 1, 256) * white).astype(dtype)
    rgb = np.stack([np.tile(levels, (4, 1)), np.tile(levels[::-1], (4, 1)), np.tile(np.roll(levels, 7), (4, 1))], axis=2)
    frame = ColorConverter(ColorSpec(1, False), pixel_format).from_rgb(rgb)
    assert (frame.format.name, int(frame.colorspace), int(frame.color_range)) == (pixel_format, 0, 2)
    back = ColorConverter(ColorSpec(1, False)).to_deepest_rgb(frame)
    bits = min(8 * np.dtype(dtype).itemsize, component_bits(frame.format))
    assert np.abs(back / WHITE_LEVELS[back.dtype] - rgb / white).max() <= 0.51 / (2**bits - 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    "pixel_format", ["yuva420p", "yuva444p10le", "bgra", "argb", "gbrap", "gbrap12le", "rgba64be", "ya8", "ya16be"]
)
def test_transparency_is_kept(pixel_format: str, dtype: type[np.generic]) -> None:
    levels = np.tile(np.rint(np.linspace(0, 1, 256) * np.iinfo(dtype).max).astype(dtype), (4, 1))
    rgb = np.full((4, 256, 3), np.iinfo(dtype).max // 2, dtype)
    converter = ColorConverter(ColorSpec(1, False), pixel_format)
    frame = converter.from_rgb(rgb, levels)
    back = converter.read_transparency(frame)
    assert back is not None
    bits = min(8 * np.dtype(dtype).itemsize, component_bits(frame.format))
    assert np.abs(back / np.iinfo(back.dtype).max - levels / np.iinfo(dtype).max).max() <= 0.51 / (2**bits - 1)
    opaque = converter.read_transparency(converter.from_rgb(rgb))
    assert opaque is not None
    assert opaque.min() == np.iinfo(opaque.dtype).max
    assert converter.read_transparency(av.VideoFrame(4, 4, "yuv420p")) is None


def test_a_palette_has_the_colors_of_its_frame() -> None:
    """Sixteen colors need no dithering, and what is more than half transparent is so in a palette."""
    colors = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    levels = np.full((32, 32), 255, np.uint8)
    levels[:8] = 100
    converter = ColorConverter(ColorSpec(1, False), "pal8")
    frame = converter.from_rgb(colors, levels)
    back = converter.read_transparency(frame)
    assert back is not None
    assert np.array_equal(back, np.where(levels < 128, 0, 255))
    assert np.abs(converter.to_rgb(frame)[8:].astype(int) - colors[8:]).max() <= 4


def open_pipe(frame: av.VideoFrame, full: bool) -> Y4mFormat:
    """Opens one frame of 4:2:0 as a y4m stream."""
    header = f"YUV4MPEG2 W{frame.width} H{frame.height} F25:1 Ip C420jpeg{' XCOLORRANGE=FULL' if full else ''}\nFRAME\n"
    stream = io.BytesIO(header.encode() + b"".join(plane.tobytes() for plane in view_planes(frame)))
    return Y4mFormat(stream, 1, matrix="601", stamp=False)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (63, 47), (1280, 16)])
def test_a_file_and_a_pipe_have_the_same_rgb(tmp_path: Path, full: bool, width: int, height: int) -> None:
    """The networks of `video` and of `filter` see the same bytes, although decoders align rows differently."""
    frame = ColorConverter(ColorSpec(6, full)).from_rgb(make_frame(0, width, height))
    source = write_ffv1(tmp_path / "in.mkv", frame)
    (raw_frame,) = open_pipe(frame, full).read()
    assert np.array_equal(next(iter(VideoReader(open_video_file(source)))).rgb, raw_frame.rgb)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
def test_a_file_and_a_pipe_have_the_same_output(tmp_path: Path, make: Make, full: bool) -> None:
    """An identity network gives the same codes in `video` and in `filter`; luma is that of the input, to within rounding."""
    frame = ColorConverter(ColorSpec(6, full)).from_rgb(make_frame(0))
    make(write_ffv1(tmp_path / "in.mkv", frame), tmp_path / "out.mkv", codec="ffv1", crf=None, preset=None)
    with av.open(str(tmp_path / "out.mkv")) as container:
        from_file = view_planes(next(container.decode(video=0)))
    pipe = open_pipe(frame, full)
    (raw_frame,) = pipe.read()
    rendered = RenderedFrame(raw_frame.rgb, 0, Coefficients(("a",), (1.0,)))
    data = pipe.encode_frame(raw_frame, rendered)[len(b"FRAME\n") :]
    assert data.tobytes() == b"".join(plane.tobytes() for plane in from_file)
    shift = from_file[0].astype(int) - view_planes(frame)[0]
    assert abs(shift.mean()) < 0.1
    assert np.abs(shift).max() <= 1
