"""Unwind: let go of what the frames of a failed call still hold.

An exception keeps its frames, and those their variables: engines and builders would live on until somebody drops the exception,
after the GPU was closed under them, which TensorRT does not survive.
"""

from __future__ import annotations

import traceback


def drop_variables(error: BaseException | None) -> None:
    """Clear the variables of every frame that the exception and those behind it went through; frames that still run keep theirs."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
