"""Steering: what a message means for the cell, whoever brought it. What cannot be used is counted and told once; nothing stops."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from dni_deploy.alpha.coefficients import Alpha
from dni_deploy.alpha.plane import ControlPlane
from dni_deploy.alpha.simplex import completed, with_share
from dni_deploy.control.shared_alpha import AlphaCell
from dni_deploy.errors import DniError, UsageError, shown

Tell = Callable[[str], None]
LINE_LIMIT = 1 << 16


class Steering:
    """One feeder's hand on the cell.

    source   as which the cell is told who set it.
    plane    what a point means; None: points are refused.
    tell     is given the first refusal, and at the end how many there were; None: a warning of the logger "dni_deploy.control".
    accepted, refused   counts; last_refusal   the newest sentence, or "".
    """

    def __init__(self, cell: AlphaCell, source: str, plane: ControlPlane | None = None, tell: Tell | None = None) -> None:
        self.cell, self.source, self.plane = cell, source, plane
        self.accepted = self.refused = 0
        self.last_refusal = ""
        self._tell = logging.getLogger("dni_deploy.control").warning if tell is None else tell
        self._lock = threading.Lock()

    def alpha(self, alpha: Alpha) -> int:
        """Any alpha; the one member that is left out takes the rest. Raises CoefficientsError, as the others here do."""
        return self.cell.set(completed(alpha, self.cell.members, extrapolate=self.cell.extrapolate), self.source)

    def share(self, member: str, share: float) -> int:
        """One member's share; the others keep their proportions."""
        extrapolate = self.cell.extrapolate
        return self.cell.update(lambda wanted: with_share(wanted, member, share, extrapolate=extrapolate), self.source)

    def point(self, x: float, y: float) -> int:
        """A point of the plane. Raises UsageError: there is no plane, or it is no point."""
        if self.plane is None:
            raise UsageError("A point was sent, and no plane is set up here.")
        return self.cell.set(self.plane.at(x, y), self.source)

    def line(self, text: str) -> int:
        """ "alpha 0.4", "psnr=0.3,gan=0.7", "0.4", "gan 0.7" (the others keep their proportions) or "plane 0.3 0.7"."""
        if len(text) > LINE_LIMIT:
            raise UsageError(f"The line has {len(text):,} characters; an alpha has at most {LINE_LIMIT:,}.")
        words = text.split()
        if words and words[0].lower() == "plane":
            return self.point(*_numbers(words[1:], 2, "plane"))
        if len(words) == 2 and words[0] in self.cell.members:
            return self.share(words[0], *_numbers(words[1:], 1, words[0]))
        rest = text.strip()
        return self.alpha(rest[5:] if words and words[0].lower() == "alpha" else rest)

    def attempt(self, act: Callable[[], object]) -> bool:
        """Do it; what goes wrong is counted, never raised."""
        try:
            act()
        except DniError as error:
            self.refuse(str(error))
            return False
        except Exception as error:  # a subscriber's own, or a parser that met what it was not made for
            self.refuse(f"{type(error).__name__}: {shown(error)}")
            return False
        with self._lock:
            self.accepted += 1
        return True

    def refuse(self, sentence: str) -> None:
        """Count a message that cannot be used; the first one is told."""
        with self._lock:
            self.refused += 1
            self.last_refusal = sentence
            first = self.refused == 1
        if first:
            self._tell(
                f"A message by {self.source} was refused, and alpha stayed as it was: {sentence} Others are only counted."
            )

    def finish(self) -> None:
        """Tell how many were refused, where it was more than the one that was told."""
        if self.refused > 1:
            self._tell(f"{self.refused:,} messages by {self.source} were refused, the last one: {self.last_refusal}")


def _numbers(words: Sequence[str], count: int, what: str) -> list[float]:
    try:
        found = [float(word) for word in words]
    except ValueError:
        found = []
    if len(found) != count:
        raise UsageError(f"'{shown(what, 60)}' takes {count} number{'s' * (count > 1)}; got {shown(' '.join(words), 60)!r}.")
    return found
