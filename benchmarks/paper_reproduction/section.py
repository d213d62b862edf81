"""Section: one claim of the paper and what this run found, as the page and the JSON file tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Direction = Literal["at least", "at most", "above", "below"]


@dataclass(frozen=True)
class FigureImage:
    """A figure: the stem of its file, the PNG itself (under 400 kB, see drawing.png), and what is to be seen."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Table:
    """Rows of numbers or words under their columns; `digits` behind the point of every float."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str | float, ...], ...]
    digits: int = 2

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"every row needs {len(self.columns)} cells: {self.columns}")


@dataclass(frozen=True)
class ReproductionGoal:
    """One number with its bound; the page's verdict is made of these and of nothing else."""

    text: str
    value: float
    direction: Direction
    bound: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether the bound is met; a NaN meets none."""
        return {
            "at least": self.value >= self.bound,
            "at most": self.value <= self.bound,
            "above": self.value > self.bound,
            "below": self.value < self.bound,
        }[self.direction]


@dataclass(frozen=True)
class Section:
    """What a figure's module returns.

    title, claim   a heading, and what the paper says, in one or two sentences with the place in the paper.
    how            what was run here: data, measure, path.
    images, tables, goals   what was found. At least one goal.
    otherwise      why, where a goal is missed; printed only then.
    note           one more thing that is true whatever the numbers are (a stand-in, a difference from the paper).
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
        """All but the images' bytes; floats as they are."""
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
    """A goal from its JSON."""
    return ReproductionGoal(
        row["text"], float("nan") if row["value"] is None else row["value"], row["direction"], row["bound"], row["unit"]
    )
