"""Steering: what a message means for the cell, whoever brought it. What cannot be used is counted and told once; nothing stops."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from dni_deploy.alpha.coefficients import Alpha, Coefficients
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.alpha.simplex import with_coefficient
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import DniError, UsageError, escape_name

ReportMessage = Callable[[str], None]
MAX_LINE_LENGTH = 1 << 16


class AlphaMessageHandler:
    """One feeder's hand on the cell.

    source   as which the cell is told who set it.
    plane    what a point means; None: points are refused.
    tell     is given the first refusal, and at the end how many there were; None: a warning of the logger "dni_deploy.control".
    accepted, refused   counts; last_refusal   the newest sentence, or "".
    """

    def __init__(
        self, shared_alpha: SharedAlpha, source: str, plane: ControlPlane | None = None, report: ReportMessage | None = None
    ) -> None:
        self.shared_alpha, self.source, self.plane = shared_alpha, source, plane
        self.accepted_count = self.refused_count = 0
        self.last_refusal = ""
        self._report = logging.getLogger("dni_deploy.control").warning if report is None else report
        self._lock = threading.Lock()

    def set_alpha(self, alpha: Alpha) -> int:
        """Any alpha; the one member that is left out takes the rest. Raises CoefficientsError, as the others here do."""
        members, extrapolate = self.shared_alpha.members, self.shared_alpha.extrapolate
        coefficients = Coefficients.parse(alpha, members, extrapolate=extrapolate, fill_missing=True)
        return self.shared_alpha.set_alpha(coefficients, self.source)

    def set_coefficient(self, member: str, coefficient: float) -> int:
        """One member's share; the others keep their proportions."""
        extrapolate = self.shared_alpha.extrapolate
        return self.shared_alpha.update(
            lambda wanted: with_coefficient(wanted, member, coefficient, extrapolate=extrapolate), self.source
        )

    def set_point(self, x: float, y: float) -> int:
        """A point of the plane. Raises UsageError: there is no plane, or it is no point."""
        if self.plane is None:
            raise UsageError("A point was sent, and no plane is set up here.")
        return self.shared_alpha.set_alpha(self.plane.at(x, y), self.source)

    def set_from_line(self, text: str) -> int:
        """ "alpha 0.4", "psnr=0.3,gan=0.7", "0.4", "gan 0.7" (the others keep their proportions) or "plane 0.3 0.7"."""
        if len(text) > MAX_LINE_LENGTH:
            raise UsageError(f"The line has {len(text):,} characters; an alpha has at most {MAX_LINE_LENGTH:,}.")
        words = text.split()
        if words and words[0].lower() == "plane":
            return self.set_point(*_parse_numbers(words[1:], 2, "plane"))
        if len(words) == 2 and words[0] in self.shared_alpha.members:
            return self.set_coefficient(words[0], *_parse_numbers(words[1:], 1, words[0]))
        rest = text.strip()
        return self.set_alpha(rest[5:] if words and words[0].lower() == "alpha" else rest)

    def handle_safely(self, action: Callable[[], object]) -> bool:
        """Do it; what goes wrong is counted, never raised."""
        try:
            action()
        except DniError as error:
            self.count_refusal(str(error))
            return False
        except Exception as error:  # a subscriber's own, or a parser that met what it was not made for
            self.count_refusal(f"{type(error).__name__}: {escape_name(error)}")
            return False
        with self._lock:
            self.accepted_count += 1
        return True

    def count_refusal(self, sentence: str) -> None:
        """Count a message that cannot be used; the first one is told."""
        with self._lock:
            self.refused_count += 1
            self.last_refusal = sentence
            first = self.refused_count == 1
        if first:
            self._report(
                f"A message by {self.source} was refused, and alpha stayed as it was: {sentence} Others are only counted."
            )

    def report_refusals(self) -> None:
        """Tell how many were refused, where it was more than the one that was told."""
        if self.refused_count > 1:
            self._report(f"{self.refused_count:,} messages by {self.source} were refused, the last one: {self.last_refusal}")


def _parse_numbers(words: Sequence[str], count: int, what: str) -> list[float]:
    try:
        found = [float(word) for word in words]
    except ValueError:
        found = []
    if len(found) != count:
        raise UsageError(
            f"'{escape_name(what, 60)}' takes {count} number{'s' * (count > 1)}; got {escape_name(' '.join(words), 60)!r}."
        )
    return found
