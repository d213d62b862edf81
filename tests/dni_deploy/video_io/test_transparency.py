"""Transparency of films: kept where both codecs have it, by the rules for images, and a note where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from dni_deploy.errors import UsageError
from dni_deploy.imaging.transparency import resize_transparency
from dni_deploy.video_io.color import ColorConverter, ColorSpec
from dni_deploy.video_io.matroska import make_packet_with_transparency
from dni_deploy.video_io.reader import VideoReader
from dni_deploy.video_io.video_file import open_video_file
from tests.support.frame_session import Dimmer
from tests.support.video_clips import RATE, make_frame
from tests.support.video_command import Make

WIDTH, HEIGHT, FRAMES = 64, 48, 3


def make_levels(number: int) -> NDArray[np.uint8]:
    """Returns the transparency of a frame: a ramp that moves, with a part that is opaque and one that is not there."""
    ramp = np.tile(np.linspace(0, 255, WIDTH).round().astype(np.uint8), (HEIGHT, 1))
    ramp[:8], ramp[-8:] = 0, 255
    return np.roll(ramp, number, axis=1)


def write_transparent(path: Path, codec: str, pixel_format: str) -> Path:
    """Writes three frames with transparency."""
    options = {"auto-alt-ref": "0", "crf": "4", "b": "2M"} if codec.startswith("libvpx") else {}
    converter = ColorConverter(ColorSpec(1, False), pixel_format)
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        converter.color.tag(stream.codec_context)
        if codec.startswith("libvpx"):
            stream.metadata["alpha_mode"] = "1"
        for number in range(FRAMES):
            frame = converter.from_rgb(make_frame(number, WIDTH, HEIGHT), make_levels(number))
            frame.pts = number
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def read_levels(path: Path) -> list[NDArray[Any]]:
    """Reads the transparency of each frame, 0 to 255."""
    levels = []
    for decoded in VideoReader(open_video_file(path), keeps_transparency=True):
        assert decoded.transparency is not None
        levels.append(decoded.transparency / (1 if decoded.transparency.dtype == np.uint8 else 257))
    return levels


LOSSY = 24
"""Levels of 255 by which VP8 and VP9 may move a sharp edge of the transparency at this size."""


@pytest.mark.parametrize(
    ("codec", "pixel_format", "suffix", "error"),
    [
        ("libvpx-vp9", "yuva420p", ".webm", LOSSY),
        ("libvpx", "yuva420p", ".webm", LOSSY),
        ("libvpx-vp9", "yuva420p", ".mkv", LOSSY),
        ("ffv1", "yuva420p", ".mkv", 0),
        ("ffv1", "yuva444p10le", ".mkv", 0.2),
        ("prores_ks", "yuva444p10le", ".mov", 1),
        ("qtrle", "argb", ".mov", 0),
        ("png", "rgba", ".mov", 0),
        ("png", "rgba64be", ".mov", 0),
    ],
)
def test_transparency_is_kept(tmp_path: Path, make: Make, codec: str, pixel_format: str, suffix: str, error: float) -> None:
    """By the same codec in and out; the codec of the output chooses a format that has transparency."""
    source = write_transparent(tmp_path / f"in{suffix}", codec, pixel_format)
    report = make(source, tmp_path / f"out{suffix}", codec=codec, crf=None, preset=None)
    before, after = read_levels(source), read_levels(tmp_path / f"out{suffix}")
    assert len(after) == len(before) == FRAMES
    for one, other, number in zip(before, after, range(FRAMES), strict=True):
        assert np.abs(one - make_levels(number)).max() <= max(error, 1)
        assert np.abs(one - other).max() <= error
    assert not any("transparency left out" in note for note in report.notes)


def test_transparency_that_the_encoder_lacks_is_told(tmp_path: Path, make: Make) -> None:
    """The tag that says that there is transparency does not outlive it."""
    source = write_transparent(tmp_path / "in.webm", "libvpx-vp9", "yuva420p")
    report = make(source, tmp_path / "out.mkv")
    assert "4:2:0, 8 bits, with transparency is written as 4:2:0, 8 bits: transparency left out" in report.notes
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert not {key.lower() for key in container.streams.video[0].metadata} & {"alpha_mode"}


def test_transparency_is_enlarged_with_the_picture(tmp_path: Path, make: Make, engine: Dimmer) -> None:
    engine.scale = 2
    source = write_transparent(tmp_path / "in.mov", "qtrle", "argb")
    make(source, tmp_path / "out.mov", codec="qtrle", crf=None, preset=None)
    for number, levels in enumerate(read_levels(tmp_path / "out.mov")):
        assert np.array_equal(levels, resize_transparency(make_levels(number), 2 * HEIGHT, 2 * WIDTH))


def test_deep_transparency_is_resized_as_8_bits_are() -> None:
    levels = make_levels(0)
    deep = resize_transparency(levels.astype(np.uint16) * 257, 30, 40)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - resize_transparency(levels, 30, 40)).max() <= 1
    assert resize_transparency(levels, *levels.shape) is levels


def test_a_packet_gets_its_transparency_back() -> None:
    packet = make_packet_with_transparency("vp9", b"picture", b"transparency")
    assert bytes(packet) == b"picture"
    assert bytes(packet.get_sidedata("matroska_block_additional"))[8:] == b"transparency"


def test_a_container_without_a_place_for_transparency_gets_none(tmp_path: Path, make: Make) -> None:
    """MP4 would take VP9 and drop the packets of the transparency without a word."""
    source = write_transparent(tmp_path / "in.webm", "libvpx-vp9", "yuva420p")
    report = make(source, tmp_path / "out.mp4", codec="libvpx-vp9", crf=None, preset=None)
    assert "4:2:0, 8 bits, with transparency is written as 4:2:0, 8 bits: transparency left out" in report.notes
    with pytest.raises(UsageError, match=r"A mp4 file has no place for the transparency of libvpx-vp9; name an output"):
        make(source, tmp_path / "b.mp4", codec="libvpx-vp9", crf=None, preset=None, pixel_format="yuva420p")


def test_gif_is_transparent_or_not(tmp_path: Path, make: Make) -> None:
    """Below half is transparent; a part that was opaque before becomes so, too."""
    source = write_transparent(tmp_path / "in.mov", "qtrle", "argb")
    make(source, tmp_path / "out.gif", crf=None, preset=None)
    for number, levels in enumerate(read_levels(tmp_path / "out.gif")):
        assert np.array_equal(levels, np.where(make_levels(number) < 128, 0, 255))
