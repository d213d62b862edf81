"""One claim of the paper and the result of this run, for the page and the JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Direction = Literal["at least", "at most", "above", "below"]


@dataclass(frozen=True)
class FigureImage:
    """A figure: the stem of its file, the PNG itself (under 400 kB, see drawing.png), and its caption."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of numbers or words under their columns; `digits` decimals for every float."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]
    digits: int = 2

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"every row needs {len(self.columns)} cells: {self.columns}")


@dataclass(frozen=True)
class ReproductionGoal:
    """One number with its bound; the page's verdict depends on these alone."""

    text: str
    value: float
    direction: Direction
    bound: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether the bound is met; NaN meets none."""
        return {
            "at least": self.value >= self.bound,
            "at most": self.value <= self.bound,
            "above": self.value > self.bound,
            "below": self.value < self.bound,
        }[self.direction]


@dataclass(frozen=True)
class Section:
    """The result of a figure module.

    title, claim   a heading, and what the paper says, in one or two sentences with the place in the paper.
    how            what was run here: data, measure, path.
    pictures, tables, goals   the results; at least one goal.
    otherwise      the reason if a goal is missed; printed only then.
    note           a remark that does not depend on the numbers (a substitute, a difference from the paper).
    """

    title: str
    claim: str
    how: str
    goals: tuple[ReproductionGoal, ...]
    pictures: tuple[FigureImage, ...] = ()
    tables: tuple[Table, ...] = ()
    otherwise: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if not self.goals:
            raise ValueError(f"{self.title}: a section without a number that could miss its bound claims nothing")

    def to_json(self) -> dict[str, Any]:
        """Returns everything but the bytes of the images; floats are not rounded."""
        return {
            "title": self.title,
            "claim": self.claim,
            "how": self.how,
            "pictures": [{"name": picture.name, "caption": picture.caption} for picture in self.pictures],
            "tables": [
                {"columns": list(table.columns), "rows": [list(row) for row in table.rows], "digits": table.digits}
                for table in self.tables
            ],
            "goals": [
                {"text": goal.text, "value": goal.value, "direction": goal.direction, "bound": goal.bound, "unit": goal.unit}
                for goal in self.goals
            ],
            "otherwise": self.otherwise,
            "note": self.note,
        }


def goal_of(row: Mapping[str, Any]) -> ReproductionGoal:
    """Reads a goal from its JSON."""
    return ReproductionGoal(
        row["text"], float("nan") if row["value"] is None else row["value"], row["direction"], row["bound"], row["unit"]
    )
