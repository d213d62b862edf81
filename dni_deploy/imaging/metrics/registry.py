"""Scores: the measures that say how good a picture is beside its reference, by the names that `--metric` takes.

    psnr       peak signal-to-noise ratio in dB, higher is better
    ssim       structural similarity (Wang et al. 2004), 1 is best
    haarpsi    what the eye sees, without learned weights: HaarPSI (Reisenhofer et al. 2018), 1 is best
    ciede2000  mean colour difference, in units of which about 1 is just noticed; lower is better
    lpips      learned perceptual distance (Zhang et al. 2018), where the user has the package `lpips`; lower is better

or a function of the user's own: package.module:function, higher is better; min:package.module:function, lower is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dni_deploy.errors import DniError, UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.utils.import_path import import_function
from dni_deploy.utils.optional_packages import import_optional


@dataclass(frozen=True)
class Metric:
    """One measure: measure(picture, reference) -> a number, both uint8 (H, W, 3) of one size.

    unit    "dB", or "" for a bare number.
    higher  whether more is better.
    told    a number for people, where unit and four decimals will not do.
    """

    name: str
    unit: str
    higher_is_better: bool
    measure: Callable[[Frame, Frame], float]
    formatter: Callable[[float], str] | None = None

    def to_utility(self, value: float) -> float:
        """The number with its sign turned where less is better: what a search climbs."""
        return value if self.higher_is_better else -value

    def format_value(self, value: float) -> str:
        """For people: "27.31 dB", "0.9136", or "identical"."""
        if math.isinf(value):
            return "identical" if self.to_utility(value) > 0 else "infinite"
        if self.formatter is not None:
            return self.formatter(value)
        return f"{value:.2f} {self.unit}" if self.unit else f"{value:.4f}"


_BUILT_IN_METRICS = {
    "psnr": ("dni_deploy.imaging.metrics.psnr", "psnr", "dB", True),
    "ssim": ("dni_deploy.imaging.metrics.ssim", "ssim", "", True),
    "haarpsi": ("dni_deploy.imaging.metrics.haarpsi", "haarpsi", "", True),
    "ciede2000": ("dni_deploy.imaging.metrics.ciede2000", "ciede2000", "", False),
    "lpips": ("dni_deploy.imaging.metrics.lpips", "lpips_distance", "", False),
}
METRIC_NAMES = tuple(_BUILT_IN_METRICS)


def find_metric(name: str) -> Metric:
    """The measure of that name. Raises UsageError for none, UnavailableError where its package is not installed."""
    if name in _BUILT_IN_METRICS:
        module, function, unit, higher = _BUILT_IN_METRICS[name]
        return Metric(name, unit, higher, getattr(import_optional(module), function))
    lower = name.startswith("min:")
    spelled = name.removeprefix("min:")
    if ":" not in spelled:
        raise UsageError(
            f"There is no metric {escape_name(name)!r}; there are {', '.join(METRIC_NAMES)}, or your own function as package.module:function "
            "(min:package.module:function where less is better)."
        )
    return Metric(spelled, "", not lower, _wrap_user_metric(spelled, import_function(spelled, "a number for two pictures")))


def _wrap_user_metric(name: str, function: Callable[..., Any]) -> Callable[[Frame, Frame], float]:
    """The user's function; what goes wrong in it is told as theirs, and it cannot change the pictures."""

    def measure(output: Frame, reference: Frame) -> float:
        try:
            value = function(output.copy(), reference.copy())
        except DniError:
            raise
        except Exception as error:
            raise UsageError(
                f"The metric {escape_name(name)!r} failed: {type(error).__name__}: {escape_name(error)}"
            ) from error
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise UsageError(
                f"The metric {escape_name(name)!r} gave a {type(value).__name__}; it must give one number."
            ) from None
        if math.isnan(number):
            raise UsageError(
                f"The metric {escape_name(name)!r} gave NaN; it must give a number for any two pictures of one size."
            )
        return number

    return measure
