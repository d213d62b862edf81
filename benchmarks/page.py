"""The page: docs/benchmarks.md and its plot, made from a result and from nothing else."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from dni_deploy.publish import publish_bytes

GOALS: tuple[tuple[str, str, str, Mapping[str, float]], ...] = (
    (
        "steady frame, ours / stock constant-weight session",
        "steady frame, ours / constant",
        "at most",
        {"dncnn": 1.03, "compact": 0.93, "rrdb": 0.98, "transformer": 1.03},
    ),
    (
        "frame with a change before it / steady frame",
        "frame with a change / steady frame",
        "at most",
        {"dncnn": 1.05, "rrdb": 1.05, "transformer": 1.05},
    ),
    (
        "alpha change / plain copy of the same bytes",
        "alpha change / plain copy of the same bytes",
        "at most",
        dict.fromkeys(("dncnn", "compact", "rrdb", "transformer"), 2.0),
    ),
    ("new session / our alpha change", "alpha change, rebuild / ours", "at least", {"rrdb": 20.0}),
    ("frame with weights as inputs / our frame", "steady frame, inputs / ours", "at least", {"compact": 1.15}),
    (
        "steady frame, ours / PyTorch eager",
        "steady frame, ours / torch",
        "at most",
        dict.fromkeys(("dncnn", "compact", "rrdb", "transformer"), 1.0),
    ),
)
"""(text, ratio of the report, direction, goal by network): what this release set out to reach."""


def write_page(result: Mapping[str, Any], folder: Path) -> None:
    """Write benchmarks.md and images/benchmarks.svg into `folder`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    publish_bytes(folder / "benchmarks.md", page(result).encode(), force=True)
    publish_bytes(folder / "images" / "benchmarks.svg", plot(result), force=True)


def page(result: Mapping[str, Any]) -> str:
    networks = result["networks"]
    machine = next(iter(networks.values()))["machine"]
    lines = [
        "# Benchmarks on a CPU",
        "",
        "Made by `python -m benchmarks` from benchmarks/results/cpu.json; do not edit by hand.",
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores ({machine['instruction sets']}); ONNX Runtime {machine['onnxruntime']}, "
        f"PyTorch {machine.get('torch', 'absent')}, NumPy {machine['numpy']}, Python {machine['python']}; {machine['date']}, "
        f"commit {result['commit']}. The machine is shared: read the ratios, which are medians of ratios taken round by "
        "round, every way in turn within one run.",
        "",
        "![Frame times and alpha changes](images/benchmarks.svg)",
        "",
        "## Against what was set out to be reached",
        "",
        "| figure | network | goal | measured |",
        "|---|---|---|---|",
    ]
    for text, ratio, direction, goals in GOALS:
        for name, goal in goals.items():
            if name in networks and (value := _ratio(networks[name]["ratios"], ratio)) is not None:
                reached = value <= goal if direction == "at most" else value >= goal
                mark = f"{value:.2f}" if reached else f"**{value:.2f}**, not reached"
                lines.append(f"| {text} | {networks[name]['title']} | {direction} {goal:g} | {mark} |")
    for network in networks.values():
        shape = "x".join(map(str, network["shape"]))
        lines += [
            "",
            f"## {network['title']}, {shape}, {network['parameters'] / 1e6:.2f} M parameters, {network['members']} members",
            "",
            f"Medians of {network['rounds']} rounds, {network['threads']} threads.",
            "",
            "| way | alpha change, ms | first frame after it, ms | steady frame, ms | resident memory, MB |",
            "|---|---|---|---|---|",
        ]
        for row in network["rows"]:
            cells = (row["change_ms"], row["first_ms"], row["steady_ms"], row["memory_mb"])
            lines.append(f"| {row['title']} | " + " | ".join("-" if cell is None else f"{cell:.4g}" for cell in cells) + " |")
        lines += [f"\nNot run: {name}, {why}" for name, why in network["skipped"].items()]
    return "\n".join(lines) + "\n"


def _ratio(ratios: Mapping[str, float], name: str) -> float | None:
    if name == "steady frame, inputs / ours":
        below = ratios.get("steady frame, ours / inputs")
        return None if below is None else 1 / below
    return ratios.get(name)


def plot(result: Mapping[str, Any]) -> bytes:
    """Two panels: the steady frame of each way, ours = 1; and the alpha change on a logarithmic scale. SVG."""
    networks = result["networks"]
    names = [row["name"] for row in next(iter(networks.values()))["rows"]]
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    places, width = np.arange(len(networks)), 0.8 / len(names)
    for number, name in enumerate(names):
        steady, change = [], []
        for network in networks.values():
            rows = {row["name"]: row for row in network["rows"]}
            row, ours = rows.get(name), rows["in place"]
            steady.append(row["steady_ms"] / ours["steady_ms"] if row else np.nan)
            change.append(row["change_ms"] if row and row["change_ms"] is not None else np.nan)
        offset = (number - (len(names) - 1) / 2) * width
        colour = ("#b8420e", "#4b5563", "#3b6ea5", "#2f7d5b", "#8a6d3b", "#7a4a8c")[number % 6]
        left.bar(places + offset, steady, width, label=name, color=colour)
        right.bar(places + offset, change, width, color=colour)
    titles = [network["title"].split(",")[0] for network in networks.values()]
    for axes in (left, right):
        axes.set_xticks(places, titles, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    left.axhline(1, color="black", linewidth=0.6)
    left.set_ylabel("steady frame, ours = 1")
    right.set_yscale("log")
    right.set_ylabel("alpha change, ms")
    figure.legend(loc="outside upper center", ncols=len(names), fontsize=8, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
