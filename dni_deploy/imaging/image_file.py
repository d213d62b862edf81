"""An image file as RGB pixels, with what belongs to them: transparency, color profile, whether it is gray."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile as PillowImageFile

from dni_deploy.errors import DniError, ImageFileError, InputError, LimitError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.image_formats import IMAGE_FORMATS, ImageFormat, output_format
from dni_deploy.imaging.transparency import fill_hidden_colors, resize_transparency
from dni_deploy.utils.atomic_write import write_bytes_atomically

MAX_OUTPUT_PIXELS = 10**8
"""Largest output in pixels; the header is read before anything is decoded."""

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})


@dataclass(frozen=True)
class ImageFile:
    """A decoded image, upright; it owns its arrays.

    Attributes:
        rgb: uint8 (H, W, 3).
        alpha: uint8 (H, W), the transparency exactly as in the file (turned upright); None for an opaque image.
        icc: The embedded color profile, carried to the output; None if there is none or the colors were converted.
        is_gray: Whether the file is gray: rgb then has three equal channels, and an output of it is gray again (their mean).
        notes: One sentence for each thing that was converted or left out.
    """

    rgb: Frame
    alpha: NDArray[np.uint8] | None = None
    icc: bytes | None = None
    is_gray: bool = False
    notes: tuple[str, ...] = ()

    def with_pixels(self, rgb: Frame) -> ImageFile:
        """Returns the same image with new colors; the transparency is resized (bicubic) only if the size differs."""
        alpha = None if self.alpha is None else resize_transparency(self.alpha, *rgb.shape[:2])
        return replace(self, rgb=rgb, alpha=alpha)


def read_image(path: str | os.PathLike[str], *, scale: int = 1) -> ImageFile:
    """Decodes one PNG, JPEG, WebP, TIFF or BMP file of 8 bits a channel.

    EXIF rotation is applied; palette, 1-bit and CMYK images are converted, which `notes` says. Other metadata is left out.

    Args:
        path: Of the file.
        scale: Of the network that will run; an image whose output would exceed MAX_OUTPUT_PIXELS is refused before it is
            decoded.

    Returns:
        The image; the caller owns it.

    Raises:
        InputError: The file is missing, not readable, or a folder, pipe or device.
        ImageFileError: It is no such image, is damaged, or would lose content: 16-bit, float, several frames.
        LimitError: It is too large.
    """
    path = Path(path)
    with open_image(path) as image:
        width, height = image.size
        check_size(path, width, height, scale)
        _check_depth(path, image)
        notes = [] if getattr(image, "n_frames", 1) == 1 else _describe_extra_frames(path, image)
        image.load()
        return _to_image_file(ImageOps.exif_transpose(image), notes)


def write_image(path: str | os.PathLike[str], image_file: ImageFile, *, force: bool = False) -> None:
    """Encodes an image by the suffix and writes it atomically: JPEG at quality 95 in 4:4:4, everything else lossless.

    Args:
        path: Of the file.
        image_file: What to encode.
        force: Whether to replace a file.

    Raises:
        UsageError: The file exists without `force`, its suffix is unknown, or its format has no transparency and the image has.
        LimitError: A side is too long for the format, or there is no room on the disk.
    """
    write_bytes_atomically(path, encode_image(image_file, require_format(path, image_file)), force=force)


def require_format(path: str | os.PathLike[str], image_file: ImageFile) -> ImageFormat:
    """Checks that the format that a path's suffix stands for can hold an image.

    Returns:
        The format.

    Raises:
        UsageError: The suffix is unknown, or its format has no transparency and the image has.
        LimitError: A side is too long for the format.
    """
    image_format = output_format(path)
    height, width = image_file.rgb.shape[:2]
    if max(height, width) > image_format.max_side_px:
        raise LimitError(
            f"A {image_format.name} file holds at most {image_format.max_side_px} pixels a side, {escape_name(path)} would have "
            f"{width}x{height}; write .png or .tif. Nothing was written."
        )
    if image_file.alpha is not None and not image_format.has_transparency:
        raise UsageError(
            f"The image has transparency, and a {image_format.name} file ({escape_name(path)}) has none; write .png, .webp or "
            ".tif. Nothing was written."
        )
    return image_format


def encode_image(image_file: ImageFile, image_format: ImageFormat, options: Mapping[str, object] | None = None) -> bytes:
    """Encodes an image; it touches nothing else, so a thread of its own may do it.

    Args:
        image_file: What to encode; the format can hold it (`require_format`).
        image_format: The format.
        options: Options of Pillow's encoder that replace those of the format.

    Returns:
        The content of the file.
    """
    pixels = image_file.rgb
    image = Image.fromarray(np.rint(pixels.mean(axis=2)).astype(np.uint8) if image_file.is_gray else pixels)
    if image_file.alpha is not None:
        image.putalpha(Image.fromarray(image_file.alpha))
    encoder_options = {**image_format.encoder_options, **(options or {})}
    # A gray profile would not fit the RGB pixels of a format without gray.
    if image_file.icc is not None and image_format.has_profile and (image_format.has_gray or not image_file.is_gray):
        encoder_options["icc_profile"] = image_file.icc
    buffer = io.BytesIO()
    image.save(buffer, image_format.name, **encoder_options)
    return buffer.getvalue()


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Opens a file by Pillow's lazy header reader; every failure, also while decoding, becomes one sentence.

    Yields:
        The image, not yet decoded; valid inside the context.

    Raises:
        InputError: As in `read_image`.
        ImageFileError: It is no image, or is damaged.
        LimitError: It is too large for Pillow or for the memory.
    """
    name = escape_name(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # checked first: opening a pipe would wait forever
            raise InputError(f"{name} is {'a folder' if path.is_dir() else 'a pipe or device'}, not an image file.")
        file = open(path, "rb")  # noqa: SIM115  (closed below)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # our own messages say what Pillow would about size and metadata
        try:
            yield Image.open(file, formats=tuple(image_format.name for image_format in IMAGE_FORMATS))
        except DniError:
            raise
        except (Image.DecompressionBombError, MemoryError) as error:
            raise LimitError(f"The image {name} is too large; the limit is {MAX_OUTPUT_PIXELS:,} pixels of output.") from error
        except UnidentifiedImageError as error:
            empty = os.fstat(file.fileno()).st_size == 0
            what = "is empty" if empty else "is not a PNG, JPEG, WebP, TIFF or BMP image, or its header is damaged"
            raise ImageFileError(f"{name} {what}.") from error
        except Exception as error:
            # A damaged file leads the decoders to raise anything: OSError, SyntaxError, ValueError, IndexError, struct.error.
            raise ImageFileError(f"The image {name} is damaged or cut off ({escape_name(error, 100)}).") from error


def check_size(path: Path, width: int, height: int, scale: int) -> None:
    """Checks that the output of an image of this size is not too large.

    Raises:
        LimitError: It has more than MAX_OUTPUT_PIXELS.
    """
    if width * height * scale * scale > MAX_OUTPUT_PIXELS:
        times = f" at scale {scale}" if scale > 1 else ""
        raise LimitError(
            f"The image {escape_name(path)} has {width}x{height} pixels{times}, more than the limit of {MAX_OUTPUT_PIXELS:,} "
            "of output; make it smaller or cut it."
        )


def read_bit_depth(image: Image.Image) -> int:
    """Reads the bits a channel as the file has them, before it is decoded: Pillow would squeeze some into 8 without a word."""
    if image.format == "PNG":
        assert isinstance(image, PillowImageFile)
        assert image.fp is not None  # open until load
        position = image.fp.tell()
        image.fp.seek(24)  # the depth in IHDR, behind signature 8, length 4, name 4, width 4, height 4
        bits = image.fp.read(1)[0]
        image.fp.seek(position)
        return bits
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(258, (1,))))  # type: ignore[attr-defined]  # BitsPerSample
    return 8


