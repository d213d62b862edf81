"""LPIPS: a learned perceptual distance, for users who have the package `lpips` and its weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from dni_deploy.errors import UnavailableError, escape_name
from dni_deploy.imaging.frames import Frame


@cache
def _load_network() -> Any:
    try:
        import lpips
    except ImportError as error:
        raise UnavailableError(
            "The metric lpips needs the package 'lpips', which is not installed (pip install lpips); haarpsi needs no weights "
            "and agrees better with people."
        ) from error
    try:
        return lpips.LPIPS(net="alex", verbose=False).eval()
    except Exception as error:  # its backbone is downloaded at first use
        raise UnavailableError(
            f"The package 'lpips' could not load its network ({type(error).__name__}: {escape_name(error)})."
        ) from error


def lpips_distance(output: Frame, reference: Frame) -> float:
    """Computes LPIPS with AlexNet, as its authors advise for comparing.

    Args:
        output: uint8 (H, W, 3).
        reference: Of the same shape.

    Returns:
        The distance; 0 for equal frames, more is worse.

    Raises:
        UnavailableError: The package or its weights are absent.

    Source: Zhang et al., CVPR 2018.
    """
    network = _load_network()
    import torch

    first, second = (
        torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1))[None].astype(np.float32) / 127.5 - 1)
        for frame in (output, reference)
    )
    with torch.inference_mode():
        return float(network(first, second))
