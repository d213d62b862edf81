"""The benchmark as a picture: steady frames and alpha changes of every way, one group per network, by matplotlib."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dni_deploy.reports.plot import check_plot_name
from dni_deploy.utils.atomic_write import write_bytes_atomically

BENCH_COLORS = (
    "#b8420e", "#4b5563", "#3b6ea5", "#2f7d5b", "#8a6d3b", "#7a4a8c", "#c98a1b", "#1f8a8a", "#a3476b", "#6b7f2a", "#5a5ac0",
)  # fmt: skip


def plot_bench(
    path: str | os.PathLike[str], networks: Mapping[str, Sequence[Mapping[str, Any]]], *, force: bool = False
) -> None:
    """Draw the rows of one or more reports and publish the picture, .png, .svg or .pdf.

    networks: a title -> the report's rows as JSON objects; the first row is ours, and is 1 in the left panel. The right panel shows
    the alpha change in milliseconds on a logarithmic scale. Raises UsageError for another suffix, and as write_file_atomically does.
    """
    check_plot_name(path)
    names = list(dict.fromkeys(row["name"] for rows in networks.values() for row in rows))
    figure = Figure(figsize=(9.5, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    places, width = np.arange(len(networks)), 0.8 / len(names)
    for number, name in enumerate(names):
        steady, change = [], []
        for rows in networks.values():
            row = next((row for row in rows if row["name"] == name), None)
            steady.append(row["steady_ms"] / rows[0]["steady_ms"] if row else np.nan)
            change.append(row["change_ms"] if row and row["change_ms"] is not None else np.nan)
        offset = (number - (len(names) - 1) / 2) * width
        colour = BENCH_COLORS[number % len(BENCH_COLORS)]
        left.bar(places + offset, steady, width, label=name, color=colour)
        right.bar(places + offset, change, width, color=colour)
    for axes in (left, right):
        axes.set_xticks(places, list(networks), fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    left.axhline(1, color="black", linewidth=0.6)
    left.set_ylabel(f"steady frame, {names[0]} = 1")
    right.set_yscale("log")
    right.set_ylabel("alpha change, ms")
    figure.legend(loc="outside upper center", ncols=min(len(names), 6), fontsize=8, frameon=False)
    suffix = Path(path).suffix[1:].lower()
    out = io.BytesIO()
    undated = {"Date": None} if suffix == "svg" else None  # the same figures give the same file
    with rc_context({"svg.hashsalt": "dni-deploy"}):  # or its ids are drawn anew each time
        figure.savefig(out, format=suffix, dpi=120, metadata=undated)
    write_bytes_atomically(path, out.getvalue(), force=force)
