"""Check plot: the correlation index layer by layer, against the paper's bounds, by matplotlib (extra `report`)."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dni_deploy.compatibility.correlation import MAX_UNRELATED_INDEX, MIN_BLENDING_INDEX, LayerCorrelation
from dni_deploy.errors import escape_name

PAIR_COLORS = ("#b8420e", "#3b6ea5", "#2f7d5b", "#8a5aa8", "#6b7280", "#a8842c")


def plot_layers(layers: Sequence[LayerCorrelation], title: str, kind: str) -> bytes:
    """Median, middle half and 5 to 95 % of each layer, a colour for each pair; as a file of that kind ("png", "svg", "pdf").

    The same layers give the same bytes: no date, no random names inside.
    """
    pairs = list(dict.fromkeys(layer.pair for layer in layers))
    names = list(dict.fromkeys(layer.layer for layer in layers))
    with rc_context({"svg.hashsalt": "dni-deploy"}):
        figure = Figure(figsize=(min(7.2 + 0.12 * len(names), 24), 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for number, pair in enumerate(pairs):
            rows = [(names.index(row.layer), row.quantiles) for row in layers if row.pair == pair and row.quantiles]
            if not rows:
                continue
            x = [place for place, _ in rows]
            low, quarter, median, three_quarters, high = zip(*(quantiles for _, quantiles in rows), strict=True)
            colour = PAIR_COLORS[number % len(PAIR_COLORS)]
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.fill_between(x, quarter, three_quarters, color=colour, alpha=0.25, linewidth=0)
            axes.plot(x, median, color=colour, marker="o", markersize=4, label=escape_name(pair, 60))
        axes.axhline(
            MIN_BLENDING_INDEX,
            color="#1d2329",
            linestyle=":",
            linewidth=1,
            label=f"{MIN_BLENDING_INDEX:g}: families that blend are above",
        )
        axes.axhline(
            MAX_UNRELATED_INDEX,
            color="#1d2329",
            linestyle="--",
            linewidth=1,
            label=f"{MAX_UNRELATED_INDEX:g}: unrelated networks are below",
        )
        step = -(-len(names) // 40) or 1
        axes.set_xticks(range(0, len(names), step), [escape_name(name, 30) for name in names[::step]], rotation=90, fontsize=7)
        axes.set(ylabel="correlation index of the filters", title=title)
        axes.set_ylim(top=1.03)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(
            buffer,
            format=kind,
            dpi=130,
            metadata={"CreationDate" if kind == "pdf" else "Date": None} if kind != "png" else None,
        )
    return buffer.getvalue()