def _check_depth(path: Path, image: Image.Image) -> None:
    bits = read_bit_depth(image)
    if bits > 8 or image.mode not in EIGHT_BIT_MODES:
        kind = f"{bits} bits a channel" if bits > 8 else f"pixels of the kind {image.mode!r}"
        raise ImageFileError(
            f"The image {escape_name(path)} has {kind}; networks run here on 8 bits, and the rest would be lost unseen. "
            "Convert it first, for example: magick in.png -depth 8 out.png"
        )


def _describe_extra_frames(path: Path, image: Image.Image) -> list[str]:
    count = image.n_frames  # type: ignore[attr-defined]
    if image.format == "MPO":  # a phone's JPEG with a depth map or a second view behind the image
        return [f"{count - 1} further images inside the JPEG were left out"]
    if image.format == "TIFF":
        raise ImageFileError(f"{escape_name(path)} has {count} pages; save each as an image of its own.")
    raise ImageFileError(
        f"{escape_name(path)} is an animation of {count} frames; `run` takes single images, `video` takes videos."
    )


def _to_image_file(image: Image.Image, notes: list[str]) -> ImageFile:
    icc = image.info.get("icc_profile") or None
    alpha = None
    if image.has_transparency_data:
        alpha = np.array(image.convert("RGBA").getchannel("A"))
    mode = image.mode
    if mode in ("P", "PA"):
        notes.append("the palette was resolved to RGB")
    elif mode == "1":
        notes.append("1-bit pixels were read as gray 0 and 255")
    elif mode == "CMYK":
        image, note = _cmyk_to_rgb(image, icc)
        notes.append(note)
        icc = None
    rgb: Frame = np.array(image.convert("RGB"))
    if alpha is not None:
        rgb = fill_hidden_colors(rgb, alpha)
    return ImageFile(rgb, alpha, icc, mode in ("1", "L", "LA"), tuple(notes))


def _cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, str]:
    if icc is not None:
        try:
            converted = ImageCms.profileToProfile(image, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # a damaged profile, or one for other pixels
            converted = None
        if converted is not None:
            return converted, "CMYK was converted to sRGB by the embedded profile"
    return image.convert("RGB"), "CMYK was converted to RGB without a profile; colors are approximate"
