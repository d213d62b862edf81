"""Whatever a user may pass for alpha over time, as one AlphaSource."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dni_deploy.alpha.coefficients import Alpha
from dni_deploy.alpha.curves import AlphaCurve, is_curve
from dni_deploy.alpha.log import AlphaLog
from dni_deploy.alpha.plane_path import PlanePath
from dni_deploy.alpha.timeline import AlphaSource, AlphaTimeline
from dni_deploy.errors import UsageError
from dni_deploy.utils.address import as_local_path
from dni_deploy.utils.text_file import name_file_in_errors, read_json

ALPHA_FILE_SUFFIXES = (".json", ".csv", ".jsonl")


def as_alpha_source(
    alpha: Alpha | AlphaSource | str | os.PathLike[str],
    members: Sequence[str],
    *,
    fps: float | None = None,
    extrapolate: bool = False,
) -> AlphaSource:
    """Returns an AlphaSource as it is, and opens anything else.

    Args:
        alpha: An AlphaSource, a text or a path as `open_alpha_source` reads it, or one alpha for all frames.
        members: Names of the family's members.
        fps: Frame rate, for what mixes seconds and frames.
        extrapolate: Whether coefficients outside 0 to 1 are allowed.

    Returns:
        The source. The errors are those of `open_alpha_source`.
    """
    if isinstance(alpha, str | os.PathLike):
        return open_alpha_source(alpha, members, fps=fps, extrapolate=extrapolate)
    if hasattr(alpha, "at"):
        return alpha
    return AlphaTimeline.from_keyframes([(0.0, alpha)], members, extrapolate=extrapolate)


def is_constant(source: AlphaSource) -> bool:
    """Tells whether a source is known to be the same for every frame."""
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
    """Opens an alpha over time as `--alpha` has it.

        "0.35", "psnr=0.3,gan=0.7"                      one alpha for all frames
        "0:gan=0, 2.5s:gan=1"                           a timeline
        "sine(period=4s, from=psnr, to=gan)"            a curve without end
        a path that ends in .json, .csv or .jsonl       a file: JSON of keyframes, of a path on a control plane, or of a
                                                        curve; CSV of keyframes; the alpha log of a performance

    Args:
        alpha: The text or the path.
        members: Names of the family's members.
        fps: Frame rate, for what mixes seconds and frames.
        interpolation: Overrides that of a timeline; curves, paths and logs have none to choose.
        loop: Overrides that of a timeline, likewise.
        extrapolate: Whether coefficients outside 0 to 1 are allowed.

    Returns:
        The source.

    Raises:
        UsageError: The text cannot be read; the message names the keyframe.
        CoefficientsError: An alpha does not fit the family.
        InputError: The file is missing or damaged.
        MismatchError: The log is that of another family.
        LimitError: The text or file is too large.
    """
    text = os.fspath(alpha).strip()
    if isinstance(alpha, str) and not text.lower().endswith(ALPHA_FILE_SUFFIXES):
        if is_curve(alpha):
            _reject_options(interpolation, loop, "A curve")
            return AlphaCurve.parse(alpha, members, fps=fps, extrapolate=extrapolate)
        return AlphaTimeline.parse(alpha, members, fps=fps, interpolation=interpolation, loop=loop, extrapolate=extrapolate)
    path = as_local_path(text if isinstance(alpha, str) else alpha, "an alpha over time")
    if path.suffix.lower() == ".jsonl":
        _reject_options(interpolation, loop, "The alpha log of a performance")
        return AlphaLog.read(path, members)
    fields = read_json(path, "timeline") if path.suffix.lower() == ".json" else None
    if isinstance(fields, dict) and "plane" in fields:
        _reject_options(interpolation, loop, "A path on a control plane")
        with name_file_in_errors(path):
            return PlanePath.from_json(fields, members, fps=fps)
    if isinstance(fields, dict) and "curve" in fields:
        _reject_options(interpolation, loop, "A curve")
        with name_file_in_errors(path):
            return AlphaCurve.from_json(fields, members, fps=fps, extrapolate=extrapolate)
    return AlphaTimeline.read(path, members, fps=fps, interpolation=interpolation, loop=loop, extrapolate=extrapolate)


def _reject_options(interpolation: str | None, loop: bool | None, what: str) -> None:
    if interpolation is not None or loop is not None:
        raise UsageError(f"{what} has its own course; an interpolation or a loop cannot be given with it.")
