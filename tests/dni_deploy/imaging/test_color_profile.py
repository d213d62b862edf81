"""Colors mean the same in every output, whatever the input said them by, or a note says what became of them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dni_deploy.imaging.icc_profile import RgbSpace, make_profile
from dni_deploy.imaging.image_file import ImageFile, fit_to_format, read_image, write_image
from dni_deploy.imaging.image_formats import FORMAT_BY_SUFFIX
from dni_deploy.imaging.png_chunks import encode_profile, read_chunks
from tests.support.color_files import (
    ADOBE_ICC,
    ADOBE_RGB,
    COLOR_SOURCES,
    GRAY_ICC,
    P3,
    encode,
    make_bmp,
    make_exif,
    make_pixels,
    make_png,
    make_tiff,
    pack_chromaticities,
    read_by_pillow,
    render,
    render_by_profile,
    set_nclx,
    skip_unread,
)


def save(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def convert(image: ImageFile, path: Path) -> ImageFile:
    """Writes an image; returns what was written, with its notes."""
    write_image(path, image)
    return fit_to_format(image, FORMAT_BY_SUFFIX[path.suffix])


def name_chunks(path: Path) -> list[str]:
    with path.open("rb") as file:
        return [chunk.name.decode() for chunk in read_chunks(file)[0]]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("name", COLOR_SOURCES)
def test_colors_mean_the_same_in_every_output(tmp_path: Path, name: str, suffix: str) -> None:
    source_suffix, make, space = COLOR_SOURCES[name]
    skip_unread(source_suffix)
    source = save(tmp_path, f"in{source_suffix}", make(make_pixels()))
    truth = render(read_by_pillow(source)[0], space)
    image = read_image(source)
    written = convert(image, tmp_path / f"out{suffix}")
    if suffix == ".jpg":  # its own loss is not the question
        rendered = render_by_profile(written.rgb, read_by_pillow(tmp_path / "out.jpg")[1])
    else:
        rendered = render_by_profile(*read_by_pillow(tmp_path / f"out{suffix}"))
    # One level: the profile's numbers are rounded to 16 bits, and Little CMS rounds to 8 once on either way.
    assert np.abs(rendered.astype(int) - truth).max() <= 1
    assert any("converted to sRGB" in note for note in written.notes) == (suffix == ".bmp" and space is not None)


@pytest.mark.parametrize(
    ("chunks", "kept", "space"),
    [
        ([(b"gAMA", struct.pack(">I", 100_000))], ["gAMA", "iCCP"], RgbSpace(curves=((1.0,),))),
        ([(b"cHRM", pack_chromaticities(P3))], ["cHRM", "iCCP"], P3),
        ([(b"sRGB", b"\1"), (b"gAMA", struct.pack(">I", 45455))], ["gAMA", "sRGB"], None),
        ([(b"gAMA", struct.pack(">I", 45455))], ["gAMA"], None),
        ([(b"cICP", bytes([9, 8, 0, 1]))], ["cICP", "iCCP"], None),
        ([(b"cICP", bytes([12, 13, 0, 1])), (b"iCCP", encode_profile(ADOBE_ICC).data)], ["cICP", "iCCP"], None),
    ],
)
def test_a_png_file_gets_its_chunks_again(
    tmp_path: Path, chunks: list[tuple[bytes, bytes]], kept: list[str], space: RgbSpace | None
) -> None:
    image = read_image(save(tmp_path, "in.png", make_png(make_pixels(), *chunks)))
    assert image.notes == ()
    write_image(tmp_path / "out.png", image)
    assert sorted(name_chunks(tmp_path / "out.png")) == kept
    with (tmp_path / "out.png").open("rb") as file:
        written = {chunk.name: chunk.data for chunk in read_chunks(file)[0]}
    assert all(written[name] == data for name, data in chunks if name != b"iCCP")
    if space is not None:
        assert image.color.icc is not None
        assert np.abs(render_by_profile(image.rgb, image.color.icc).astype(int) - render(image.rgb, space)).max() <= 1


def test_precedence_of_png_chunks(tmp_path: Path) -> None:
    profile, gamma, srgb = (b"iCCP", encode_profile(ADOBE_ICC).data), (b"gAMA", struct.pack(">I", 100_000)), (b"sRGB", b"\0")
    p3 = (b"cICP", bytes([12, 13, 0, 1]))
    assert read_image(save(tmp_path, "1.png", make_png(make_pixels(), gamma, srgb, profile))).color.icc == ADOBE_ICC
    assert read_image(save(tmp_path, "2.png", make_png(make_pixels(), gamma, srgb))).color.icc is None
    assert read_image(save(tmp_path, "3.png", make_png(make_pixels(), p3, gamma))).color.cicp == (12, 13, 0, 1)


@pytest.mark.parametrize("suffix", [".png", ".avif"])
@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_stays_tagged_and_is_named(tmp_path: Path, transfer: int, suffix: str) -> None:
    skip_unread(suffix)
    if suffix == ".png":
        data = make_png(make_pixels(), (b"cICP", bytes([9, transfer, 0, 1])), (b"mDCV", bytes(24)), (b"cLLI", bytes(8)))
    else:
        data = set_nclx(encode(make_pixels(), "AVIF"), 9, transfer)
    image = read_image(save(tmp_path, f"in{suffix}", data))
    assert "(HDR): the network gets the codes as they are, as if they were SDR" in image.notes[0]
    written = convert(image, tmp_path / "out.png")
    assert written.notes == image.notes
    assert name_chunks(tmp_path / "out.png") == (["cICP", "mDCV", "cLLI"] if suffix == ".png" else ["cICP"])
    assert read_image(tmp_path / "out.png").color.cicp == (9, transfer, 0, 1)
    assert "which a JPEG file does not say; .png does" in convert(image, tmp_path / "out.jpg").notes[-1]


def test_gray_profiles(tmp_path: Path) -> None:
    gray = make_pixels()[..., 0]
    truth = render_by_profile(gray, GRAY_ICC)
    for suffix, source in (
        (".png", encode(Image.fromarray(gray), "PNG", icc_profile=GRAY_ICC)),
        (".tif", encode(Image.fromarray(gray), "TIFF", icc_profile=GRAY_ICC)),
    ):
        image = read_image(save(tmp_path, f"in{suffix}", source))
        assert image.is_gray
        for output in (".png", ".jpg", ".tif", ".webp", ".bmp"):
            written = convert(image, tmp_path / f"out{suffix[1:]}{output}")
            pixels, icc = read_by_pillow(tmp_path / f"out{suffix[1:]}{output}")
            assert icc == (GRAY_ICC if output in (".png", ".jpg", ".tif") else None)
            converted = [note for note in written.notes if "converted to sRGB" in note]
            assert len(converted) == (icc is None)
            if output == ".jpg":  # its own loss is not the question
                pixels = written.rgb
            rendered = pixels if icc is None else render_by_profile(pixels[..., 0], icc)
            assert np.abs(rendered.astype(int) - truth).max() <= 1
    image = read_image(save(tmp_path, "gamma.png", make_png(gray, (b"gAMA", struct.pack(">I", 100_000)))))
    assert (image.is_gray, image.color.kind) == (True, "GRAY")
    assert image.color.icc is not None
    assert np.abs(render_by_profile(gray, image.color.icc).astype(int) - truth).max() <= 1


def test_gray_pixels_with_a_profile_for_rgb_are_written_as_rgb(tmp_path: Path) -> None:
    gray = make_pixels()[..., 0]
    image = read_image(save(tmp_path, "in.jpg", encode(Image.fromarray(gray), "JPEG", icc_profile=ADOBE_ICC)))
    assert (image.is_gray, image.color.icc) == (False, ADOBE_ICC)
    assert "with a profile for RGB" in image.notes[0]


def test_cmyk_is_converted_by_its_profile_or_with_a_note(tmp_path: Path) -> None:
    image = read_image(
        save(tmp_path, "in.tif", encode(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF", icc_profile=ADOBE_ICC))
    )
    assert image.color.icc is None
    assert image.notes == (
        "the color profile is for RGB and not for CMYK pixels, and was left out",
        "CMYK was converted to RGB without a profile; colors are approximate",
    )


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_damaged_profiles_are_left_out_with_a_note(tmp_path: Path, name: str) -> None:
    skip_unread({"JPEG": ".jpg", "TIFF": ".tif"}.get(name, f".{name.lower()}"))
    damaged = ADOBE_ICC[:200]
    data = encode(make_pixels(), name, icc_profile=damaged)
    if name == "PNG":
        data = make_png(make_pixels(), (b"iCCP", encode_profile(damaged).data))
    image = read_image(save(tmp_path, f"in.{name.lower()}", data))
    assert image.color.icc is None
    rest = "" if name == "AVIF" else "; the colors are taken for sRGB"  # that file has code points, too
    assert image.notes == (f"the color profile is damaged and was left out{rest}",)
    write_image(tmp_path / "out.tif", image)
    assert read_by_pillow(tmp_path / "out.tif")[1] is None


def test_a_profile_for_other_pixels_is_left_out(tmp_path: Path) -> None:
    image = read_image(save(tmp_path, "in.tif", encode(make_pixels(), "TIFF", icc_profile=GRAY_ICC)))
    assert image.color.icc is None
    assert "is for GRAY and not for RGB pixels" in image.notes[0]


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (make_png(make_pixels(), (b"cICP", bytes([99, 13, 0, 1]))), "the color codes 99 and 13 are not known"),
        (make_png(make_pixels(), (b"cHRM", struct.pack(">8I", *[31270, 32900] * 4))), "describe no colors"),
        (make_png(make_pixels(), (b"cICP", bytes([9, 16, 0, 1]))), "PQ (HDR)"),
        (make_png(make_pixels(), (b"cICP", bytes([1, 1, 0, 0]))), "of narrow range"),
        (make_bmp(make_pixels(), b"LINK"), "is a file of its own, which was not read"),
        (make_bmp(make_pixels(), b"MBED", icc=b"junk"), "the color profile is damaged"),
        (make_tiff(make_pixels(), t532=(5, (16, 1, 235, 1) * 3)), "ReferenceBlackWhite was not applied"),
        (encode(make_pixels(), "JPEG", exif=make_exif(color_space=65535)), "EXIF says that the colors are not sRGB"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, data: bytes, note: str) -> None:
    image = read_image(save(tmp_path, "in", data))
    assert len(image.notes) == 1
    assert note in image.notes[0]


def test_what_writers_leave_empty_or_round_is_srgb(tmp_path: Path) -> None:
    srgb = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
    tags = {
        f"t{number}": (5, tuple(n for v in values for n in (round(v * 1000), 1000)))
        for number, values in ((318, srgb[:2]), (319, srgb[2:]))
    }
    for data in (
        make_bmp(make_pixels(), bytes(4), None, 0),
        make_bmp(make_pixels(), b"Win "),
        make_tiff(make_pixels(), **tags),
        make_png(make_pixels(), (b"gAMA", struct.pack(">I", 45455)), (b"cHRM", pack_chromaticities(RgbSpace(srgb)))),
    ):
        image = read_image(save(tmp_path, "in", data))
        assert (image.color.is_srgb, image.notes) == (True, ())


def test_unspecified_codes_are_srgb(tmp_path: Path) -> None:
    skip_unread(".avif")
    image = read_image(save(tmp_path, "in.avif", set_nclx(encode(make_pixels(), "AVIF"), 2, 2)))
    assert (image.color.is_srgb, image.notes) == (True, ())


def test_exif_says_srgb_after_a_conversion(tmp_path: Path) -> None:
    exif = make_exif(color_space=65535, interoperability=b"R03")
    image = read_image(save(tmp_path, "in.jpg", encode(Image.new("CMYK", (4, 4)), "JPEG", exif=exif)))
    write_image(tmp_path / "out.jpg", image)
    with Image.open(tmp_path / "out.jpg") as written:
        assert written.getexif().get_ifd(0x8769)[40961] == 1


def test_made_profiles_are_read_by_little_cms_as_meant() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for gamma in (1.0, 1.8, 2.2, 2.6):
        profile = make_profile(RgbSpace(ADOBE_RGB.chromaticities, ((gamma,),)), "test", is_gray=True)
        light = (ramp / 255.0) ** gamma
        expected = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
        # Half a level of rounding, and half of one for Little CMS's tables of 16 bits.
        assert np.abs(render_by_profile(ramp, profile)[..., 0] - expected).max() <= 1
