"""The JSON result of the benchmark: parts of several processes and machines merged, and the goals computed from them.

schema   1
parts    [{commit, machine, ceilings}]: the origin of the figures; every figure names its part
kernel   [{part, label, network, precision, ...}], as kernel.py gives them
checks   [{part, name, command, passed, seconds, lines}]: the programs that check the engines, and what they printed
cases    [{part, network, shape, precision, rows, ratios, skipped, ...}], as case.py gives them
goals    the goals and what was measured
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.goals import list_goals
from dni_deploy.errors import InputError, escape_name
from dni_deploy.utils.atomic_write import write_bytes_atomically

RESULT_SCHEMA_VERSION = 1
SHORT_TABLE_FIGURES = (
    "steady_ms", "change_ms", "first_ms", "host_change_ms", "host_refit_ms", "host_refit_p99_ms", "changed_over_steady",
    "disturbed_over_steady", "disturbed_p99_over_steady",
)  # fmt: skip
Result = dict[str, Any]


def make_empty_result(machine: Mapping[str, str], commit: str) -> Result:
    part = {"commit": commit, "machine": dict(machine), "ceilings": None}
    return {"schema": RESULT_SCHEMA_VERSION, "parts": [part], "checks": [], "kernel": [], "cases": []}


def merge_results(results: Iterable[Result]) -> Result:
    """Merges all figures. Parts of the same machine, date and commit become one; a later measurement of a case replaces an earlier one."""
    parts: list[dict[str, Any]] = []
    checks: dict[tuple[Any, ...], dict[str, Any]] = {}
    kernel: dict[tuple[Any, ...], dict[str, Any]] = {}
    cases: dict[tuple[Any, ...], dict[str, Any]] = {}
    for result in results:
        numbers = []
        for part in result["parts"]:
            same_origin = (seen for seen in parts if (seen["commit"], seen["machine"]) == (part["commit"], part["machine"]))
            merged_part = next(same_origin, None)
            if merged_part is None:
                parts.append(merged_part := {**part})
            merged_part["ceilings"] = part["ceilings"] or merged_part["ceilings"]
            numbers.append(parts.index(merged_part))
        for check in result.get("checks", ()):  # older results have none
            number = numbers[check["part"]]
            checks[number, check["name"]] = {**check, "part": number}
        for figure in result["kernel"]:
            number = numbers[figure.get("part", 0)]
            kernel[number, figure["label"]] = {**figure, "part": number}
        for case in result["cases"]:
            number = numbers[case.get("part", 0)]
            cases[number, case["network"], tuple(case["shape"]), case["precision"]] = {**case, "part": number}
    whole = {
        "schema": RESULT_SCHEMA_VERSION,
        "parts": parts,
        "checks": list(checks.values()),
        "kernel": list(kernel.values()),
        "cases": list(cases.values()),
    }
    return {**whole, "goals": list_goals(whole)}


def read(path: Path) -> Result:
    """Reads a result; InputError if it does not exist or has another schema."""
    try:
        result = json.loads(path.read_bytes())
    except OSError:
        raise InputError(f"{escape_name(path)} does not exist.") from None
    except ValueError:
        raise InputError(f"{escape_name(path)} is not JSON.") from None
    if not isinstance(result, dict) or result.get("schema") != RESULT_SCHEMA_VERSION or "cases" not in result:
        raise InputError(f"{escape_name(path)} is not a result of the GPU benchmark, schema {RESULT_SCHEMA_VERSION}.")
    return result


def write(path: Path, result: Result) -> None:
    """Writes the whole file atomically, so that a kill never loses an earlier version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode(), force=True)


def format_short_table(result: Result) -> str:
    """Formats the result in a few lines for the end of a log."""
    lines = []
    for part in result["parts"]:
        if part["ceilings"]:
            products = "".join(
                f", {name} product {rate / 1e12:.0f} TFLOP/s" for name, rate in part["ceilings"]["products"].items()
            )
            lines.append(f"copy {part['ceilings']['copy'] / 1e12:.2f} TB/s{products}")
    for check in result["checks"]:
        lines.append(f"{'passed' if check['passed'] else 'FAILED'}  {check['name']} in {check['seconds']:.0f} s")
    for figure in result["kernel"]:
        lines.append(
            f"kernel {figure['label']}: {figure['launched_us']:.1f} us launched, {figure['replayed_us'] or 0:.1f} us replayed, "
            f"{figure['bytes_per_second'] / 1e12:.2f} TB/s, {figure['over_copy']:.2f} of the copy"
        )
    for case in result["cases"]:
        lines.append(f"{case['network']} {_format_size(case['shape'])} {case['precision']}  ({case['seconds']} s)")
        for row in case["rows"]:
            cells = [row.get(key) for key in SHORT_TABLE_FIGURES]
            shown_cells = "  ".join("       -" if cell is None else f"{cell:8.3f}" for cell in cells)
            lines.append(f"  {row['name']:<24}{shown_cells}  error {row['agreement']['error']:.1e}")
    lines += [f"not run: {why}: {', '.join(names)}" for why, names in _group_skips(result["cases"]).items()]
    if result["cases"]:
        lines.insert(
            0,
            "rows: steady, change, first frame after, change on an idle GPU, call of a change and its p99 (ms), frame with a change / "
            "frame, frame beside refits / frame and its p99",
        )
    for goal in result.get("goals", []):
        mark = "reached" if goal["reached"] else "MISSED "
        lines.append(f"{mark}  {goal['measured']:.3g} ({goal['direction']} {goal['goal']:g})  {goal['figure']}: {goal['what']}")
    return "\n".join(lines)


def _group_skips(cases: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Groups the skipped modes by reason, naming the cases unless it is all of them."""
    cases_by_reason: dict[str, dict[str, list[str]]] = {}
    for case in cases:
        for name, why in case["skipped"].items():
            cases_by_reason.setdefault(why[:160], {}).setdefault(name, []).append(
                f"{case['network']} {_format_size(case['shape'])} {case['precision']}"
            )
    return {
        why: [name if len(where) == len(cases) else f"{name} ({'; '.join(where)})" for name, where in names.items()]
        for why, names in cases_by_reason.items()
    }


def _format_size(shape: Sequence[int]) -> str:
    return f"{shape[3]}x{shape[2]}"
