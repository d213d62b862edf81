"""A frame as a data URI: lossless unless asked otherwise."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from dni_deploy.imaging.frame_encoding import encode_data_uri


def test_images_are_embedded_losslessly_and_reduced_only_on_request() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (30, 60, 3), np.uint8)

    def decode(uri: str) -> Image.Image:
        return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))

    assert np.array_equal(np.asarray(decode(encode_data_uri(frame))), frame)
    assert decode(encode_data_uri(frame, 60)).size == (60, 30)
    assert decode(encode_data_uri(frame, 20)).size == (20, 10)
    assert encode_data_uri(frame, lossless=False).startswith("data:image/jpeg;base64,")
