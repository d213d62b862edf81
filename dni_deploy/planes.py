"""Planes: one picture as float32 planes through a session, for programs whose pictures are not 8 bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError
from dni_deploy.imaging.frames import mirror_indices, padded_size
from dni_deploy.session.session import Session


def render_planes(session: Session, planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (3, H, W), RGB, black 0 and white 1 -> float32 (3, scale * H, scale * W), a fresh array.

    As Session.render, without its rounding and its limits: what lies below black or above white goes in, and may come out.
    Raises EngineError where the output holds a NaN or an infinity.
    """
    signature = session.signature
    span = np.float32(signature.high - signature.low)
    _, height, width = planes.shape
    padded_height, padded_width = padded_size(height, width, signature.multiple)
    x = np.empty((3, padded_height, padded_width), np.float32)
    x[:, :height, :width] = planes * span + np.float32(signature.low)
    if padded_height > height:
        x[:, height:, :width] = x[:, mirror_indices(height, padded_height - height), :width]
    if padded_width > width:
        x[:, :, width:] = x[:, :, mirror_indices(width, padded_width - width)]
    y = session.infer(x[:, None] if signature.input_channels == 1 else x[None])
    scale = signature.scale
    pixels: NDArray[np.float32] = y.reshape(3, scale * padded_height, scale * padded_width)[
        :, : scale * height, : scale * width
    ]
    if not np.isfinite(pixels).all():
        raise EngineError("The network's output holds values that are NaN or infinite; check the picture and the value range.")
    if signature.residual:
        pixels = planes - pixels / span
    else:
        pixels = (pixels - np.float32(signature.low)) / span
    return pixels
