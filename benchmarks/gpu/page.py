"""Formats the GPU part of docs/benchmarks.md from benchmarks/results/gpu.json, or a notice if there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dni_deploy.errors import escape_name

COMMANDS = """    python -m benchmarks.gpu --prepare prepared                               # where PyTorch is; no GPU needed
    python -m benchmarks.gpu.run_all --prepared prepared --budget 1500 --everything -o out    # on the GPU; again to go on
    python -m benchmarks.gpu --merge out/all.json -o benchmarks/results/gpu.json
    python -m benchmarks --page"""
METHOD_NOTE = (
    "How: every mode in turn, round after round, and medians. Change, first and steady frame are the GPU's own time, by "
    "events behind frames that were queued before; the change on an idle GPU is the host's, from the call to its end. The "
    "last ratio is of frames one by one, as a Session runs them, by the host's clock; with two engines the change is that "
    "of the idle one. The call of a change is the host's time until it returns, while the GPU is busy with frames. Frames beside refits "
    "are of one engine, by events, while another thread changes the idle one again and again, over frames of the same round that nothing "
    "disturbs. A mode that differs from PyTorch in float64 by more than the verification of an engine allows "
    "(docs/gpu.md) has no time. TensorRT's plans take 64x64 to 1280x720 and are tuned for 1280x720, those for larger frames "
    "to that size. Weights are random, of two members."
)
TABLE_FIGURES = (
    ("change_ms", "alpha change, ms"),
    ("first_ms", "first frame after it, ms"),
    ("steady_ms", "steady frame, ms"),
    ("host_change_ms", "change on an idle GPU, ms"),
    ("changed_over_steady", "frame with a change / frame"),
    ("host_refit_ms", "call of a change, ms"),
    ("host_refit_p99_ms", "its 99th percentile, ms"),
    ("refit_over_frame", "call and change / frame"),
    ("disturbed_over_steady", "frame beside refits / frame"),
    ("disturbed_p99_over_steady", "its 99th percentile"),
    ("undisturbed_p99_over_steady", "that of frames alone"),
    ("host_frame_ms", "float32 up, frame, float32 down, ms"),
    ("host_pixels_ms", "pixels to pixels, ms"),
    ("host_overlapped_ms", "the same, three under way, ms each"),
)


def format_gpu_lines(result: Mapping[str, Any] | None) -> list[str]:
    """Formats the part as Markdown lines, heading included."""
    lines = ["## On a GPU", ""]
    if result is None:
        return [
            *lines,
            "No GPU has been measured yet: what this project says about its GPU backend is not timed. To measure one:",
            "",
            COMMANDS,
        ]
    lines += ["Made by these commands from benchmarks/results/gpu.json; do not edit by hand.", "", COMMANDS, ""]
    for number, part in enumerate(result["parts"]):
        lines += _part_lines(number, part, [case for case in result["cases"] if case["part"] == number])
    lines += [METHOD_NOTE, "", *_goal_lines(result), *_check_lines(result), *_kernel_lines(result)]
    groups: dict[tuple[str, str, tuple[int, ...]], list[Mapping[str, Any]]] = {}
    for case in sorted(result["cases"], key=lambda case: (case["network"], case["precision"], case["shape"], case["part"])):
        groups.setdefault((case["network"], case["precision"], tuple(case["shape"])), []).append(case)
    for cases in groups.values():
        lines += _case_lines(cases, result["cases"])
    return lines


def _part_lines(number: int, part: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Formats the machine of a part, and the modes that none of its cases could run."""
    machine = part["machine"]
    facts = ", ".join(f"{name} {escape_name(value)}" for name, value in machine.items() if name not in ("gpu", "date"))
    name, date = escape_name(machine.get("gpu", "unknown GPU")), machine.get("date", "undated")
    lines = [f"Part {number + 1}: {name}, {date}, commit {part['commit']}; {facts}."]
    if part["ceilings"]:
        products = "".join(f"; {rate / 1e12:.0f} TFLOP/s in {name}" for name, rate in part["ceilings"]["products"].items())
        lines[0] += f" A copy in its memory moves {part['ceilings']['copy'] / 1e12:.2f} TB/s, read plus written"
        lines[0] += f"; a large matrix product runs at{products[1:]}." if products else "."
    for why, names in _group_by_reason(_find_common_skips(cases)).items():
        lines.append(f"Without {', '.join(names)}: {escape_name(why, 300)}.")
    return ["\n".join(lines), ""]


