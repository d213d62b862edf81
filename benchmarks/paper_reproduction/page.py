"""Generates docs/paper.md from benchmarks/results/paper.json alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.paper_reproduction.section import ReproductionGoal, goal_of


def page(result: Mapping[str, Any]) -> str:
    """Formats the whole page as Markdown, from the result that __main__ writes."""
    machine = result["machine"]
    lines = [
        "# The paper's claims, shown again",
        "",
        "Made by `python -m benchmarks.paper_reproduction` from benchmarks/results/paper.json; do not edit by hand. Every number",
        "and picture comes from the families of benchmarks/families.py, trained by the scripts in",
        "benchmarks/paper_reproduction/train, exported to a bundle and run by the CPU engine. Verdicts are computed from the",
        "numbers. Photographs are those of scikit-image; the ones that are measured on were never trained on.",
        "",
        "In figures and tables, alpha is the share of the *second* network that is named, as in the paper: from N20 to N60, 0.6",
        "is `--alpha n60=0.6` of the commands. There, a number alone is the share of the *first* member: `--alpha 0.4` is the same.",
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores; ONNX Runtime {machine['onnxruntime']}, NumPy {machine['numpy']}, "
        f"Python {machine['python']}.",
        "",
        "| claim | found | goals reached |",
        "|---|---|---|",
    ]
    for name, section in result["sections"].items():
        goals = [goal_of(row) for row in section["goals"]]
        reached = sum(goal.holds for goal in goals)
        word = "holds" if reached == len(goals) else "does not hold" if reached == 0 else "holds in part"
        lines.append(f"| [{section['title']}](#{name}) | {word} | {reached} of {len(goals)} |")
    for name, section in result["sections"].items():
        lines += ["", *_section(name, section)]
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, section: Mapping[str, Any]) -> list[str]:
    lines = [
        f'<a id="{name}"></a>',
        "",
        f"## {section['title']}",
        "",
        f"**The paper:** {section['claim']}",
        "",
        f"**Here:** {section['how']}",
    ]
    for picture in section["pictures"]:
        lines += ["", f"![{picture['caption']}](images/paper/{picture['name']}.png)", "", f"*{picture['caption']}*"]
    for table in section["tables"]:
        lines += ["", f"| {' | '.join(table['columns'])} |", "|" + "---|" * len(table["columns"])]
        lines += [f"| {' | '.join(_cell(cell, table['digits']) for cell in row)} |" for row in table["rows"]]
    goals = [goal_of(row) for row in section["goals"]]
    lines += ["", f"**{verdict(goals)}**", ""]
    lines += [f"* {sentence(goal)}" for goal in goals]
    if section["otherwise"] and not all(goal.holds for goal in goals):
        lines += ["", section["otherwise"]]
    if section["note"]:
        lines += ["", section["note"]]
    lines += ["", f"Commit {section['commit']}, {section['date']}, {section['seconds']:.0f} s."]
    return lines


def verdict(goals: list[ReproductionGoal]) -> str:
    """Says in one sentence whether the claim holds."""
    missed = [goal for goal in goals if not goal.holds]
    if not missed:
        return "It holds here."
    if len(missed) == len(goals):
        return "It does not hold here."
    return f"It holds in part here: {len(goals) - len(missed)} of {len(goals)} goals are reached."


def sentence(goal: ReproductionGoal) -> str:
    """Formats the number, its bound, and whether it is met."""
    unit = f" {goal.unit}" if goal.unit else ""
    mark = "reached" if goal.holds else "**not reached**"
    return f"{goal.text}: {goal.value:.3g}{unit}, to be {goal.direction} {goal.bound:g}{unit}: {mark}."


def _cell(cell: str | float | None, digits: int) -> str:
    if cell is None:
        return "-"
    return f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)
