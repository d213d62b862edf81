"""PNG and TIFF files of 16 bits a channel, and TIFF files of floats: Pillow keeps 8 bits of most of them."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from dni_deploy.imaging.frames import WHITE_LEVELS
from dni_deploy.utils.format_count import format_count

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it finds strange would go to stderr otherwise

MIN_IS_WHITE, MIN_IS_BLACK, RGB = 0, 1, 2
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
"""Numbers of the tags PhotometricInterpretation and ExtraSamples. Source: TIFF 6.0."""

PNG_ENCODER = {"level": 1, "filter": imagecodecs.PNG.FILTER.PAETH}
"""Of a photograph with noise at 16 bits: 0.80 of its bytes, in less than half of the time of level 6 with all filters, 0.80, too."""


@dataclass(frozen=True)
class DeepPixels:
    """Decoded pixels as they are stored.

    Attributes:
        colors: uint16 or float32, (H, W) for gray or (H, W, 3).
        alpha: The same dtype, (H, W); None for an opaque image.
        notes: What was converted.
    """

    colors: NDArray[Any]
    alpha: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()


class UnsupportedPixelsError(ValueError):
    """Pixels of a kind that is not read; str() says which, as the object of "has"."""


def decode_png(data: bytes, transparent: int | tuple[int, ...] | None) -> DeepPixels:
    """Decodes a PNG file of 16 bits a channel.

    Args:
        data: The file; its structure is sound.
        transparent: The value or color that is transparent in a file without an alpha channel.

    Raises:
        Exception: The file is damaged.
    """
    # Without other chunks: libpng writes what is wrong with them to stderr, and makes transparency of tRNS in its own way.
    pixels = imagecodecs.png_decode(_keep_chunks(data, (b"IHDR", b"IDAT", b"IEND")))
    if pixels.ndim == 2:
        colors, alpha = pixels, None
    else:
        has_alpha = pixels.shape[2] in (2, 4)
        colors, alpha = (pixels[..., :-1], pixels[..., -1].copy()) if has_alpha else (pixels, None)
        colors = colors[..., 0] if colors.shape[2] == 1 else colors
    if alpha is None and transparent is not None:
        is_transparent = colors == np.asarray(transparent)
        alpha = np.where(is_transparent if colors.ndim == 2 else is_transparent.all(axis=2), 0, 65535).astype(np.uint16)
    return DeepPixels(np.ascontiguousarray(colors), alpha)


def _keep_chunks(data: bytes, names: tuple[bytes, ...]) -> bytes:
    parts, position = [data[:8]], 8
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] in names:
            parts.append(data[position:end])
        position = end
    return b"".join(parts)


def decode_tiff(file: BinaryIO) -> DeepPixels:
    """Decodes the first page of a TIFF file of 16 bits or floats a channel.

    Args:
        file: The file.

    Raises:
        UnsupportedPixelsError: Its pixels are of another kind.
        Exception: The file is damaged.
    """
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page: Any = tiff.pages[0]
        kind = str(page.dtype)
        if kind not in ("uint16", "float16", "float32", "float64") or page.bitspersample not in (16, 32, 64):
            raise UnsupportedPixelsError(f"channels of {page.bitspersample} bits, {kind}")
        extra = page.extrasamples
        photometric = int(page.photometric)
        count = page.samplesperpixel - len(extra)
        if photometric not in (MIN_IS_WHITE, MIN_IS_BLACK, RGB) or count != (3 if photometric == RGB else 1):
            raise UnsupportedPixelsError(f"{page.samplesperpixel} channels of the kind {page.photometric.name}")
        pixels = page.asarray(maxworkers=1)
        if page.samplesperpixel > 1 and int(page.planarconfig) == 2:
            pixels = np.moveaxis(pixels, 0, -1)
        pixels = pixels.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
        notes = []
        if kind == "float64":
            notes.append("floats of 64 bits were rounded to 32")
        if kind != "uint16":
            pixels = pixels.astype(np.float32)
        white = WHITE_LEVELS[pixels.dtype]
        colors = pixels[..., :count]
        if photometric == MIN_IS_WHITE:
            colors = (white - colors).astype(pixels.dtype)
        alpha = None
        if extra and int(extra[0]) in (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA):
            alpha = np.clip(pixels[..., count], 0, int(white)).copy()
            if int(extra[0]) == ASSOCIATED_ALPHA:
                colors = _unassociate(colors, alpha, white)
        if len(extra) > (alpha is not None):
            notes.append(f"left out: {format_count(len(extra) - (alpha is not None), 'further channel')} of the TIFF file")
        return DeepPixels(
            np.ascontiguousarray(colors[..., 0] if count == 1 else colors),
            alpha,
            tuple(notes),
        )


def _unassociate(colors: NDArray[Any], alpha: NDArray[Any], white: float) -> NDArray[Any]:
    """Divides colors by the transparency that they were multiplied with."""
    share = alpha[..., None].astype(np.float64) / white
    straight: NDArray[Any] = np.divide(colors, share, out=np.zeros(colors.shape), where=share > 0)
    if colors.dtype == np.uint16:
        straight = np.rint(np.clip(straight, 0, white))
    return straight.astype(colors.dtype)


def encode_png(pixels: NDArray[np.uint16]) -> bytes:
    """Encodes uint16 pixels, (H, W) or (H, W, C), as a PNG file without metadata."""
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), **PNG_ENCODER))


def encode_tiff(pixels: NDArray[Any]) -> bytes:
    """Encodes uint16 or float32 pixels, (H, W) or (H, W, C), as a TIFF file without metadata, compressed by deflate."""
    is_gray = pixels.ndim == 2 or pixels.shape[2] == 2
    has_alpha = pixels.ndim == 3 and pixels.shape[2] in (2, 4)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        np.ascontiguousarray(pixels),
        photometric="minisblack" if is_gray else "rgb",
        extrasamples=["unassalpha"] if has_alpha else None,
        planarconfig="contig" if pixels.ndim == 3 else None,
        compression="zlib",
        predictor=True,
        rowsperstrip=max(1, (1 << 20) // max(1, pixels.nbytes // len(pixels))),
        metadata=None,
        software="",
    )
    return buffer.getvalue()
