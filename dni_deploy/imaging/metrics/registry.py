"""The image metrics, by the names that `--metric` takes.

    psnr       peak signal-to-noise ratio in dB, higher is better
    ssim       structural similarity (Wang et al. 2004), 1 is best
    haarpsi    perceptual similarity without learned weights: HaarPSI (Reisenhofer et al. 2018), 1 is best
    ciede2000  mean color difference, in units of which about 1 is just noticed; lower is better
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
    """An image metric.

    Attributes:
        name: As the user writes it, without "min:".
        unit: "dB", or "" for a bare number.
        higher_is_better: Whether more is better.
        measure: (output, reference), both uint8 (H, W, 3) of one size -> a number.
        formatter: Formats a number where unit and four decimals will not do.
    """

    name: str
    unit: str
    higher_is_better: bool
    measure: Callable[[Frame, Frame], float]
    formatter: Callable[[float], str] | None = None

    @property
    def given_name(self) -> str:
        """The name as `find_metric` takes it."""
        return self.name if self.higher_is_better or self.name in _BUILT_IN_METRICS else f"min:{self.name}"

    def to_utility(self, value: float) -> float:
        """Converts a value to what a search maximizes: its sign is turned where less is better."""
        return value if self.higher_is_better else -value

    def format_value(self, value: float) -> str:
        """Formats a value: "27.31 dB", "0.9136", or "identical"."""
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
    """Finds a metric by name.

    Args:
        name: One of METRIC_NAMES, or a function of the user's as "package.module:function", with "min:" where less is better.

    Returns:
        The metric.

    Raises:
        UsageError: There is none of that name.
        UnavailableError: Its package is not installed.
    """
    if name in _BUILT_IN_METRICS:
        module, function, unit, higher_is_better = _BUILT_IN_METRICS[name]
        return Metric(name, unit, higher_is_better, getattr(import_optional(module), function))
    path = name.removeprefix("min:")
    if ":" not in path:
        raise UsageError(
            f"There is no metric {escape_name(name)!r}; there are {', '.join(METRIC_NAMES)}, or your own function as "
            "package.module:function (min:package.module:function where less is better)."
        )
    measure = _wrap_user_metric(path, import_function(path, "a number for two images"))
    return Metric(path, "", not name.startswith("min:"), measure)


def _wrap_user_metric(name: str, function: Callable[..., Any]) -> Callable[[Frame, Frame], float]:
    """The user's function; what goes wrong in it is reported as theirs, and it cannot change the frames."""

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
                f"The metric {escape_name(name)!r} gave NaN; it must give a number for any two images of one size."
            )
        return number

    return measure
