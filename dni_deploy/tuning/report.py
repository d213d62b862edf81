"""What a search found: every blend that was evaluated, the best by each metric, and the Pareto front where several disagree."""

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
    """One blend.

    Attributes:
        coefficients: In family order, summing to 1.
        values: The mean over the images of each metric.
    """

    coefficients: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class TuneReport:
    """What a search found.

    Attributes:
        bundle: Its path, for the command to run next.
        members: The family's.
        engine: Its name.
        engine_reason: Why this engine was chosen.
        scores: The metrics.
        evaluations: Every blend evaluated, in the order of the search, the members themselves among them.
        best_indices: For each metric the index of its best evaluation.
        front: With several metrics: indices of the evaluations that none beats in all of them, sorted by the first; else empty.
        chosen_index: The evaluation to use: the best, or with several metrics the front's knee point.
        image_count: Number of images.
        change_seconds: Median time of the change of alpha in the running engine.
        frame_seconds: Median time of one image.
        seconds: Time of the whole search.
        notes: What was left out or assumed, a sentence each.
        files: What was written.
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
        """The evaluations that are one member by itself, in family order."""
        order = {evaluation.coefficients: index for index, evaluation in enumerate(self.evaluations)}
        count = len(self.members)
        return tuple(order[tuple(float(place == index) for place in range(count))] for index in range(count))

    def find_best_member(self, metric_index: int) -> int:
        """Returns the evaluation of the member that is best alone by a metric."""
        score = self.scores[metric_index]
        return max(self.single_member_indices, key=lambda index: score.to_utility(self.evaluations[index].values[metric_index]))

    def compute_gain(self, metric_index: int) -> float:
        """Returns how much the best evaluation is better than the better member alone, in the metric's own unit; >= 0."""
        score = self.scores[metric_index]
        best, member = (
            self.evaluations[index].values[metric_index]
            for index in (self.best_indices[metric_index], self.find_best_member(metric_index))
        )
        return 0.0 if best == member else score.to_utility(best) - score.to_utility(member)

    def format_finding(self) -> tuple[str, ...]:
        """Returns a sentence for each metric, and one for the knee point where there are several."""
        sentences = []
        for metric_index, score in enumerate(self.scores):
            best_index = self.best_indices[metric_index]
            value = score.format_value(self.evaluations[best_index].values[metric_index])
            if best_index in self.single_member_indices:
                gain = "; no blend is better than that member alone."
            else:
                gain = f", {_format_amount(self.compute_gain(metric_index), score)} better than the better member alone."
            sentences.append(f"Best by {score.name}: {value} at {self._describe_alpha(best_index)}{gain}")
        if self.front:
            values = zip(self.scores, self.evaluations[self.chosen_index].values, strict=True)
            listed = ", ".join(f"{score.name} {score.format_value(value)}" for score, value in values)
            where = self._describe_alpha(self.chosen_index)
            if len(self.front) == 1:
                sentences.append(f"One blend is the best by every metric, {where}: {listed}.")
            else:
                sentences.append(f"Of {len(self.front)} blends on the front, {where} is the best compromise: {listed}.")
        return tuple(sentences)

    def _describe_alpha(self, index: int) -> str:
        return describe_coefficients(self.members, self.evaluations[index].coefficients)

    def format_alpha(self) -> str:
        """Returns the chosen alpha as `--alpha` takes it."""
        coefficients = self.evaluations[self.chosen_index].coefficients
        return ",".join(
            f"{escape_name(name)}={share:g}" for name, share in zip(self.members, coefficients, strict=True) if share
        )

    def format_next_command(self) -> str:
        """Returns the command to run next, quoted for a shell."""
        return f"dni-deploy run {shlex.quote(self.bundle)} in.png -o out.png --alpha {shlex.quote(self.format_alpha())}"

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
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
                    "alpha": self._alpha_by_member(self.best_indices[metric_index]),
                    "value": to_json_number(self.evaluations[self.best_indices[metric_index]].values[metric_index]),
                    "gain": to_json_number(self.compute_gain(metric_index)),
                }
                for metric_index, score in enumerate(self.scores)
            ],
            "members_alone": {
                name: self._values_by_metric(index)
                for name, index in zip(self.members, self.single_member_indices, strict=True)
            },
            "front": list(self.front),
            "chosen": self.chosen_index,
            "evaluations": [
                {"alpha": self._alpha_by_member(index), **self._values_by_metric(index)}
                for index in range(len(self.evaluations))
            ],
            "finding": list(self.format_finding()),
            "images": self.image_count,
            "change_ms": self.change_seconds * 1e3,
            "frame_ms": self.frame_seconds * 1e3,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "files": list(self.files),
        }

    def _alpha_by_member(self, index: int) -> dict[str, float]:
        return dict(zip(self.members, self.evaluations[index].coefficients, strict=True))

    def _values_by_metric(self, index: int) -> dict[str, float | None]:
        values = self.evaluations[index].values
        return {score.name: to_json_number(value) for score, value in zip(self.scores, values, strict=True)}


def _format_amount(value: float, score: Metric) -> str:
    return f"{value:.2f} {score.unit}" if score.unit else f"{value:.4g}"


def sort_front(evaluations: Sequence[Evaluation], front: Sequence[int], first_score: Metric) -> tuple[int, ...]:
    """Sorts a Pareto front from the first metric's best end to the other one.

    Args:
        evaluations: All evaluations.
        front: Indices of those on the front.
        first_score: The metric to sort by.
    """
    return tuple(sorted(front, key=lambda index: -first_score.to_utility(evaluations[index].values[0])))
