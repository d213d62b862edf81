"""Tune report: every blend that was evaluated, the best by each measure, and the front where several disagree."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dni_deploy.errors import shown
from dni_deploy.imaging.metrics import Score
from dni_deploy.imaging.metrics.psnr import json_number
from dni_deploy.reports.sweep import shares_text


@dataclass(frozen=True)
class Evaluation:
    """One blend: shares in family order, and the mean over the pictures of each measure."""

    shares: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class TuneReport:
    """What was found.

    bundle      its path, for the line to run next.
    scores      the measures that were asked for.
    rows        every blend evaluated, in the order of the search, the members themselves among them.
    bests       for each measure the index of its best row.
    front       with several measures: indices of the rows that none beats in all of them, by the first measure; else empty.
    chosen      the row to take: the best, or with several measures the front's knee.
    change_seconds, frame_seconds   medians over the rows: the change of alpha in the running engine, and one picture.
    notes       what was left out or assumed, a sentence each.  files: what was written.
    """

    bundle: str
    members: tuple[str, ...]
    engine: str
    engine_why: str
    scores: tuple[Score, ...]
    rows: tuple[Evaluation, ...]
    bests: tuple[int, ...]
    front: tuple[int, ...]
    chosen: int
    pictures: int
    change_seconds: float
    frame_seconds: float
    seconds: float
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def alone(self) -> tuple[int, ...]:
        """The rows that are one member by itself, in family order."""
        order = {row.shares: index for index, row in enumerate(self.rows)}
        return tuple(
            order[tuple(float(place == index) for place in range(len(self.members)))] for index in range(len(self.members))
        )

    def better_member(self, measure: int) -> int:
        """The row of the member that is best alone by that measure."""
        score = self.scores[measure]
        return max(self.alone, key=lambda index: score.utility(self.rows[index].values[measure]))

    def gain(self, measure: int) -> float:
        """How much the best row is better than the better member alone, in the measure's own unit; >= 0."""
        score = self.scores[measure]
        best, member = (self.rows[index].values[measure] for index in (self.bests[measure], self.better_member(measure)))
        return 0.0 if best == member else score.utility(best) - score.utility(member)

    def finding(self) -> tuple[str, ...]:
        """A sentence for each measure, and one for the knee where there are several."""
        told = []
        for measure, score in enumerate(self.scores):
            row = self.rows[self.bests[measure]]
            text = f"Best by {score.name}: {score.text(row.values[measure])} at {shares_text(self.members, row.shares)}"
            if self.bests[measure] in self.alone:
                told.append(f"{text}; no blend is better than that member alone.")
            else:
                told.append(f"{text}, {_amount(self.gain(measure), score)} better than the better member alone.")
        if self.front:
            row = self.rows[self.chosen]
            values = ", ".join(
                f"{score.name} {score.text(value)}" for score, value in zip(self.scores, row.values, strict=True)
            )
            told.append(
                f"The best compromise of {len(self.front)} on the front is {shares_text(self.members, row.shares)}: {values}."
            )
        return tuple(told)

    def alpha_text(self) -> str:
        """The chosen alpha as `--alpha` takes it."""
        return ",".join(
            f"{shown(name)}={share:g}" for name, share in zip(self.members, self.rows[self.chosen].shares, strict=True) if share
        )

    def next_line(self) -> str:
        """The command to run next, quoted for a shell."""
        return f"dni-deploy run {shlex.quote(self.bundle)} in.png -o out.png --alpha {shlex.quote(self.alpha_text())}"

    def to_json(self) -> dict[str, Any]:
        return {
            "members": list(self.members),
            "engine": self.engine,
            "engine_why": self.engine_why,
            "metrics": [{"name": score.name, "unit": score.unit, "higher_is_better": score.higher} for score in self.scores],
            "alpha": self._alpha(self.chosen),
            "next": self.next_line(),
            "best": [
                {
                    "metric": score.name,
                    "alpha": self._alpha(self.bests[measure]),
                    "value": json_number(self.rows[self.bests[measure]].values[measure]),
                    "gain": json_number(self.gain(measure)),
                }
                for measure, score in enumerate(self.scores)
            ],
            "members_alone": {
                name: dict(zip((s.name for s in self.scores), map(json_number, self.rows[index].values), strict=True))
                for name, index in zip(self.members, self.alone, strict=True)
            },
            "front": list(self.front),
            "chosen": self.chosen,
            "evaluations": [
                {
                    "alpha": self._alpha(index),
                    **{score.name: json_number(value) for score, value in zip(self.scores, row.values, strict=True)},
                }
                for index, row in enumerate(self.rows)
            ],
            "finding": list(self.finding()),
            "pictures": self.pictures,
            "change_ms": self.change_seconds * 1e3,
            "frame_ms": self.frame_seconds * 1e3,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "files": list(self.files),
        }

    def _alpha(self, index: int) -> dict[str, float]:
        return dict(zip(self.members, self.rows[index].shares, strict=True))


def _amount(value: float, score: Score) -> str:
    return f"{value:.2f} {score.unit}" if score.unit else f"{value:.4g}"


def front_in_order(rows: Sequence[Evaluation], kept: Sequence[int], first: Score) -> tuple[int, ...]:
    """The front from the first measure's best end to the other one."""
    return tuple(sorted(kept, key=lambda index: -first.utility(rows[index].values[0])))
