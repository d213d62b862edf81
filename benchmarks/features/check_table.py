"""Formats the tables of docs/check.md from benchmarks/results/check.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TRAINED_FAMILIES_KIND = "trained families"


def format_table(result: Mapping[str, Any]) -> str:
    """Formats one line per kind of pair and one for all: the number of pairs, test and held-out, and of right verdicts."""
    parts = [result["twelve"], result["held_out"]]
    kinds = list(dict.fromkeys(_kind(row) for rows in parts for row in rows))
    lines = []
    for kind in kinds:
        answer = next(row["answer"] for rows in parts for row in rows if _kind(row) == kind)
        counts = [_format_counts([row for row in rows if _kind(row) == kind]) for rows in parts]
        lines.append(f"| {kind} | {answer} | {' | '.join(counts)} |")
    counts = [_format_counts(rows) for rows in parts]
    return "\n".join([*lines, f"| **all** | | {' | '.join(counts)} |"])


def format_undecided_table(result: Mapping[str, Any]) -> str:
    """Formats one line per pair whose answer is not known."""
    return "\n".join(f"| {row['pair']} | {row['verdict']} | {', '.join(row['causes']) or '-'} |" for row in result["observed"])


def _kind(row: Mapping[str, Any]) -> str:
    return TRAINED_FAMILIES_KIND if row["answer"] == "blends" else str(row["kind"])


def _format_counts(rows: Sequence[Mapping[str, Any]]) -> str:
    return f"{len(rows)} | {sum(row['right'] for row in rows)}" if rows else "0 | -"
