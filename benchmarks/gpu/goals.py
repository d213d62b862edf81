"""The goals of the GPU backend, as ratios, and whether a result reaches them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.gpu.modes import OUR_MODES, TUNED_PLAN_SIZE, list_mode_names
from engines.interface import PRECISIONS
from engines.trt.library import LIBRARY_TITLES
from engines.verification import MIN_PSNR_DB, max_allowed_error

NO_STALL = (*list_mode_names("-ahead", "-inputs", "-inputs-replay"), "onnxruntime-gpu")
"""The modes in which a change should not slow down a frame: two engines, or no refit."""
NO_REFIT = (*list_mode_names("-inputs", "-inputs-replay"), "onnxruntime-gpu")
COMPILED_MODES = ("torch-compile", "torch-autotune")
GpuGoal = dict[str, Any]


def list_goals(result: Mapping[str, Any]) -> list[GpuGoal]:
    """Lists one entry per figure and network: figure, what, goal, direction, measured, reached, across (two processes)."""
    return [
        *_kernel_goals(result),
        *_per_tensor_goals(result),
        *_change_goals(result),
        *_stall_goals(result),
        *_neighbor_goals(result),
        *_refit_goals(result),
        *_peer_goals(result),
        *_agreement_goals(result),
    ]


def _make_goal(figure: str, what: str, direction: str, goal: float, measured: float, across: bool = False) -> GpuGoal:
    reached = measured <= goal if direction == "at most" else measured >= goal
    return {
        "figure": figure,
        "what": what,
        "direction": direction,
        "goal": goal,
        "measured": float(measured),
        "reached": bool(reached),
        "across": across,
    }


def _kernel_goals(result: Mapping[str, Any]) -> Iterator[GpuGoal]:
    for figure in result["kernel"]:
        if figure["network"] in ("rrdb", "large"):
            lowest = 0.9 if figure["network"] == "large" else 0.6
            yield _make_goal(
                "blend kernel's bytes per second / device copy", figure["label"], "at least", lowest, figure["over_copy"]
            )


def _per_tensor_goals(result: Mapping[str, Any]) -> Iterator[GpuGoal]:
    """The whole change including the copy of its coefficients; older results do not have it."""
    for figure in result["kernel"]:
        value = figure.get("by_row_over_plain_launched")
        if value is not None and figure["network"] in ("rrdb", "large"):
            yield _make_goal("alpha change, each weight its own shares / plain", figure["label"], "at most", 1.3, value)


def _change_goals(result: Mapping[str, Any]) -> Iterator[GpuGoal]:
    kernels = {
        (figure["part"], figure["network"], figure["precision"]): (figure["replayed_us"] or figure["launched_us"]) / 1e3
        for figure in result["kernel"]
        if figure["as_in_cases"]
    }
    for case in _cases_at_tuned_size(result):
        kernel = kernels.get((case["part"], case["network"], case["precision"]))
        rows = [row for row in case["rows"] if row["name"] in NO_REFIT and row["change_ms"] is not None]
        if kernel and rows:
            best = min(rows, key=lambda row: row["change_ms"])
            what = f"{case['title']}, {case['precision']}, {best['name']}"
            yield _make_goal("whole alpha change, no refit / blend kernel", what, "at most", 1.5, best["change_ms"] / kernel)


def _stall_goals(result: Mapping[str, Any]) -> Iterator[GpuGoal]:
    for case in _cases_at_tuned_size(result):
        rows = [row for row in case["rows"] if row["name"] in NO_STALL and row["changed_over_steady"] is not None]
        if rows:
            best = min(rows, key=lambda row: row["changed_over_steady"])
            what = f"{case['title']}, {case['precision']}, {best['name']}"
            yield _make_goal(
                "frame with a change before every frame / steady frame", what, "at most", 1.02, best["changed_over_steady"]
            )


def _neighbor_goals(result: Mapping[str, Any]) -> Iterator[GpuGoal]:
    """Every mode of two slots; older results do not have it."""
    for case in _cases_at_tuned_size(result):
        for row in case["rows"]:
            if row.get("disturbed_over_steady") is not None:
                p99 = f"99th percentile {row['disturbed_p99_over_steady']:.2f}, undisturbed {row['undisturbed_p99_over_steady']:.2f}"
                what = f"{case['title']}, {case['precision']}, {row['name']} ({p99})"
                yield _make_goal(
                    "frame of slot 0 beside refits of slot 1 / steady frame",
                    what,
                    "at most",
                    1.02,
                    row["disturbed_over_steady"],
                )


def _refit_goals(result: Mapping[str, Any]) -> Iterator[GpuGoal]:
    for case in _cases_at_tuned_size(result):
        for library, title in LIBRARY_TITLES.items():
            value = case["ratios"].get(f"steady, {library} / {library}-constant")
            if value is not None:
                what = f"{case['title']}, {case['precision']}"
                yield _make_goal(f"refittable / non-refittable {title} engine, steady frame", what, "at most", 1.05, value)


def _peer_goals(result: Mapping[str, Any]) -> Iterator[GpuGoal]:
    """Compares with PyTorch; the two sides may come from two processes, since TensorRT 8.6 and PyTorch cannot share one."""
    rows: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for case in _cases_at_tuned_size(result):
        if case["precision"] == "fp16":
            rows.setdefault(case["title"], []).extend((case, row) for row in case["rows"])
    for title, candidates in rows.items():
        ours = [pair for pair in candidates if pair[1]["name"] in OUR_MODES]
        compiled = [pair for pair in candidates if pair[1]["name"] in COMPILED_MODES]
        if not ours or not compiled:
            continue
        (our_case, our), (their_case, their) = (min(pairs, key=lambda it: it[1]["steady_ms"]) for pairs in (ours, compiled))
        across = our_case["part"] != their_case["part"]
        within = None if across else our_case["ratios"].get(f"steady, {our['name']} / {their['name']}")
        value = within if within is not None else our["steady_ms"] / their["steady_ms"]
        what = f"{title}, {our['name']} / {their['name']}"
        yield _make_goal(
            "our fastest mode / torch.compile with CUDA graphs, steady frame, fp16", what, "at most", 0.8, value, across
        )


def _agreement_goals(result: Mapping[str, Any]) -> Iterator[GpuGoal]:
    for precision in PRECISIONS:
        entries = [
            (agreement, name, case["title"])
            for case in result["cases"]
            if case["precision"] == precision
            for name, agreement in [*((row["name"], row["agreement"]) for row in case["rows"]), *case["wrong"].items()]
            if name in OUR_MODES
        ]
        if entries:
            worst, name, title = max(entries, key=lambda it: it[0]["error"])
            yield _make_goal(
                f"largest error against PyTorch, of the range, {precision}",
                f"{title}, {name}",
                "at most",
                max_allowed_error(np.inf if worst["psnr"] is None else worst["psnr"], precision),
                worst["error"],
            )
        ratios = [(agreement["psnr"], name, title) for agreement, name, title in entries if agreement["psnr"] is not None]
        if precision != "fp32" and ratios:
            ratio, name, title = min(ratios)
            figure = f"lowest PSNR against PyTorch, dB, {precision}"
            yield _make_goal(figure, f"{title}, {name}", "at least", MIN_PSNR_DB, ratio)


def _cases_at_tuned_size(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from (case for case in result["cases"] if tuple(case["shape"][2:]) == TUNED_PLAN_SIZE)
