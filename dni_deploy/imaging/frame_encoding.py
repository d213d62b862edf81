"""A frame encoded for a page: a PNG file, or a data URI."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from dni_deploy.imaging.frames import Frame


def encode_data_uri(frame: Frame, max_side_px: int | None = None, *, lossless: bool = True) -> str:
    """Encodes a frame as a data URI.

    Args:
        frame: uint8 (H, W, 3).
        max_side_px: Longest side of the image on the page; larger frames are reduced.
        lossless: As PNG; otherwise as JPEG of quality 95.
    """
    image = Image.fromarray(frame)
    if max_side_px is not None:
        image.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    data = _encode(image, "PNG") if lossless else _encode(image, "JPEG", quality=95, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def encode_png(frame: Frame, **options: Any) -> bytes:
    """Encodes a frame as a PNG file.

    Args:
        frame: uint8 (H, W, 3), or (H, W, 4) with transparency.
        **options: Of Pillow's encoder, such as compress_level.
    """
    return _encode(Image.fromarray(frame), "PNG", **options)


def _encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()
