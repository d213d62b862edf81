"""The correlation index layer by layer against the paper's bounds, by matplotlib (extra `report`)."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from dni_deploy.compatibility.correlation import MAX_UNRELATED_INDEX, MIN_BLENDING_INDEX, LayerCorrelation
from dni_deploy.errors import escape_name
from dni_deploy.reports.plot import INK_COLOR, MAIN_COLOR, SECOND_COLOR, encode_figure

PAIR_COLORS = (MAIN_COLOR, SECOND_COLOR, "#2f7d5b", "#8a5aa8", "#6b7280", "#a8842c")
MAX_FIGURE_WIDTH, MAX_LAYER_LABELS = 24, 40


def plot_layers(layers: Sequence[LayerCorrelation], title: str, kind: str) -> bytes:
    """Plots median, middle half and 5 to 95 % of each layer, in one color for each pair.

    Args:
        layers: The layers of all pairs.
        title: The heading.
        kind: "png", "svg" or "pdf".

    Returns:
        The file. The same layers give the same bytes.
    """
    pairs = list(dict.fromkeys(layer.pair for layer in layers))
    names = list(dict.fromkeys(layer.layer for layer in layers))
    figure = Figure(figsize=(min(7.2 + 0.12 * len(names), MAX_FIGURE_WIDTH), 4.6), layout="constrained")
    axes = figure.add_subplot()
    for number, pair in enumerate(pairs):
        rows = [(names.index(row.layer), row.quantiles) for row in layers if row.pair == pair and row.quantiles]
        if not rows:
            continue
        x = [place for place, _ in rows]
        low, quarter, median, three_quarters, high = zip(*(quantiles for _, quantiles in rows), strict=True)
        color = PAIR_COLORS[number % len(PAIR_COLORS)]
        axes.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
        axes.fill_between(x, quarter, three_quarters, color=color, alpha=0.25, linewidth=0)
        axes.plot(x, median, color=color, marker="o", markersize=4, label=escape_name(pair, 60))
    for bound, style, text in (
        (MIN_BLENDING_INDEX, ":", "families that blend are above"),
        (MAX_UNRELATED_INDEX, "--", "unrelated networks are below"),
    ):
        axes.axhline(bound, color=INK_COLOR, linestyle=style, linewidth=1, label=f"{bound:g}: {text}")
    step = -(-len(names) // MAX_LAYER_LABELS) or 1
    axes.set_xticks(range(0, len(names), step), [escape_name(name, 30) for name in names[::step]], rotation=90, fontsize=7)
    axes.set(ylabel="correlation index of the filters", title=title)
    axes.set_ylim(top=1.03)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return encode_figure(figure, kind)
