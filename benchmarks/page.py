"""Generates docs/benchmarks.md and its plot from the stored results alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu.page import format_gpu_lines
from dni_deploy.reports.plot import plot_bench
from dni_deploy.utils.atomic_write import write_bytes_atomically

CPU_GOALS: tuple[tuple[str, str, str, Mapping[str, float]], ...] = (
    (
        "steady frame, ours / stock constant-weight session",
        "steady frame, ours / constant",
        "at most",
        {"dncnn": 1.0, "compact": 0.93, "rrdb": 0.98, "transformer": 1.0},
    ),
    (
        "steady frame, ours / best CPU peer (OpenVINO f32, torch.compile)",
        "steady frame, ours / best CPU peer",
        "at most",
        dict.fromkeys(("dncnn", "compact", "rrdb", "transformer"), 1.0),
    ),
    ("memory, ours / stock constant-weight session", "memory, ours / constant", "at most", {"rrdb": 1.3}),
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
"""(text, ratio of the report, direction, goal by network): the goals of this release."""


def write_page(result: Mapping[str, Any], gpu: Mapping[str, Any] | None, folder: Path) -> None:
    """Writes benchmarks.md and images/benchmarks.svg into `folder`; `gpu` is the result of the GPU benchmark, or None."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(folder / "benchmarks.md", page(result, gpu).encode(), force=True)
    titled = {network["title"].split(",")[0]: network["rows"] for network in result["networks"].values()}
    write_bytes_atomically(folder / "images" / "benchmarks.svg", plot_bench(titled, "svg"), force=True)


def page(result: Mapping[str, Any], gpu: Mapping[str, Any] | None = None) -> str:
    """Formats the whole page as Markdown."""
    return "\n".join(["# Benchmarks", "", *_cpu_lines(result), "", *format_gpu_lines(gpu)]).rstrip() + "\n"


def _cpu_lines(result: Mapping[str, Any]) -> list[str]:
    networks = result["networks"]
    machine = next(iter(networks.values()))["machine"]
    lines = [
        "## On a CPU",
        "",
        "Made by `python -m benchmarks` from benchmarks/results/cpu.json; do not edit by hand.",
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores ({machine['instruction sets']}); ONNX Runtime "
        f"{machine['onnxruntime']}, OpenVINO {machine.get('openvino', 'absent')}, PyTorch {machine.get('torch', 'absent')}, "
        f"NumPy {machine['numpy']}, Python {machine['python']}; {machine['date']}, commit {result['commit']}. The machine is "
        "shared: read the ratios, which are medians of ratios taken round by round, every way in turn within one run.",
        "",
        "![For each way and network: the steady frame as a multiple of ours, and the time of one change of alpha](images/benchmarks.svg)",
        "",
        "### Against what was set out to be reached",
        "",
        "| figure | network | goal | measured |",
        "|---|---|---|---|",
    ]
    for text, ratio, direction, goals in CPU_GOALS:
        for name, goal in goals.items():
            if name in networks and (value := _ratio(networks[name]["ratios"], ratio)) is not None:
                reached = value <= goal if direction == "at most" else value >= goal
                mark = f"{value:.2f}" if reached else f"**{value:.2f}**, not reached"
                lines.append(f"| {text} | {networks[name]['title']} | {direction} {goal:g} | {mark} |")
    for network in networks.values():
        shape = "x".join(map(str, network["shape"]))
        lines += [
            "",
            f"### {network['title']}, {shape}, {network['parameters'] / 1e6:.2f} M parameters, {network['members']} members",
            "",
            f"Medians of {network['rounds']} rounds, {network['threads']} threads.",
            "",
            "| way | alpha change, ms | first frame after it, ms | steady frame, ms | from pixels to pixels, ms | resident memory, MB |",
            "|---|---|---|---|---|---|",
        ]
        for row in network["rows"]:
            cells = (row["change_ms"], row["first_ms"], row["steady_ms"], row.get("pixels_ms"), row["memory_mb"])
            lines.append(f"| {row['title']} | " + " | ".join("-" if cell is None else f"{cell:.4g}" for cell in cells) + " |")
        lines += [f"\nNot run: {name}, {why}" for name, why in network["skipped"].items()]
    return lines


def _ratio(ratios: Mapping[str, float], name: str) -> float | None:
    if name == "steady frame, inputs / ours":
        below = ratios.get("steady frame, ours / inputs")
        return None if below is None else 1 / below
    return ratios.get(name)
