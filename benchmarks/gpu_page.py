"""The page's half about GPUs: from benchmarks/results/gpu.json and from nothing else; without one it says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dni_deploy.errors import shown

COMMANDS = """    python -m benchmarks.gpu_latency --prepare prepared                               # where PyTorch is; no GPU needed
    python -m benchmarks.gpu.measure_all --prepared prepared -o part.json             # on the GPU, 25 minutes; again to go on
    python -m benchmarks.gpu_latency --merge part.json -o benchmarks/results/gpu.json
    python -m benchmarks --page"""
FIGURES = (
    ("change_ms", "alpha change, ms"),
    ("first_ms", "first frame after it, ms"),
    ("steady_ms", "steady frame, ms"),
    ("host_change_ms", "change on an idle GPU, ms"),
    ("changed_over_steady", "frame with a change / frame"),
)


def gpu_lines(result: Mapping[str, Any] | None) -> list[str]:
    """Markdown from the heading on."""
    lines = ["## On a GPU", ""]
    if result is None:
        return [
            *lines,
            "No GPU has been measured yet: what this project says about its GPU road is not timed. To measure one:",
            "",
            COMMANDS,
        ]
    lines += ["Made by these commands; do not edit by hand.", "", COMMANDS, ""]
    for number, part in enumerate(result["parts"], 1):
        facts = ", ".join(f"{name} {shown(value)}" for name, value in part["machine"].items() if name not in ("gpu", "date"))
        lines.append(
            f"Part {number}: {part['machine'].get('gpu', 'unknown GPU')}; {facts}; {part['machine'].get('date')}, commit {part['commit']}."
        )
        if part["ceilings"]:
            products = "".join(f"; {rate / 1e12:.0f} TFLOP/s in {name}" for name, rate in part["ceilings"]["products"].items())
            lines.append(f"A copy in its memory moves {part['ceilings']['copy'] / 1e12:.2f} TB/s, read plus written{products}.")
        lines.append("")
    lines += _goals(result) + _kernel(result)
    for case in sorted(result["cases"], key=lambda case: (case["network"], case["precision"], case["shape"], case["part"])):
        lines += _case(case)
    return lines


def _goals(result: Mapping[str, Any]) -> list[str]:
    lines = ["### Against what was set out to be reached", "", "| figure | of | goal | measured |", "|---|---|---|---|"]
    for goal in result["goals"]:
        measured = f"{goal['measured']:.2g}" if goal["measured"] < 0.01 else f"{goal['measured']:.2f}"
        mark = measured if goal["reached"] else f"**{measured}**, not reached"
        across = " (two runs)" if goal["across"] else ""
        lines.append(f"| {goal['figure']} | {goal['what']}{across} | {goal['direction']} {goal['goal']:g} | {mark} |")
    return [*lines, ""]


def _kernel(result: Mapping[str, Any]) -> list[str]:
    if not result["kernel"]:
        return []
    lines = [
        "### The blend kernel",
        "",
        "Launched one by one, and replayed as a CUDA graph (the GPU's own time, of which the rates are). Sets of weights are taken in "
        "turn, so that the cache does not serve them.",
        "",
        "| family | MB moved | launched, µs | replayed, µs | TB/s | of a large copy | of a copy of the same bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure in result["kernel"]:
        replayed = "-" if figure["replayed_us"] is None else f"{figure['replayed_us']:.1f}"
        lines.append(
            f"| {figure['label']} | {figure['bytes'] / 1e6:.1f} | {figure['launched_us']:.1f} | {replayed} | "
            f"{figure['bytes_per_second'] / 1e12:.2f} | {figure['over_copy']:.2f} | {figure['over_copy_of_same_bytes']:.2f} |"
        )
    return [*lines, ""]


def _case(case: Mapping[str, Any]) -> list[str]:
    size = f"{case['shape'][3]}x{case['shape'][2]}"
    by = case["reference"]
    lines = [
        f"### {case['title']}, {size}, {case['precision']} (part {case['part'] + 1})",
        "",
        f"Medians by {case['clock']}. Compared with {by['by']}, at {'x'.join(map(str, by['shape']))}.",
        "",
        "| way | " + " | ".join(title for _, title in FIGURES) + " | error |",
        "|---" * (len(FIGURES) + 2) + "|",
    ]
    for row in case["rows"]:
        cells = " | ".join("-" if row[key] is None else f"{row[key]:.4g}" for key, _ in FIGURES)
        lines.append(f"| {row['title']} | {cells} | {row['agreement']['error']:.1e} |")
    reasons: dict[str, list[str]] = {}
    for name, why in case["skipped"].items():
        reasons.setdefault(why, []).append(name)
    lines += [f"\nNot run: {', '.join(names)}: {shown(why, 300)}." for why, names in reasons.items()]
    return [*lines, ""]
