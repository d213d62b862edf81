"""The check that two frames can be compared."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from dni_deploy.errors import MismatchError


def check_same_size(metric: str, output: NDArray[Any], reference: NDArray[Any], min_side_px: int = 1) -> None:
    """Checks that two frames (H, W, ...) have one shape and are large enough for a metric.

    Raises:
        MismatchError: The shapes differ, or a side is below `min_side_px`.
    """
    if output.shape != reference.shape or min(output.shape[:2], default=0) < min_side_px:
        least = f", at least {min_side_px} pixels a side" if min_side_px > 1 else ""
        raise MismatchError(
            f"{metric} compares two images of one size{least}; got {_format_size(output)} and {_format_size(reference)}."
        )


def _format_size(frame: NDArray[Any]) -> str:
    return f"{frame.shape[1]}x{frame.shape[0]}" if frame.ndim >= 2 else str(frame.shape)
