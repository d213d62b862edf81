"""How large an image may be: the memory that is there, or what the user allows."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from dni_deploy.errors import LimitError, UsageError
from dni_deploy.imaging import image_limits
from dni_deploy.imaging.image_file import read_image
from dni_deploy.imaging.image_limits import BYTES_PER_OUTPUT_PIXEL, check_image_size, max_frame_pixels


def png_header(width: int, height: int) -> bytes:
    """Makes a PNG that is only a header, with a correct checksum."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 GB of free memory."""
    monkeypatch.delenv("DNI_MAX_PIXELS", raising=False)
    monkeypatch.setattr(image_limits, "available_memory_bytes", lambda: 8 * 10**9)


def test_a_photo_of_12_megapixels_at_x4_is_allowed() -> None:
    check_image_size("photo.jpg", 4000, 3000, scale=4)


def test_too_many_pixels_are_refused_by_the_header(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(2**31 - 1, 2**31 - 1))
    with pytest.raises(LimitError, match=r"bomb\.png has 2147483647x2147483647 pixels; that takes .* GB.*8\.0 GB are free"):
        read_image(tmp_path / "bomb.png")
    (tmp_path / "times4.png").write_bytes(png_header(6000, 6000))
    with pytest.raises(LimitError, match=r"its output 24000x24000; .*--max-pixels 576000000 .*DNI_MAX_PIXELS=576000000"):
        read_image(tmp_path / "times4.png", scale=4)


def test_what_the_message_advises_works(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LimitError) as caught:
        check_image_size("a.png", 30_000, 30_000)
    allowed = int(str(caught.value).rpartition("DNI_MAX_PIXELS=")[2].rstrip("."))
    monkeypatch.setenv("DNI_MAX_PIXELS", str(allowed))
    check_image_size("a.png", 30_000, 30_000)
    with pytest.raises(LimitError, match=r"and 900,000,000 are allowed"):
        check_image_size("a.png", 30_001, 30_000)
    monkeypatch.delenv("DNI_MAX_PIXELS")
    check_image_size("a.png", 30_000, 30_000, max_pixels=allowed)
    with pytest.raises(LimitError, match="and 5 are allowed"):
        check_image_size("a.png", 3, 2, max_pixels=5)


def test_deeper_pixels_need_more(monkeypatch: pytest.MonkeyPatch) -> None:
    check_image_size("a.tif", 20_000, 20_000, dtype=np.uint8)
    for dtype in (np.uint16, np.float32):
        with pytest.raises(LimitError):
            check_image_size("a.tif", 20_000, 20_000, dtype=dtype)


def test_a_system_that_does_not_tell_its_memory_has_a_fixed_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_limits, "available_memory_bytes", lambda: None)
    check_image_size("a.png", 10**4, 10**4)
    with pytest.raises(LimitError, match="does not say how much memory is free"):
        check_image_size("a.png", 10**4, 10**4 + 1)


@pytest.mark.parametrize("text", ["many", "0", "-5", "1e9", "9" * 3 + ".5"])
def test_a_variable_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DNI_MAX_PIXELS", text)
    with pytest.raises(UsageError, match="DNI_MAX_PIXELS is"):
        check_image_size("a.png", 1, 1)


def test_frames_of_videos_have_a_fixed_limit_that_the_variable_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max_frame_pixels() == 10**8
    monkeypatch.setenv("DNI_MAX_PIXELS", "200000000")
    assert max_frame_pixels() == 200_000_000


MEASURE = """
import resource, sys
import numpy as np
from dni_deploy.imaging.image_file import ImageFile, write_image
from dni_deploy.imaging.transparency import resize_transparency

if sys.argv[2] != "uint8":
    import dni_deploy.imaging.deep_pixels
dtype, side = np.dtype(sys.argv[2]), 1600
rng = np.random.default_rng(0)
write_image(sys.argv[1] + "/small" + sys.argv[3], ImageFile(np.zeros((8, 8, 3), dtype), np.zeros((8, 8), dtype)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
white = {"uint8": 255, "uint16": 65535, "float32": 1}[sys.argv[2]]
output = np.empty((side, side, 3), dtype)
for row in output:
    row[:] = rng.random(row.shape) * white
alpha = np.full((side // 4, side // 4), white, dtype)
alpha[:3] = 0
image = ImageFile(output, resize_transparency(alpha, side, side))
write_image(sys.argv[1] + "/a" + sys.argv[3], image)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(((after - before) * 1024 - (16 << 20)) / side**2)  # 16 MB do not grow with the image
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_memory_per_output_pixel_is_what_the_limit_says(tmp_path: Path, dtype: str, suffix: str) -> None:
    if dtype != "uint8":
        pytest.importorskip("imagecodecs")
    command = [sys.executable, "-c", MEASURE, str(tmp_path), dtype, suffix]
    measured = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert measured <= BYTES_PER_OUTPUT_PIXEL[np.dtype(dtype)], measured
