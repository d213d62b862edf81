"""An image file as RGB pixels, with what belongs to them: transparency, color profile, whether it is gray."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    _imaging,
)
from PIL.ImageFile import ImageFile as PillowImageFile

from dni_deploy.errors import DniError, ImageFileError, InputError, LimitError, UnavailableError, UsageError, escape_name
from dni_deploy.imaging.color_profile import SRGB, ColorProfile
from dni_deploy.imaging.embedded import NOTHING_EMBEDDED, Embedded, embed, make_encoder_options, read_embedded
from dni_deploy.imaging.file_kinds import BMP, HEADER_BYTES, JPEG, NETPBM, PNG, RAW, TGA_FOOTER, TIFF, FileKind, identify_file
from dni_deploy.imaging.frames import AnyFrame, Frame, convert_depth
from dni_deploy.imaging.icc_profile import convert_to_srgb
from dni_deploy.imaging.image_formats import ImageFormat, output_format
from dni_deploy.imaging.image_limits import check_image_size
from dni_deploy.imaging.image_source import ImageSource
from dni_deploy.imaging.metadata import NO_METADATA, Metadata
from dni_deploy.imaging.metadata_removal import remove_metadata
from dni_deploy.imaging.orientation import Orientation
from dni_deploy.imaging.tiff_layout import TiffLayout, read_tiff_layout
from dni_deploy.imaging.transparency import fill_hidden_colors, resize_transparency
from dni_deploy.imaging.whole_raster import check_jpeg_raster, check_png_raster, check_raw_raster
from dni_deploy.utils.address import as_local_path
from dni_deploy.utils.atomic_write import write_bytes_atomically
from dni_deploy.utils.format_count import format_count
from dni_deploy.utils.optional_packages import import_optional

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it finds strange would go to stderr beside our sentence

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})

DECODERS: dict[str, Callable[[BinaryIO, str], Image.Image]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.jpeg_factory,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}  # fmt: skip
"""Pillow's decoders by the names of FileKind; every other one stays out of reach. They are called directly: Image.open looks at
a limit of pixels of its own, and this module has `check_image_size`."""
with suppress(ImportError):  # Pillow has it from 11.3 on
    from PIL import AvifImagePlugin

    DECODERS["AVIF"] = AvifImagePlugin.AvifImageFile

_NETPBM_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"  # white space and comments, in one way only: another would be tried for hours
NETPBM_HEADER = re.compile(rb"P([56])" + _NETPBM_GAP + rb"\d+" + _NETPBM_GAP + rb"\d+" + _NETPBM_GAP + rb"(\d+)\s")
"""Of a binary file: its kind and its white level."""

READABLE_NAMES = "PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or PPM"


@dataclass(frozen=True)
class ImageFile:
    """A decoded image, upright; it owns its arrays.

    Attributes:
        rgb: uint8, uint16 or float32 (H, W, 3), at the depth of the file. Colors of fully transparent pixels are those of visible
            pixels around them.
        alpha: (H, W) of the same dtype, the transparency exactly as in the file (turned upright); None for an opaque image.
        color: What the numbers mean.
        metadata: EXIF, XMP, IPTC, resolution and texts, as in the file.
        is_gray: Whether the file is gray: rgb then has three equal channels, and an output of it is gray again (their mean).
        notes: One sentence for each thing that was converted or left out.
    """

    rgb: AnyFrame
    alpha: NDArray[Any] | None = None
    color: ColorProfile = SRGB
    metadata: Metadata = NO_METADATA
    is_gray: bool = False
    notes: tuple[str, ...] = ()

    def with_pixels(self, rgb: AnyFrame) -> ImageFile:
        """Returns the same image with new colors; the transparency is resized (bicubic) only if the size differs."""
        alpha = None if self.alpha is None else resize_transparency(self.alpha, *rgb.shape[:2])
        return replace(self, rgb=rgb, alpha=alpha)

    def with_depth(self, dtype: Any) -> ImageFile:
        """Returns the same image at another depth: rounded, and clamped to black and white where the depth has no more."""
        alpha = None if self.alpha is None else convert_depth(self.alpha, dtype)
        return replace(self, rgb=convert_depth(self.rgb, dtype), alpha=alpha)

    def to_frame(self) -> Frame:
        """Returns the colors at 8 bits, uint8 (H, W, 3)."""
        frame: NDArray[Any] = convert_depth(self.rgb, np.uint8)
        return frame


@dataclass
class _StoredPixels:
    """Pixels as a file stores them: not turned, hidden colors among them.

    Attributes:
        colors: uint8, uint16 or float32, (H, W) for gray or (H, W, 3).
        alpha: (H, W) of the same dtype, or None.
        embedded: What the file holds beside them.
        orientation: Number of the EXIF orientation that is still to be applied.
        notes: As in ImageFile.
    """

    colors: NDArray[Any]
    alpha: NDArray[Any] | None = None
    embedded: Embedded = NOTHING_EMBEDDED
    orientation: int = 1
    notes: list[str] = field(default_factory=list)

    def to_image_file(self) -> ImageFile:
        orientation = Orientation.from_exif(self.orientation)
        is_gray = self.colors.ndim == 2
        rgb = np.repeat(self.colors[..., None], 3, axis=2) if is_gray else self.colors
        if self.alpha is not None:
            rgb = fill_hidden_colors(rgb, self.alpha)
        rgb = orientation.apply(np.ascontiguousarray(rgb))
        alpha = None if self.alpha is None else orientation.apply(self.alpha)
        color, notes = self.embedded.color, [*self.embedded.notes, *self.notes]
        if is_gray and color.icc is not None and color.kind == "RGB":
            is_gray = False
            notes.append("gray pixels with a profile for RGB were read as RGB")
        return ImageFile(rgb, alpha, color, self.embedded.metadata, is_gray, tuple(notes))


def read_image(path: str | os.PathLike[str], *, scale: int = 1, max_pixels: int | None = None) -> ImageFile:
    """Decodes an image file at its own depth: PNG, JPEG, WebP, TIFF, BMP, GIF, AVIF or PPM, by its content.

    EXIF rotation is applied; palette, 1-bit and CMYK images are converted, which `notes` says.

    Args:
        path: Of the file.
        scale: Of the network that will run; an image whose output would not fit into memory is refused before it is decoded.
        max_pixels: The most output pixels; None as in `check_image_size`.

    Returns:
        The image; the caller owns it.

    Raises:
        InputError: The file is missing, not readable, or a folder, pipe or device.
        ImageFileError: It is no such image, is damaged or incomplete, or would lose content: several frames, pixels of a kind that
            networks do not take.
        LimitError: It is too large.
        UnavailableError: It has more than 8 bits a channel, and the extra `deep` is missing.
    """
    path = as_local_path(path, "an image here")
    with open_image_file(path) as (file, kind):

        def check_size(width: int, height: int, dtype: Any = np.uint8) -> None:
            check_image_size(path, width, height, scale=scale, dtype=dtype, max_pixels=max_pixels)

        return _read_stored_pixels(path, file, kind, check_size).to_image_file()


def read_frame(path: str | os.PathLike[str], *, scale: int = 1) -> Frame:
    """Decodes an image file to 8 bits a channel, for what shows or compares frames of 8 bits.

    Args:
        path: As for `read_image`.
        scale: As for `read_image`.

    Returns:
        uint8 (H, W, 3); the caller owns it.

    Raises:
        InputError: As `read_image`, like its other errors.
    """
    return read_image(path, scale=scale).to_frame()


def _read_stored_pixels(path: Path, file: BinaryIO, kind: FileKind, check_size: Callable[..., None]) -> _StoredPixels:
    """Decodes a file; one that does not decode gets a second chance without its metadata, which must never cost the pixels."""
    try:
        return _decode(path, file, kind, check_size, file)
    except (DniError, MemoryError):
        raise
    except Exception:
        file.seek(0)
        bare = remove_metadata(file.read())
        if bare is None:
            raise
        try:
            stored = _decode(path, io.BytesIO(bare), kind, check_size, file)
        except Exception:
            stored = None
        if stored is None:
            raise
        if kind not in (PNG, TIFF):  # of those, what can be read was read from the whole file
            stored.notes.append("metadata of the file is damaged and was left out; the image was not rotated by it")
        return stored


def read_frame_kind(path: Path) -> tuple[int, int, np.dtype[Any]]:
    """Reads from the header how wide and high an image is, and of which dtype its frame will be.

    Raises:
        InputError: As `read_image`, like its other errors; pixels that are missing may not have been noticed.
    """
    with open_image_file(path) as (file, kind):
        if kind is TIFF:
            layout = read_tiff_layout(file)
            return layout.width, layout.height, layout.dtype
        image = _open_by_pillow(file, kind)
        return (*image.size, np.dtype(np.uint8 if read_bit_depth(image) <= 8 else np.uint16))


def _decode(path: Path, file: BinaryIO, kind: FileKind, check_size: Callable[..., None], whole_file: BinaryIO) -> _StoredPixels:
    """Decodes a file, which may have lost its metadata; those of `whole_file` count."""
    if kind is TIFF:
        layout = _read_whole_tiff_layout(path, file)
        if layout.is_deep:
            check_size(layout.width, layout.height, layout.dtype)
            return _decode_deep_tiff(path, file, layout, whole_file)
    image = _open_by_pillow(file, kind)
    bits = read_bit_depth(image)
    check_size(*image.size, np.uint8 if bits <= 8 else np.uint16)
    notes = [] if getattr(image, "n_frames", 1) == 1 else _describe_extra_frames(path, image)
    if bits > 8:
        return _decode_deep(path, file, image, kind, notes, whole_file)
    if image.mode not in EIGHT_BIT_MODES:
        raise _unsupported_pixels_error(path, f"pixels of the kind {image.mode!r}")
    image.load()
    _check_raster(file, image, kind)
    return _convert_to_rgb(image, notes, kind, whole_file)


def _convert_to_rgb(image: Image.Image, notes: list[str], kind: FileKind, file: BinaryIO) -> _StoredPixels:
    is_gray = image.mode in ("1", "L", "LA")
    pixels = "CMYK" if image.mode == "CMYK" else "GRAY" if is_gray else "RGB"
    embedded = read_embedded(ImageSource(file, image.format or "", pixels, image.info))
    alpha = None
    if image.has_transparency_data:
        alpha = np.array(image.convert("RGBA").getchannel("A"))
    if image.mode in ("P", "PA"):
        notes.append("the palette was resolved to RGB")
    elif image.mode == "1":
        notes.append("1-bit pixels were read as gray 0 and 255")
    elif image.mode == "CMYK":
        image, note = _cmyk_to_rgb(image, embedded.color)
        notes.append(note)
        embedded = replace(embedded, color=SRGB, metadata=embedded.metadata.mark_as_srgb())
    orientation = 1 if kind is TIFF else embedded.orientation  # Pillow turns TIFF files itself
    return _StoredPixels(np.array(image.convert("L" if is_gray else "RGB")), alpha, embedded, orientation, notes)


def _cmyk_to_rgb(image: Image.Image, color: ColorProfile) -> tuple[Image.Image, str]:
    if color.icc is not None:
        return convert_to_srgb(image, color.icc), "CMYK was converted to sRGB by the embedded profile"
    return image.convert("RGB"), "CMYK was converted to RGB without a profile; colors are approximate"


def _describe_extra_frames(path: Path, image: Image.Image) -> list[str]:
    count = image.n_frames  # type: ignore[attr-defined]
    if image.format == "MPO":  # a phone's JPEG with a depth map or a second view behind the image
        return [f"left out: {format_count(count - 1, 'further image')} inside the JPEG"]
    if image.format == "TIFF":
        raise ImageFileError(f"{escape_name(path)} has {count} pages; save each as an image of its own.")
    raise ImageFileError(
        f"{escape_name(path)} is an animation of {count} frames; `run` takes single images, `video` takes videos."
    )


def _decode_deep(
    path: Path, file: BinaryIO, image: Image.Image, kind: FileKind, notes: list[str], whole_file: BinaryIO
) -> _StoredPixels:
    """Decodes a PNG or PPM file of more than 8 bits, whose header Pillow has read."""
    if kind is NETPBM:
        return _StoredPixels(_decode_netpbm(path, file, image), notes=notes)
    file.seek(0)
    deep = _import_deep_pixels(path, "16 bits a channel").decode_png(file.read(), image.info.get("transparency"))
    pixels = "GRAY" if deep.colors.ndim == 2 else "RGB"
    embedded = read_embedded(ImageSource(whole_file, "PNG", pixels, image.info))
    return _StoredPixels(deep.colors, deep.alpha, embedded, embedded.orientation, notes)


def _decode_deep_tiff(path: Path, file: BinaryIO, layout: TiffLayout, whole_file: BinaryIO) -> _StoredPixels:
    is_float = layout.dtype == np.float32
    deep_pixels = _import_deep_pixels(path, "floats" if is_float else f"{layout.bits} bits a channel")
    if layout.has_more_pages:
        raise ImageFileError(f"{escape_name(path)} has several pages; save each as an image of its own.")
    try:
        deep = deep_pixels.decode_tiff(file)
    except deep_pixels.UnsupportedPixelsError as error:
        raise _unsupported_pixels_error(path, str(error)) from error
    embedded = read_embedded(ImageSource(whole_file, "TIFF", "GRAY" if deep.colors.ndim == 2 else "RGB"))
    stored = _StoredPixels(deep.colors, deep.alpha, embedded, embedded.orientation, list(deep.notes))
    if is_float:
        visible = deep.colors if deep.alpha is None else deep.colors[deep.alpha > 0]
        if not np.isfinite(visible).all():
            raise ImageFileError(f"The image {escape_name(path)} has values that are NaN or infinite.")
        low, high = (float(visible.min()), float(visible.max())) if visible.size else (0.0, 1.0)
        if low < 0 or high > 1:
            stored.notes.append(
                f"values from {low:.4g} to {high:.4g} went to the network as they are; black is 0, white 1, and networks are "
                "made for what is between"
            )
    return stored


def _decode_netpbm(path: Path, file: BinaryIO, image: Image.Image) -> NDArray[np.uint16]:
    file.seek(0)
    header = NETPBM_HEADER.match(file.read(HEADER_BYTES))
    if header is None:
        raise _unsupported_pixels_error(path, "16 bits a channel, written as text")
    shape = (image.size[1], image.size[0], *((3,) if header[1] == b"6" else ()))
    file.seek(header.end())
    values = np.frombuffer(file.read(2 * int(np.prod(shape))), ">u2").reshape(shape)
    white = int(header[2])
    return np.rint(np.minimum(values, white) * (65535 / white)).astype(np.uint16)


def _import_deep_pixels(path: Path, what: str) -> Any:
    try:
        return import_optional("dni_deploy.imaging.deep_pixels")
    except UnavailableError as error:
        raise UnavailableError(f"The image {escape_name(path)} has {what}. {error}") from error


def _unsupported_pixels_error(path: Path, what: str) -> ImageFileError:
    return ImageFileError(
        f"The image {escape_name(path)} has {what}; networks take gray and RGB of 8 or 16 bits, or of floats. "
        "Convert it first, for example: magick in.tif -colorspace sRGB -depth 16 out.png (convert in ImageMagick 6)"
    )


def write_image(path: str | os.PathLike[str], image_file: ImageFile, *, force: bool = False) -> tuple[str, ...]:
    """Encodes an image by the suffix and writes it atomically: JPEG at quality 95 in 4:4:4, everything else lossless.

    Args:
        path: Of the file.
        image_file: What to encode.
        force: Whether to replace a file.

    Returns:
        The image's notes, and one for each thing that the format does not hold.

    Raises:
        UsageError: The file exists without `force`, its suffix is unknown, or its format has no transparency and the image has.
        LimitError: A side is too long for the format, or there is no room on the disk.
        UnavailableError: The image has more than 8 bits a channel, the format holds them, and the extra `deep` is missing.
    """
    image_format = require_format(path, image_file)
    image_file = fit_to_format(image_file, image_format)
    write_bytes_atomically(path, encode_image(image_file, image_format), force=force)
    return image_file.notes


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


def fit_to_format(image_file: ImageFile, image_format: ImageFormat) -> ImageFile:
    """Converts what a format does not hold, depth and colors, and leaves out other metadata that it does not hold.

    Returns:
        What the file will hold, with a note for each difference.
    """
    fitted, notes = _fit_depth(image_file, image_format)
    color, rgb, metadata = fitted.color, fitted.rgb, fitted.metadata
    conversion, loss = color.describe_conversion(image_format), color.describe_loss(image_format)
    if conversion is not None:
        rgb, metadata = color.convert_for_screen(fitted.to_frame()), metadata.mark_as_srgb()
    if conversion is not None or loss is not None:
        color = SRGB
    metadata, metadata_notes = metadata.fit(image_format)
    notes += [*(note for note in (conversion, loss) if note is not None), *metadata_notes]
    return replace(fitted, rgb=rgb, color=color, metadata=metadata, notes=(*fitted.notes, *notes))


def _fit_depth(image_file: ImageFile, image_format: ImageFormat) -> tuple[ImageFile, list[str]]:
    dtype = image_file.rgb.dtype
    if dtype == np.uint8 or (dtype == np.uint16 and image_format.has_16_bits) or image_format.has_floats:
        return image_file, []
    source, better = ("floats", ".tif") if dtype == np.float32 else ("16 bits a channel", ".png or .tif")
    target = np.uint16 if image_format.has_16_bits else np.uint8
    note = f"{source} became {8 * np.dtype(target).itemsize} bits: {image_format.name} holds no more, {better} keeps them"
    if dtype == np.float32 and (image_file.rgb.min() < 0 or image_file.rgb.max() > 1):
        note += ", and values below black and above white with them"
    return image_file.with_depth(target), [note]


def encode_image(image_file: ImageFile, image_format: ImageFormat, options: Mapping[str, object] | None = None) -> bytes:
    """Encodes an image; it touches nothing else, so a thread of its own may do it.

    Args:
        image_file: What to encode; the format can hold it (`require_format`, `fit_to_format`).
        image_format: The format.
        options: Options of Pillow's encoder that replace those of the format; of no effect for more than 8 bits.

    Returns:
        The content of the file.

    Raises:
        UnavailableError: The image has more than 8 bits a channel, and the extra `deep` is missing.
    """
    pixels: NDArray[Any] = image_file.rgb
    if image_file.is_gray:
        mean = pixels.mean(axis=2, dtype=np.float64)
        pixels = mean.astype(np.float32) if pixels.dtype == np.float32 else np.rint(mean).astype(pixels.dtype)
    color, metadata = image_file.color, image_file.metadata.correct(pixels.shape[1], pixels.shape[0])
    if image_file.alpha is not None:
        pixels = np.dstack([pixels, image_file.alpha])
    if pixels.dtype != np.uint8:
        deep_pixels = import_optional("dni_deploy.imaging.deep_pixels")
        encode = deep_pixels.encode_tiff if image_format.name == "TIFF" else deep_pixels.encode_png
        return embed(encode(pixels), image_format, color, metadata)
    encoder_options = {**image_format.encoder_options, **make_encoder_options(image_format, color, metadata), **(options or {})}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format.name, **encoder_options)
    return embed(buffer.getvalue(), image_format, color, metadata)


@contextmanager
def open_image_file(path: Path) -> Iterator[tuple[BinaryIO, FileKind]]:
    """Opens a file and identifies it by its content; every failure, also while decoding, becomes one sentence.

    Yields:
        The file, and its kind, which one of DECODERS reads; valid inside the context.

    Raises:
        InputError: As in `read_image`.
        ImageFileError: It is no image that is read here, or is damaged.
        LimitError: It is too large for the memory.
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
            yield file, _identify(file, name)
        except DniError:
            raise
        except MemoryError as error:
            raise LimitError(f"The image {name} does not fit into the memory that is free.") from error
        except Exception as error:
            # A damaged file leads the decoders to raise anything: OSError, SyntaxError, ValueError, IndexError, struct.error.
            raise ImageFileError(f"The image {name} is damaged or cut off ({escape_name(error, 100)}).") from error


