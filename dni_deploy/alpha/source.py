"""Alpha input: whatever a user may give for alpha over time, as one AlphaSource."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dni_deploy.alpha.coefficients import Alpha
from dni_deploy.alpha.curves import AlphaCurve, is_curve
from dni_deploy.alpha.log import AlphaLog
from dni_deploy.alpha.plane_path import PlanePath
from dni_deploy.alpha.timeline import AlphaSource, AlphaTimeline
from dni_deploy.errors import InputError, UsageError, escape_name
from dni_deploy.utils.text_file import as_text, load_json, read_bytes

ALPHA_FILE_SUFFIXES = (".json", ".csv", ".jsonl")


def as_alpha_source(
    alpha: Alpha | AlphaSource | str | os.PathLike[str],
    members: Sequence[str],
    *,
    fps: float | None = None,
    extrapolate: bool = False,
) -> AlphaSource:
    """Whatever a caller may give: an AlphaSource as it is, text or a path as open_alpha_source takes them, or one alpha for all frames.

    Raises what open_alpha_source does.
    """
    if isinstance(alpha, str | os.PathLike):
        return open_alpha_source(alpha, members, fps=fps, extrapolate=extrapolate)
    if hasattr(alpha, "at"):
        return alpha
    return AlphaTimeline.from_keyframes([(0.0, alpha)], members, extrapolate=extrapolate)


def is_constant(source: AlphaSource) -> bool:
    """Whether it is the same for every frame."""
    return isinstance(source, AlphaTimeline) and len(source.times) == 1


def open_alpha_source(
    alpha: str | os.PathLike[str],
    members: Sequence[str],
    *,
    fps: float | None = None,
    interpolation: str | None = None,
    loop: bool | None = None,
    extrapolate: bool = False,
) -> AlphaSource:
    """Read what stands behind --alpha.

    "0.35", "psnr=0.3,gan=0.7"                      one alpha for all frames
    "0:gan=0, 2.5s:gan=1"                           a timeline
    "sine(period=4s, from=psnr, to=gan)"            a curve without end
    a path that ends in .json, .csv or .jsonl       a file: JSON of keyframes, of a way through a
                                                    plane, or of a curve; CSV; a performance's side file

    fps             the frame rate, for what mixes seconds and frames.
    interpolation, loop   go before what the timeline itself says; a curve and a side file have no use for them.
    Raises UsageError, CoefficientsError, InputError, MismatchError, LimitError: one sentence that names the place.
    """
    if isinstance(alpha, str) and not alpha.strip().lower().endswith(ALPHA_FILE_SUFFIXES):
        if is_curve(alpha):
            _reject_options(interpolation, loop, "A curve")
            return AlphaCurve.parse(alpha, members, fps=fps, extrapolate=extrapolate)
        return AlphaTimeline.parse(alpha, members, fps=fps, interpolation=interpolation, loop=loop, extrapolate=extrapolate)
    path = Path(alpha.strip() if isinstance(alpha, str) else alpha)
    if path.suffix.lower() == ".jsonl":
        _reject_options(interpolation, loop, "The side file of a performance")
        return AlphaLog.read(path, members)
    if path.suffix.lower() == ".json":
        try:
            fields = load_json(as_text(read_bytes(path)))
        except UsageError as error:
            raise InputError(f"{escape_name(path)}: {error}") from None
        kinds = {"plane": "A way through a plane", "curve": "A curve"}
        kind = next((key for key in kinds if isinstance(fields, dict) and key in fields), None)
        if kind is not None:
            _reject_options(interpolation, loop, kinds[kind])
            try:
                if kind == "plane":
                    return PlanePath.from_json(fields, members, fps=fps)
                return AlphaCurve.from_json(fields, members, fps=fps, extrapolate=extrapolate)
            except UsageError as error:
                raise InputError(f"{escape_name(path)}: {error}") from None
    return AlphaTimeline.read(path, members, fps=fps, interpolation=interpolation, loop=loop, extrapolate=extrapolate)


def _reject_options(interpolation: str | None, loop: bool | None, what: str) -> None:
    if interpolation is not None or loop is not None:
        raise UsageError(f"{what} has its own course; an interpolation or a loop cannot be given with it.")
