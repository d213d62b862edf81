"""What a message means for the shared alpha, whoever brought it.

A message that cannot be used is counted and reported once; nothing stops.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from dni_deploy.alpha.coefficients import Alpha, Coefficients, parse_share
from dni_deploy.alpha.member_names import find_member
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.alpha.simplex import with_coefficient
from dni_deploy.control.shared_alpha import SharedAlpha
from dni_deploy.errors import DniError, UsageError, escape_name
from dni_deploy.utils.format_count import format_count

ReportMessage = Callable[[str], None]
"""Takes a sentence for people about messages that were refused."""

MAX_LINE_LENGTH = 1 << 16
log = logging.getLogger(__name__)


class AlphaMessageHandler:
    """Applies the messages of one listener to the shared alpha.

    Attributes:
        accepted_count: Number of messages that have set alpha.
        refused_count: Number of messages that could not be used.
        last_refusal: Why the newest of them was refused, or "".

    Thread safety: any thread may call any method.
    """

    def __init__(
        self, shared_alpha: SharedAlpha, source: str, plane: ControlPlane | None = None, report: ReportMessage | None = None
    ) -> None:
        """Creates a handler.

        Args:
            shared_alpha: What is set.
            source: Who sets it, as SharedAlpha and messages call it.
            plane: What a point means; None refuses points.
            report: Takes the first refusal, and at the end how many there were; None logs them as warnings.
        """
        self.shared_alpha, self.source, self.plane = shared_alpha, source, plane
        self.accepted_count = self.refused_count = 0
        self.last_refusal = ""
        self._has_noted_adjustment = False
        self._report = log.warning if report is None else report
        self._lock = threading.Lock()

    def set_alpha(self, alpha: Alpha) -> int:
        """Sets any alpha; the one member that is left out takes the rest.

        Returns:
            The sequence number of the change.

        Raises:
            CoefficientsError: The alpha cannot be used with this family.
        """
        members, extrapolate = self.shared_alpha.members, self.shared_alpha.extrapolate
        coefficients = Coefficients.parse(alpha, members, extrapolate=extrapolate)
        return self.shared_alpha.set_alpha(coefficients, self.source)

    def set_coefficient(self, member: str, coefficient: float) -> int:
        """Sets one member's share; the others keep their proportions.

        Returns:
            The sequence number of the change.

        Raises:
            CoefficientsError: There is no such member, or the share is out of range.
        """
        extrapolate = self.shared_alpha.extrapolate
        return self.shared_alpha.update(
            lambda requested: with_coefficient(requested, member, coefficient, extrapolate=extrapolate), self.source
        )

    def set_control(self, name: str, value: float) -> int:
        """Sets one of the network's controls.

        Returns:
            The sequence number of the change.

        Raises:
            UsageError: There is no such control, or the value is out of range.
        """
        return self.shared_alpha.set_controls({name: value}, self.source)

    def set_point(self, x: float, y: float) -> int:
        """Sets the alpha at a point of the plane.

        Returns:
            The sequence number of the change.

        Raises:
            UsageError: There is no plane, or the numbers are no point.
        """
        if self.plane is None:
            raise UsageError("A point was sent, and no plane is set up here.")
        return self.shared_alpha.set_alpha(self.plane.at(x, y), self.source)

    def set_from_line(self, text: str) -> int:
        """Sets what a line of text says.

        Args:
            text: "alpha 0.4", "psnr=0.3,gan=0.7", "0.4", "gan 0.7" (the others keep their proportions), "plane 0.3 0.7" or
                "sigma 0.1" of a control.

        Returns:
            The sequence number of the change.

        Raises:
            UsageError: The line is too long, or has a point that cannot be used.
            CoefficientsError: The alpha cannot be used with this family.
        """
        if len(text) > MAX_LINE_LENGTH:
            raise UsageError(f"The line has {len(text):,} characters; an alpha has at most {MAX_LINE_LENGTH:,}.")
        words = text.split()
        if words and words[0].lower() == "plane":
            return self.set_point(*_parse_numbers(words[1:], 2, "plane"))
        if len(words) == 2 and find_member(words[0], self.shared_alpha.members) is not None:
            return self.set_coefficient(words[0], parse_share(words[1]))
        if len(words) == 2 and any(words[0] == control.name for control in self.shared_alpha.controls):
            return self.set_control(words[0], *_parse_numbers(words[1:], 1, words[0]))
        stripped = text.strip()
        return self.set_alpha(stripped[5:] if words and words[0].lower() == "alpha" else stripped)

    def handle_safely(self, action: Callable[[], object]) -> DniError | None:
        """Runs what a message asks for, and counts it as accepted or refused.

        Args:
            action: Sets alpha.

        Returns:
            None, or why alpha could not be set; nothing is raised.
        """
        try:
            action()
        except DniError as error:
            self.count_refusal(str(error))
            return error
        except Exception as error:  # of a subscriber, or of a parser that met what it was not written for
            self.count_refusal(f"{type(error).__name__}: {escape_name(error)}")
            return DniError("The alpha could not be set.")
        with self._lock:
            self.accepted_count += 1
        log.debug("%s set alpha to %s", self.source, self.shared_alpha.state.requested)
        return None

    def count_refusal(self, sentence: str) -> None:
        """Counts a message that cannot be used, and reports the first one.

        Args:
            sentence: Why it cannot be used.
        """
        log.debug("%s sent what cannot be used: %s", self.source, sentence)
        with self._lock:
            self.refused_count += 1
            self.last_refusal = sentence
            is_first = self.refused_count == 1
        if is_first:
            self._report(
                f"A message by {self.source} was refused, and alpha stayed as it was: {sentence} Others are only counted."
            )

    def note_adjustment(self, sentence: str) -> None:
        """Reports that a number was changed before it was used; only the first time.

        Args:
            sentence: What was changed.
        """
        with self._lock:
            is_first, self._has_noted_adjustment = not self._has_noted_adjustment, True
        if is_first:
            self._report(f"A message by {self.source} was adjusted: {sentence} Others are, too, without a word.")

    def report_refusals(self) -> None:
        """Reports how many messages were refused, where it was more than the one that was reported."""
        if self.refused_count > 1:
            self._report(f"{self.refused_count:,} messages by {self.source} were refused, the last one: {self.last_refusal}")


def _parse_numbers(words: Sequence[str], count: int, name: str) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise UsageError(
            f"'{escape_name(name, 60)}' takes {format_count(count, 'number')}; got {escape_name(' '.join(words), 60)!r}."
        )
    return numbers
