"""A frame as the text of a page: a data URI."""

from __future__ import annotations

import base64
import io

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
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