def _identify(file: BinaryIO, name: str) -> FileKind:
    header = file.read(HEADER_BYTES)
    if not header:
        raise ImageFileError(f"{name} is empty.")
    file.seek(max(0, file.seek(0, 2) - len(TGA_FOOTER)))
    kind = identify_file(header, file.read())
    if kind is None:
        raise ImageFileError(f"{name} is not a {READABLE_NAMES} image, or its header is damaged.")
    if kind.pillow_name is None:
        raise ImageFileError(f"{name} is {kind.name}, which is not read here; {kind.advice}.")
    if kind.pillow_name not in DECODERS:
        raise UnavailableError(f"{name} is {kind.name}, which Pillow reads from 11.3 on: pip install -U pillow")
    return kind


def decode_by_pillow(path: Path, check: Callable[[Image.Image], None]) -> Image.Image:
    """Decodes a file as Pillow does, whatever its pixels are, for callers that have their own rules for them.

    Args:
        path: Of the file.
        check: Called with the image before it is decoded; what it raises is raised.

    Returns:
        The image, turned upright if its metadata can be read.

    Raises:
        InputError: As in `read_image`.
        ImageFileError: It is no image, or is damaged or incomplete.
        LimitError: It is too large for the memory.
    """
    with open_image_file(path) as (file, kind):
        if kind is TIFF:
            _read_whole_tiff_layout(path, file)
        image = _open_by_pillow(file, kind)
        check(image)
        image.load()
        _check_raster(file, image, kind)
        with suppress(Exception):  # metadata never cost the pixels
            image = ImageOps.exif_transpose(image)
        return image


