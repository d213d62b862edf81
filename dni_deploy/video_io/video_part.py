"""A part of a video: from one time to another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.utils.moment import Moment, read_moment


@dataclass(frozen=True)
class VideoPart:
    """A part of a video, in seconds from its first frame.

    Attributes:
        start: Where the part begins.
        end: Where it ends; None: with the video.
    """

    start: Fraction
    end: Fraction | None

    @classmethod
    def parse(cls, start: str | None, end: str | None, preview: str | None, frame_rate: Fraction) -> VideoPart | None:
        """Parses a part.

        Args:
            start: A time, such as "1:23", "2.5s" or "75f"; None: the beginning.
            end: A time; None: the end.
            preview: A duration and a time, such as "2s@1:23", in place of both.
            frame_rate: Frames per second, by which frames are counted.

        Returns:
            The part; None for the whole video.

        Raises:
            UsageError: A time is none, or the part is empty.
        """
        if preview is not None:
            if start is not None or end is not None:
                raise UsageError("--preview sets both ends of the part; leave --from and --to out.")
            duration, _, start = preview.partition("@")
            if not duration.strip() or not start.strip():
                raise UsageError(f"--preview {escape_name(preview)} is not DURATION@TIME, such as 2s@1:23.")
            first = _to_seconds(read_moment(start), frame_rate)
            part = cls(first, first + Fraction(_read_duration(duration, frame_rate)))
        elif start is None and end is None:
            return None
        else:
            part = cls(
                Fraction(0) if start is None else _to_seconds(read_moment(start), frame_rate),
                None if end is None else _to_seconds(read_moment(end), frame_rate),
            )
        if part.end is not None and part.end <= part.start:
            raise UsageError(
                f"The part would begin at {float(part.start):g} s and end at {float(part.end):g} s, so it is empty."
            )
        return part

    def find_ticks(self, start_pts: int, time_base: Fraction) -> tuple[int, float]:
        """Returns the first timestamp of the part, and the first one behind it.

        Args:
            start_pts: Timestamp of the video's first frame.
            time_base: Seconds per tick.
        """
        end = math.inf if self.end is None else start_pts + math.ceil(self.end / time_base)
        return start_pts + math.ceil(self.start / time_base), end

    def __str__(self) -> str:
        end = "the end" if self.end is None else f"{float(self.end):g} s"
        return f"{float(self.start):g} s to {end}"


def _to_seconds(moment: Moment, frame_rate: Fraction) -> Fraction:
    """Converts a time to seconds; that of a frame lies half a frame before it, so that rounded timestamps are behind it."""
    if moment.unit == "frames":
        return max(Fraction(0), (Fraction(int(moment.value)) - Fraction(1, 2)) / frame_rate)
    return Fraction(str(moment.value))


def _read_duration(text: str, frame_rate: Fraction) -> Fraction:
    moment = read_moment(text)
    return int(moment.value) / frame_rate if moment.unit == "frames" else Fraction(str(moment.value))
