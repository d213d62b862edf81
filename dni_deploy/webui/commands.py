"""The command lines that render what the live page shows: `run` or `video` with the alpha of now, `video` with a take."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from dni_deploy.alpha.coefficients import Coefficients
from dni_deploy.alpha.timeline import AlphaTimeline

TAKE_FILE_NAME = "alpha.json"
"""The name under which the page saves a take."""

MAX_INLINE_LENGTH = 1000
"""Characters of a timeline that stand in a command line; a longer one is named by its file."""


@dataclass(frozen=True)
class CommandLines:
    """Makes command lines.

    Attributes:
        bundle: Path of the bundle, as it was given.
        source: Path of what is shown, as it was given; None where it has none.
        is_video: Whether that is a video.
        options: Options of the session, such as ("--precision", "fp16").
    """

    bundle: str
    source: str | None = None
    is_video: bool = False
    options: tuple[str, ...] = ()

    def format_setting(
        self,
        coefficients: Coefficients,
        *,
        shows_source: bool,
        is_video: bool,
        controls: Mapping[str, float] | None = None,
    ) -> str:
        """Formats the command that renders what is shown with one alpha.

        Args:
            coefficients: The alpha.
            shows_source: False where something without a path is shown instead; the command then names a file to replace.
            is_video: Whether what is shown is a video.
            controls: Values of the network's controls.
        """
        has_path = self.source is not None and shows_source
        alpha = format_alpha(coefficients.members, coefficients.values)
        return self._format("video" if is_video else "run", has_path, alpha, format_controls(controls or {}))

    def format_take(self, take: AlphaTimeline, *, shows_source: bool, controls: Mapping[str, float] | None = None) -> str:
        """Formats the command that renders a video with a take; a long take is the file that the page saves."""
        text = format_timeline(take)
        has_path = self.source is not None and self.is_video and shows_source
        alpha = text if len(text) <= MAX_INLINE_LENGTH else TAKE_FILE_NAME
        return self._format("video", has_path, alpha, format_controls(controls or {}))

    def _format(self, command: str, has_path: bool, alpha: str, controls: Sequence[str] = ()) -> str:
        default = "in.mp4" if command == "video" else "in.png"
        path = PurePath(self.source if has_path and self.source is not None else default)
        output = path.with_name(f"{path.stem}-dni{'.mkv' if command == 'video' else '.png'}").name
        words = ["dni-deploy", command, self.bundle, str(path), "-o", output, "--alpha", alpha, *controls, *self.options]
        return shlex.join(words)


def format_controls(values: Mapping[str, float]) -> list[str]:
    """Formats values of controls as words of a command line."""
    return [word for name, value in values.items() for word in ("--control", f"{name}={value!r}")]


def format_alpha(members: tuple[str, ...], values: tuple[float, ...]) -> str:
    """Formats shares so that they are read back bit for bit; of two members, the first one's share where that says it all."""
    if len(values) == 2 and values[1] == 1.0 - values[0]:
        return repr(values[0])
    return ",".join(f"{name}={value!r}" for name, value in zip(members, values, strict=True))


def format_timeline(timeline: AlphaTimeline) -> str:
    """Formats a timeline so that it is read back bit for bit."""
    unit, number = ("f", int) if timeline.unit == "frames" else ("s", float)
    keyframes = zip(timeline.times.tolist(), timeline.coefficients.tolist(), strict=True)
    text = ", ".join(f"{number(time)!r}{unit}:{format_alpha(timeline.members, tuple(values))}" for time, values in keyframes)
    return f"{text}; {timeline.interpolation}{'; loop' if timeline.loop else ''}"