def _read_whole_tiff_layout(path: Path, file: BinaryIO) -> TiffLayout:
    layout = read_tiff_layout(file)
    if layout.is_raw:
        raise ImageFileError(f"{escape_name(path)} is {RAW.name}, which is not read here; {RAW.advice}.")
    if layout.missing is not None:
        raise ImageFileError(f"The image {escape_name(path)} is damaged or cut off ({layout.missing}).")
    return layout


def _open_by_pillow(file: BinaryIO, kind: FileKind) -> Image.Image:
    silence_libtiff()
    assert kind.pillow_name is not None
    file.seek(0)
    image = DECODERS[kind.pillow_name](file, "")
    if kind in (BMP, NETPBM):
        check_raw_raster(file.seek(0, 2), image)
    return image


@cache
def silence_libtiff() -> None:
    """Keeps libtiff's own lines from stderr, for the whole process: our sentence says that a file is damaged.

    Does nothing where libtiff is not a library that Pillow's own refers to.
    """
    with suppress(OSError, AttributeError):
        libtiff = ctypes.CDLL(_imaging.__file__)
        for setter in (libtiff.TIFFSetErrorHandler, libtiff.TIFFSetWarningHandler):
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)


def _check_raster(file: BinaryIO, image: Image.Image, kind: FileKind) -> None:
    """Checks that no pixels were made up by a decoder; the others refuse a file that has not all of them."""
    if kind is PNG:
        check_png_raster(file, np.asarray(image))
    elif kind is JPEG:
        file.seek(0)
        check_jpeg_raster(
            file.read(),
            np.asarray(image),
            lambda data: np.asarray(_open_by_pillow(io.BytesIO(data), kind)),
            is_progressive=bool(image.info.get("progressive")),
        )


def read_bit_depth(image: Image.Image) -> int:
    """Reads the bits a channel as the file has them, before it is decoded: Pillow would squeeze some into 8 without a word."""
    assert isinstance(image, PillowImageFile)
    if image.format == "PNG":
        assert image.fp is not None  # open until load
        position = image.fp.tell()
        image.fp.seek(24)  # the depth in IHDR, behind signature 8, length 4, name 4, width 4, height 4
        bits = image.fp.read(1)[0]
        image.fp.seek(position)
        return bits
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(258, (1,))))  # type: ignore[attr-defined]  # BitsPerSample
    if image.format == "PPM":
        arguments: Any = image.tile[0].args  # with the highest value, where it is not that of all bits
        white = arguments[1] if isinstance(arguments, tuple) else 65535 if image.mode == "I" else 255
        return 8 if white <= 255 else 16
    return 8