def _find_common_skips(cases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the modes that every case of a part skipped for the same reason."""
    skips = [set(case["skipped"].items()) for case in cases]
    return dict(sorted(set.intersection(*skips))) if skips else {}


def _group_by_reason(skipped: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, why in skipped.items():
        reasons.setdefault(why, []).append(name)
    return reasons


def _goal_lines(result: Mapping[str, Any]) -> list[str]:
    lines = ["### Against what was set out to be reached", "", "| figure | of | goal | measured |", "|---|---|---|---|"]
    for goal in result["goals"]:
        measured = f"{goal['measured']:.2g}" if goal["measured"] < 0.01 else f"{goal['measured']:.2f}"
        mark = measured if goal["reached"] else f"**{measured}**, not reached"
        across = " (two runs)" if goal["across"] else ""
        lines.append(f"| {goal['figure']} | {goal['what']}{across} | {goal['direction']} {goal['goal']:g} | {mark} |")
    return [*lines, ""]


def _format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _check_lines(result: Mapping[str, Any]) -> list[str]:
    if not result["checks"]:
        return []
    lines = ["### Checked on this GPU", "", "| program | part | result | s |", "|---|---|---|---|"]
    for check in result["checks"]:
        mark = "passed" if check["passed"] else "**failed**"
        lines.append(f"| `{check['command']}` | {check['part'] + 1} | {mark} | {check['seconds']:.0f} |")
    return [*lines, ""]


def _kernel_lines(result: Mapping[str, Any]) -> list[str]:
    if not result["kernel"]:
        return []
    lines = [
        "### The blend kernel",
        "",
        "Launched one by one, and replayed as a CUDA graph (the GPU's own time, of which the rates are). Sets of weights are taken in "
        "turn, so that the cache does not serve them.",
        "",
        "| family | MB moved | launched, µs | replayed, µs | TB/s | of a large copy | of a copy of the same bytes | shares by weight / "
        "plain, launched | replayed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for figure in result["kernel"]:
        replayed = "-" if figure["replayed_us"] is None else f"{figure['replayed_us']:.1f}"
        lines.append(
            f"| {figure['label']} | {figure['bytes'] / 1e6:.1f} | {figure['launched_us']:.1f} | {replayed} | "
            f"{figure['bytes_per_second'] / 1e12:.2f} | {figure['over_copy']:.2f} | {figure['over_copy_of_same_bytes']:.2f} | "
            f"{_format_number(figure.get('by_row_over_plain_launched'))} | {_format_number(figure.get('by_row_over_plain_replayed'))} |"
        )
    return [*lines, ""]


def _case_lines(cases: Sequence[Mapping[str, Any]], whole: Sequence[Mapping[str, Any]]) -> list[str]:
    """Formats one table per network, shape and precision, with the rows of every part that measured it."""
    first = cases[0]
    lines = [
        f"### {first['title']}, {first['shape'][3]}x{first['shape'][2]}, {first['precision']}",
        "",
        "| mode | part | " + " | ".join(title for _, title in TABLE_FIGURES) + " | error |",
        "|---" * (len(TABLE_FIGURES) + 3) + "|",
    ]
    for case in cases:
        for row in case["rows"]:
            cells = " | ".join("-" if row.get(key) is None else f"{row[key]:.4g}" for key, _ in TABLE_FIGURES)
            lines.append(f"| {row['title']} | {case['part'] + 1} | {cells} | {row['agreement']['error']:.1e} |")
    for case in cases:
        common = _find_common_skips([other for other in whole if other["part"] == case["part"]])
        here = {name: why for name, why in case["skipped"].items() if common.get(name) != why}
        lines += [
            f"\nNot run in part {case['part'] + 1}: {', '.join(names)}: {escape_name(why, 300)}."
            for why, names in _group_by_reason(here).items()
        ]
    return [*lines, ""]
