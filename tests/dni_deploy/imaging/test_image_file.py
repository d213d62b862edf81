"""Image files: what is read, what is preserved, and what is refused in one sentence."""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from dni_deploy.errors import ImageFileError, InputError, LimitError, UsageError
from dni_deploy.imaging.color_profile import ColorProfile
from dni_deploy.imaging.image_file import ImageFile, read_image, write_image


def pixels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png_header(width: int, height: int, depth: int, color: int) -> bytes:
    """Makes a PNG that is only a header, with a correct checksum."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".TIFF", ".bmp"])
def test_lossless_formats_give_the_same_pixels_back(tmp_path: Path, suffix: str) -> None:
    rgb = pixels(7, 5, 3)
    write_image(tmp_path / f"a{suffix}", ImageFile(rgb))
    image = read_image(tmp_path / f"a{suffix}")
    assert np.array_equal(image.rgb, rgb)
    assert image.alpha is None
    assert not image.is_gray
    assert image.notes == ()


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_transparency_is_carried_bit_equal(tmp_path: Path, suffix: str) -> None:
    rgb, alpha = pixels(9, 4, 3), pixels(9, 4, seed=1)
    alpha[:3] = 0
    write_image(tmp_path / f"a{suffix}", ImageFile(rgb, alpha))
    with Image.open(tmp_path / f"a{suffix}") as written:  # the colors under transparent pixels are written, too
        assert np.array_equal(np.asarray(written), np.dstack([rgb, alpha]))
    image = read_image(tmp_path / f"a{suffix}")
    assert np.array_equal(image.alpha, alpha)
    assert np.array_equal(image.rgb[alpha > 0], rgb[alpha > 0])
    same = image.with_pixels(rgb // 2)
    assert same.alpha is image.alpha
    doubled = image.with_pixels(rgb.repeat(2, axis=0).repeat(2, axis=1))
    assert doubled.alpha is not None
    assert doubled.alpha.shape == (18, 8)


def write_disk(path: Path, mode: str, hidden: int | None) -> None:
    """Writes a disk with a soft rim over hidden pixels that are all of one value, or random."""
    y, x = np.mgrid[:24, :28]
    alpha = np.clip((9.0 - np.hypot(y - 12, x - 14)) * 80, 0, 255).astype(np.uint8)
    rgb = np.random.default_rng(1).integers(0, 256, (24, 28, 3), dtype=np.uint8)
    rgb[alpha == 0] = np.random.default_rng(2).integers(0, 256, (int((alpha == 0).sum()), 3)) if hidden is None else hidden
    if mode == "LA":
        Image.fromarray(np.dstack([rgb[..., 0], alpha])).save(path)
    elif mode == "P":  # ten colors, of which the last ones are hidden
        index = np.where(alpha == 0, 9 if hidden is None else 8, rgb[..., 0] % 8).astype(np.uint8)
        palette = Image.fromarray(index).convert("P")
        colors = [(30 * number, 200 - 20 * number, 90) for number in range(8)] + [(hidden or 0,) * 3, (77, 3, 250)]
        palette.putpalette([level for color in colors for level in color])
        palette.save(path, transparency=bytes([255] * 6 + [128] * 2 + [0] * 2))
    elif mode == "RGB":  # one color is transparent
        key = (255, 0, 255) if hidden is None else (hidden,) * 3
        rgb[alpha == 0] = key
        visible = rgb[alpha > 0]
        visible[(visible == key).all(axis=1)] = (1, 2, 3)
        rgb[alpha > 0] = visible
        Image.fromarray(rgb).save(path, transparency=key)
    else:
        Image.fromarray(np.dstack([rgb, alpha])).save(path)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGBA", "png"), ("RGBA", "webp"), ("RGBA", "tif"), ("LA", "png"), ("P", "png"), ("RGB", "png")]
)
def test_what_the_network_sees_does_not_depend_on_hidden_colors(tmp_path: Path, mode: str, suffix: str) -> None:
    """So nor does any pixel of the output, whatever the network and its scale are."""
    images = []
    for number, hidden in enumerate((0, 255, 120, None)):
        path = tmp_path / f"{number}.{suffix}"
        if suffix == "webp":
            write_disk(path.with_suffix(".png"), mode, hidden)
            with Image.open(path.with_suffix(".png")) as image:
                image.save(path, lossless=True, exact=True)
        else:
            write_disk(path, mode, hidden)
        images.append(read_image(path))
    assert images[0].alpha is not None
    assert set(np.unique(images[0].alpha)) > {0}
    for image in images[1:]:
        assert np.array_equal(image.alpha, images[0].alpha)
        assert np.array_equal(image.rgb, images[0].rgb)


def test_jpeg_is_written_at_full_color_resolution(tmp_path: Path) -> None:
    rgb = np.zeros((32, 32, 3), np.uint8)
    rgb[:, ::2, 0] = 255
    write_image(tmp_path / "a.jpg", ImageFile(rgb))
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.layer[0][1:3] == image.layer[1][1:3]  # type: ignore[attr-defined]  # 4:4:4
    # Quality 95 keeps one-pixel red stripes apart; at 4:2:0 they become one flat color.
    assert np.abs(read_image(tmp_path / "a.jpg").rgb.astype(int) - rgb).max() < 40


def test_gray_stays_gray(tmp_path: Path) -> None:
    gray, alpha = pixels(6, 5), pixels(6, 5, seed=1)
    Image.fromarray(gray).save(tmp_path / "a.png")
    gray_image = read_image(tmp_path / "a.png")
    assert gray_image.is_gray
    assert np.array_equal(gray_image.rgb, np.repeat(gray[..., None], 3, axis=2))
    write_image(tmp_path / "b.png", gray_image)
    with Image.open(tmp_path / "b.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.array(image), gray)
    image = Image.fromarray(gray)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "la.png")
    write_image(tmp_path / "lb.png", read_image(tmp_path / "la.png"))
    with Image.open(tmp_path / "lb.png") as image:
        assert image.mode == "LA"
        assert np.array_equal(np.array(image), np.dstack([gray, alpha]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_to_colours_and_transparency(tmp_path: Path, orientation: int) -> None:
    upright = pixels(3, 5, 4)
    turn = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a), 7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(turn[orientation](upright))).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert np.array_equal(image.rgb, upright[..., :3])
    assert np.array_equal(image.alpha, upright[..., 3])


def test_color_profile_is_kept(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        write_image(tmp_path / f"a{suffix}", ImageFile(pixels(4, 4, 3), color=ColorProfile(icc)))
        assert read_image(tmp_path / f"a{suffix}").color.icc == icc


def test_palette_one_bit_and_cmyk_images_are_converted_with_a_note(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "p.png", transparency=bytes([255, 0, 128]))
    image = read_image(tmp_path / "p.png")
    assert image.rgb[0].tolist() == [[255, 0, 0], [170, 0, 85]]  # the second one is hidden
    assert image.rgb[1].tolist() == [[0, 0, 255], [170, 0, 85]]
    assert image.alpha is not None
    assert image.alpha.tolist() == [[255, 0], [128, 0]]
    assert "palette" in image.notes[0]

    Image.fromarray(np.array([[True, False]])).save(tmp_path / "1.png")
    image = read_image(tmp_path / "1.png")
    assert image.rgb[..., 0].tolist() == [[255, 0]]
    assert image.is_gray
    assert "1-bit" in image.notes[0]

    Image.new("CMYK", (3, 2), (0, 255, 255, 0)).save(tmp_path / "c.tif")
    image = read_image(tmp_path / "c.tif")
    assert image.rgb.shape == (2, 3, 3)
    assert image.rgb[0, 0].tolist() == [255, 0, 0]
    assert "CMYK" in image.notes[0]

    Image.fromarray(pixels(2, 2, 3)).save(tmp_path / "key.png", transparency=(1, 2, 3))
    assert read_image(tmp_path / "key.png").alpha is not None


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (13, 1), (2, 3)])
def test_small_images_are_read(tmp_path: Path, shape: tuple[int, int]) -> None:
    write_image(tmp_path / "a.png", ImageFile(pixels(*shape, 3)))
    assert read_image(tmp_path / "a.png").rgb.shape == (*shape, 3)


def test_animations_and_pages_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(pixels(8, 8, 3, seed=seed)) for seed in range(3)]
    for suffix in ("png", "webp"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
        with pytest.raises(ImageFileError, match="animation of 3 frames"):
            read_image(tmp_path / f"a.{suffix}")
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageFileError, match="3 pages"):
        read_image(tmp_path / "a.tif")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", ImageFile(pixels(40, 40, 3)))
    write_image(tmp_path / "a.jpg", ImageFile(pixels(40, 40, 3)))
    whole = (tmp_path / "a.png").read_bytes()
    bad = {
        "cut.png": whole[: len(whole) // 2],
        "cut.jpg": (tmp_path / "a.jpg").read_bytes()[:-200],
        "flipped.png": whole[:60] + bytes([whole[60] ^ 1]) + whole[61:],
        "empty.png": b"",
        "text.png": b"<!doctype html><title>404</title>",
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        "nowidth.png": png_header(0, 4, 8, 2),
        "gif.png": b"GIF89a\x01\x00\x01\x00\x00\x00\x00;",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageFileError) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_truncated_and_bit_flipped_files_give_an_image_or_a_dni_error(tmp_path: Path) -> None:
    """A damaged file gives a DniError or some image, never another exception."""
    rng = np.random.default_rng(0)
    for ending in (".png", ".jpg", ".webp", ".tif", ".bmp", ".gif", ".avif", ".ppm"):
        Image.fromarray(pixels(6, 6, 3)).save(tmp_path / f"a{ending}")
        whole = (tmp_path / f"a{ending}").read_bytes()
        variants = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 20))]
        for _ in range(60):
            flipped = bytearray(whole)
            flipped[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
            variants.append(bytes(flipped))
        for content in variants:
            (tmp_path / f"b{ending}").write_bytes(content)
            with suppress(InputError, LimitError):
                read_image(tmp_path / f"b{ending}")


def test_missing_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, what in ((tmp_path, "folder"), (tmp_path / "none.png", "No such file"), (tmp_path / "pipe.png", "pipe")):
        with pytest.raises(InputError, match=what):
            read_image(path)
    with pytest.raises(InputError):
        read_image("a\0b.png")


def test_unwritable_images_are_refused(tmp_path: Path) -> None:
    opaque, clear = ImageFile(pixels(2, 2, 3)), ImageFile(pixels(2, 2, 3), pixels(2, 2))
    for name in ("a.gif", "a", "a.png.txt"):
        with pytest.raises(UsageError, match="no image format"):
            write_image(tmp_path / name, opaque)
    for name in ("a.jpg", "a.bmp"):
        with pytest.raises(UsageError, match="transparency"):
            write_image(tmp_path / name, clear)
    with pytest.raises(LimitError, match="at most"):
        write_image(tmp_path / "a.webp", ImageFile(np.zeros((1, 16_384, 3), np.uint8)))
    assert list(tmp_path.iterdir()) == []
    write_image(tmp_path / "a.png", opaque)
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(UsageError, match="exists"):
        write_image(tmp_path / "a.png", clear)
    assert (tmp_path / "a.png").read_bytes() == before
    write_image(tmp_path / "a.png", clear, force=True)
    assert read_image(tmp_path / "a.png").alpha is not None
