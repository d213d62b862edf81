"""Tune report: every blend that was evaluated, the best by each measure, and the front where several disagree."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dni_deploy.errors import escape_name
from dni_deploy.imaging.metrics.psnr import to_json_number
from dni_deploy.imaging.metrics.registry import Metric
from dni_deploy.reports.sweep import describe_coefficients


@dataclass(frozen=True)
class Evaluation:
    """One blend: shares in family order, and the mean over the pictures of each measure."""

    coefficients: tuple[float, ...]
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
    engine_reason: str
    scores: tuple[Metric, ...]
    evaluations: tuple[Evaluation, ...]
    best_indices: tuple[int, ...]
    front: tuple[int, ...]
    chosen_index: int
    image_count: int
    change_seconds: float
    frame_seconds: float
    seconds: float
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def single_member_indices(self) -> tuple[int, ...]:
        """The rows that are one member by itself, in family order."""
        order = {row.coefficients: index for index, row in enumerate(self.evaluations)}
        return tuple(
            order[tuple(float(place == index) for place in range(len(self.members)))] for index in range(len(self.members))
        )

    def find_best_member(self, metric_index: int) -> int:
        """The row of the member that is best alone by that measure."""
        score = self.scores[metric_index]
        return max(self.single_member_indices, key=lambda index: score.to_utility(self.evaluations[index].values[metric_index]))

    def compute_gain(self, metric_index: int) -> float:
        """How much the best row is better than the better member alone, in the measure's own unit; >= 0."""
        score = self.scores[metric_index]
        best, member = (
            self.evaluations[index].values[metric_index]
            for index in (self.best_indices[metric_index], self.find_best_member(metric_index))
        )
        return 0.0 if best == member else score.to_utility(best) - score.to_utility(member)

    def format_finding(self) -> tuple[str, ...]:
        """A sentence for each measure, and one for the knee where there are several."""
        told = []
        for measure, score in enumerate(self.scores):
            row = self.evaluations[self.best_indices[measure]]
            text = f"Best by {score.name}: {score.format_value(row.values[measure])} at {describe_coefficients(self.members, row.coefficients)}"
            if self.best_indices[measure] in self.single_member_indices:
                told.append(f"{text}; no blend is better than that member alone.")
            else:
                told.append(f"{text}, {_format_amount(self.compute_gain(measure), score)} better than the better member alone.")
        if self.front:
            row = self.evaluations[self.chosen_index]
            values = ", ".join(
                f"{score.name} {score.format_value(value)}" for score, value in zip(self.scores, row.values, strict=True)
            )
            told.append(
                f"The best compromise of {len(self.front)} on the front is {describe_coefficients(self.members, row.coefficients)}: {values}."
            )
        return tuple(told)

    def format_alpha(self) -> str:
        """The chosen alpha as `--alpha` takes it."""
        return ",".join(
            f"{escape_name(name)}={share:g}"
            for name, share in zip(self.members, self.evaluations[self.chosen_index].coefficients, strict=True)
            if share
        )

    def format_next_command(self) -> str:
        """The command to run next, quoted for a shell."""
        return f"dni-deploy run {shlex.quote(self.bundle)} in.png -o out.png --alpha {shlex.quote(self.format_alpha())}"

    def to_json(self) -> dict[str, Any]:
        return {
            "members": list(self.members),
            "engine": self.engine,
            "engine_reason": self.engine_reason,
            "metrics": [
                {"name": score.name, "unit": score.unit, "higher_is_better": score.higher_is_better} for score in self.scores
            ],
            "alpha": self._alpha_by_member(self.chosen_index),
            "next": self.format_next_command(),
            "best": [
                {
                    "metric": score.name,
                    "alpha": self._alpha_by_member(self.best_indices[measure]),
                    "value": to_json_number(self.evaluations[self.best_indices[measure]].values[measure]),
                    "gain": to_json_number(self.compute_gain(measure)),
                }
                for measure, score in enumerate(self.scores)
            ],
            "members_alone": {
                name: dict(zip((s.name for s in self.scores), map(to_json_number, self.evaluations[index].values), strict=True))
                for name, index in zip(self.members, self.single_member_indices, strict=True)
            },
            "front": list(self.front),
            "chosen": self.chosen_index,
            "evaluations": [
                {
                    "alpha": self._alpha_by_member(index),
                    **{score.name: to_json_number(value) for score, value in zip(self.scores, row.values, strict=True)},
                }
                for index, row in enumerate(self.evaluations)
            ],
            "finding": list(self.format_finding()),
            "pictures": self.image_count,
            "change_ms": self.change_seconds * 1e3,
            "frame_ms": self.frame_seconds * 1e3,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "files": list(self.files),
        }

    def _alpha_by_member(self, index: int) -> dict[str, float]:
        return dict(zip(self.members, self.evaluations[index].coefficients, strict=True))


def _format_amount(value: float, score: Metric) -> str:
    return f"{value:.2f} {score.unit}" if score.unit else f"{value:.4g}"


def sort_front(evaluations: Sequence[Evaluation], front: Sequence[int], first_score: Metric) -> tuple[int, ...]:
    """The front from the first measure's best end to the other one."""
    return tuple(sorted(front, key=lambda index: -first_score.to_utility(evaluations[index].values[0])))
