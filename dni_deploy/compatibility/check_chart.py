"""Check chart: the correlation index of one pair, a bar for each layer, as HTML that fits any width and both colour schemes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from dni_deploy.compatibility.agreement import LayerCorrelation
from dni_deploy.compatibility.correlation import MAX_UNRELATED_INDEX, MIN_BLENDING_INDEX
from dni_deploy.errors import escape_name

CHART_CSS = """
.chart{margin:.75rem 0 0;font-size:.8rem;font-variant-numeric:tabular-nums}
.chart div.row{display:grid;grid-template-columns:minmax(5.5rem,13rem) 1fr 3.2rem;gap:.6rem;align-items:center;min-height:1.25rem}
.chart .name{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;direction:rtl;text-align:left;color:var(--soft)}
.chart .bar{position:relative;height:.8rem;background:var(--line);border-radius:.2rem}
.chart i{position:absolute;top:0;bottom:0;border-radius:.2rem}
.chart .wide{background:var(--second);opacity:.35}.chart .half{background:var(--second);opacity:.75}
.chart .median{width:3px;margin-left:-1px;background:var(--ink)}
.chart .bound{width:0;border-left:1px dashed var(--mark);top:-.25rem;bottom:-.25rem}
.chart .value{text-align:right}.chart .low{color:var(--mark);font-weight:600}
.chart .axis{position:relative;height:1.2rem}.chart .axis span{position:absolute;transform:translateX(-50%);color:var(--soft)}
.chart .axis span.left{transform:none}.chart .axis span.right{transform:translateX(-100%)}
"""


def render_layer_chart(layers: Sequence[LayerCorrelation]) -> str:
    """5 to 95 %, the middle half and the median of each layer; dashed lines at the paper's bounds. Empty without filters."""
    rows = [row for row in layers if row.quantiles]
    if not rows:
        return ""
    low = -1.0 if min(row.quantiles[0] for row in rows) < 0 else 0.0
    return f'<div class="chart" role="img" aria-label="correlation index of each layer">{"".join(_render_chart_rows(rows, low))}</div>'


def _render_chart_rows(rows: Sequence[LayerCorrelation], low: float) -> Iterator[str]:
    bounds = "".join(
        f'<i class="bound" style="left:{_to_percent(bound, low):.2f}%"></i>'
        for bound in (MAX_UNRELATED_INDEX, MIN_BLENDING_INDEX)
    )
    for row in rows:
        at = [_to_percent(value, low) for value in row.quantiles]
        name = escape(escape_name(row.layer, 60))
        yield (
            f'<div class="row"><span class="name" title="{name}"><bdi>{name}</bdi></span><span class="bar">'
            f'<i class="wide" style="left:{at[0]:.2f}%;width:{at[4] - at[0]:.2f}%"></i>'
            f'<i class="half" style="left:{at[1]:.2f}%;width:{at[3] - at[1]:.2f}%"></i>{bounds}'
            f'<i class="median" style="left:{at[2]:.2f}%"></i></span>'
            f'<span class="value{" low" if row.has_low_median else ""}">{row.quantiles[2]:.3f}</span></div>'
        )
    marks = ((low, "left"), (MAX_UNRELATED_INDEX, ""), (MIN_BLENDING_INDEX, ""), (1.0, "right"))
    axis = "".join(
        f'<span class="{side}" style="left:{_to_percent(value, low):.2f}%">{value:g}</span>'
        for value, side in marks
        if low < 0 or value != MAX_UNRELATED_INDEX  # it would lie on the 0
    )
    yield f'<div class="row"><span></span><span class="axis">{axis}</span><span></span></div>'


def _to_percent(value: float, low: float) -> float:
    return 100 * (min(max(value, low), 1.0) - low) / (1 - low)
