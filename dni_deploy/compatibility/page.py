"""Check page: the verdict, pictures, figures and what to do, as one HTML file that needs nothing from outside."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from PIL import Image

from dni_deploy.compatibility.correlation import MAX_UNRELATED_INDEX, MIN_BLENDING_INDEX, REPORTED_PERCENTILES, LayerCorrelation
from dni_deploy.compatibility.report import CheckReport, PairReport
from dni_deploy.compatibility.trial import PairContactSheet
from dni_deploy.errors import escape_name
from dni_deploy.imaging.frames import Frame

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


MAX_IMAGE_SIDE_PX = 256
"""Longest side in pixels of a picture on the page."""

_CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_CSS_CLASS_BY_VERDICT = {"blends well": "well", "blends with care": "care", "will not blend": "not"}

_PAGE_CSS = """
:root{color-scheme:light dark;--back:#faf9f6;--card:#fff;--ink:#1d2329;--soft:#5b6570;--line:#dcd8d0;--mark:#b8420e;--second:#3b6ea5;
--well:#2f6b3f;--care:#8a5a00;--not:#a8281a}
@media (prefers-color-scheme:dark){:root{--back:#14171a;--card:#1d2226;--ink:#ece8e1;--soft:#a5adb5;--line:#363d43;--mark:#ff8f52;
--second:#7fb2ea;--well:#7fce93;--care:#f0bd55;--not:#ff8d7d}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:64rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:clamp(1.4rem,4vw,2rem);line-height:1.2;margin:0 0 1rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:0 0 .6rem}
h3{font-size:1rem;margin:1rem 0 .25rem}.well{color:var(--well)}.care{color:var(--care)}.not{color:var(--not)}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem;margin:0 0 1.25rem}
ul{margin:0;padding-left:1.2rem}li{margin:.3rem 0;overflow-wrap:anywhere}
.strip{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:.6rem;margin:.75rem 0}
@media (max-width:34rem){.strip{grid-template-columns:repeat(2,minmax(0,1fr))}}
figure{margin:0}figure img{display:block;width:100%;height:auto;border-radius:.35rem;background:var(--line)}
figcaption{font-size:.85rem;color:var(--soft);overflow-wrap:anywhere}figcaption b{color:var(--ink)}
.strip figure.mid img{outline:3px solid var(--second);outline-offset:-3px}
dl{display:grid;grid-template-columns:auto 1fr;gap:.2rem 1rem;margin:.5rem 0}
dt{color:var(--soft)}dd{margin:0;font-variant-numeric:tabular-nums}
details{margin-top:1rem}summary{cursor:pointer;font-weight:600;padding:.3rem 0}
summary:focus-visible{outline:3px solid var(--second);outline-offset:2px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.85rem}
th,td{text-align:right;padding:.25rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}
th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}footer{font-size:.875rem;color:var(--soft)}
"""  # fmt: skip


def render_check_page(report: CheckReport, contact_sheets: Sequence[PairContactSheet]) -> str:
    """The page as text: what to know first, then each pair with its pictures and layers, then every figure as tables."""
    names = escape(", ".join(escape_name(name) for name in report.members))
    verdict = f'<span class="{_CSS_CLASS_BY_VERDICT[report.verdict]}">{report.verdict}</span>'
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_CONTENT_SECURITY_POLICY}"><title>{names}: {report.verdict}</title>',
        f'<link rel="icon" href="data:,"><style>{_PAGE_CSS}{CHART_CSS}</style></head><body><main><h1>{names}: {verdict}</h1>',
        *_render_reasons(report),
        *(["<h3>What to do</h3>", _render_list(report.advice)] if report.advice else []),
        *(["<h3>Notes</h3>", _render_list(report.notes)] if report.notes else []),
        "</section>",
        *_render_distances(report),
        *(_render_pair(report, pair, [strip for strip in contact_sheets if strip.pair == pair.pair]) for pair in report.pairs),
        *_render_tables(report),
        "<footer>Made by dni-deploy check. This file holds everything it shows and loads nothing. Dashed lines: 0.1, below which "
        "unrelated networks lie, and 0.689, above which families that blend lie (Deep Network Interpolation, CVPR 2019).</footer>",
        "</main></body></html>\n",
    ]
    return "".join(parts)


def _render_list(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(escape_name(sentence, 1000))}</li>" for sentence in sentences) + "</ul>"


def _render_reasons(report: CheckReport) -> Iterator[str]:
    """The reasons; of several pairs, a table of their verdicts: the reasons stand with each pair then."""
    if len(report.pairs) < 2:
        yield f'<section class="card"><h2>Why</h2>{_render_list(report.reasons)}'
        return
    yield '<section class="card"><h2>Pairs</h2><div class="scroll"><table><tr><th>pair</th><th>verdict</th><th>cause</th>'
    yield "<th>index</th><th>distance</th></tr>"
    for pair in report.pairs:
        numbers = "".join(f"<td>{'-' if value is None else f'{value:.3f}'}</td>" for value in (pair.median, pair.distance))
        verdict = f'<td class="{_CSS_CLASS_BY_VERDICT[pair.verdict]}">{pair.verdict}</td>'
        yield f"<tr><td>{escape(escape_name(pair.pair))}</td>{verdict}<td>{', '.join(pair.causes) or '-'}</td>{numbers}</tr>"
    yield "</table></div>"


def _render_distances(report: CheckReport) -> Iterator[str]:
    if len(report.compared) < 3:
        return
    names = [escape(escape_name(name)) for name in report.compared]
    yield '<section class="card"><h2>Network distance</h2><div class="scroll"><table><tr><th></th>'
    yield "".join(f"<th>{name}</th>" for name in names) + "</tr>"
    for name, row in zip(names, report.distances, strict=True):
        yield f"<tr><th>{name}</th>{''.join(f'<td>{value:.3f}</td>' for value in row)}</tr>"
    order = escape(" \N{RIGHTWARDS ARROW} ".join(escape_name(name) for name in report.order))
    yield f"</table></div><p>Shortest way through all: <b>{order}</b></p></section>"


def _render_pair(report: CheckReport, pair: PairReport, contact_sheets: Sequence[PairContactSheet]) -> str:
    facts = {"correlation index, median": pair.median, "network distance": pair.distance}
    listed = "".join(f"<dt>{name}</dt><dd>{value:.3f}</dd>" for name, value in facts.items() if value is not None)
    middles = {row.test_image: row for row in report.midpoints if row.pair == pair.pair}
    barriers = [row for row in report.barriers if row.pair == pair.pair]
    listed += "".join(
        f"<dt>barrier, {escape(escape_name(row.test_image))}</dt><dd>{row.decibels:+.2f} dB</dd>" for row in barriers
    )
    first, _, second = pair.pair.partition(" - ")
    shots = []
    for strip in contact_sheets:
        row = middles[strip.test_image]
        captions = (
            f"<b>{escape(escape_name(first))}</b>",
            f"<b>halfway</b>, weights blended; {row.error:.3f} from the pixels&#39; mean",
            "mean of the two outputs&#39; pixels",
            f"<b>{escape(escape_name(second))}</b>",
        )
        figures = "".join(
            f'<figure{" class=mid" if place == 1 else ""}><img alt="" src="{_encode_data_uri(frame)}"><figcaption>{caption}</figcaption></figure>'
            for place, (frame, caption) in enumerate(zip(strip.frames, captions, strict=True))
        )
        shots.append(f'<h3>{escape(escape_name(strip.test_image))}</h3><div class="strip">{figures}</div>')
    why = _render_list(pair.reasons) if len(report.pairs) > 1 else ""
    rows = [row for row in report.layers if row.pair == pair.pair]
    bars = render_layer_chart(rows)
    drawn = f"<details{' open' if len(rows) <= 40 else ''}><summary>Layers</summary>{bars}</details>" if bars else ""
    return (
        f'<section class="card"><h2>{escape(escape_name(pair.pair))}: <span class="{_CSS_CLASS_BY_VERDICT[pair.verdict]}">{pair.verdict}</span></h2>'
        f"{why}<dl>{listed}</dl>{''.join(shots)}{drawn}</section>"
    )


def _encode_data_uri(frame: Frame) -> str:
    image = Image.fromarray(frame)
    image.thumbnail((MAX_IMAGE_SIDE_PX, MAX_IMAGE_SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _render_tables(report: CheckReport) -> Iterator[str]:
    yield from _render_table(
        "Correlation index",
        ("pair", "layer", "shape", "filters", "left out", *(f"{quantile} %" for quantile in REPORTED_PERCENTILES), "turned", "scale", "reordered"),
        (
            (
                row.pair, row.layer, "x".join(map(str, row.shape)), row.filters, row.constant,
                *(_format_quantiles(row.quantiles)),
                row.flipped, f"{row.scale:.2f}", "-" if row.aligned_median is None else f"{row.aligned_median:.3f}",
            )
            for row in report.layers
        ),
    )  # fmt: skip
    yield from _render_table(
        "Halfway",
        ("pair", "probe", "finite", "error", "departure", "brightness", "contrast"),
        (
            (
                row.pair, row.test_image, "yes" if row.finite else "no", f"{row.error:.3f}", f"{row.departure:.3f}",
                f"{row.brightness:+.3f}", f"{row.contrast:.3f}",
            )
            for row in report.midpoints
        ),
    )  # fmt: skip
    yield from _render_table(
        "Loss barrier",
        ("pair", "probe", "first", "halfway", "second", "barrier", "dB", "beyond the worse end, dB"),
        (
            (
                row.pair, row.test_image, f"{row.first:.2e}", f"{row.middle:.2e}", f"{row.second:.2e}", f"{row.barrier:+.2e}",
                f"{row.decibels:+.2f}", f"{row.beyond:+.2f}",
            )
            for row in report.barriers
        ),
    )  # fmt: skip
    yield from _render_table(
        "BatchNorm halfway",
        ("pair", "layer", "variance against the blend's", "mean, in deviations"),
        ((row.pair, row.layer, f"{row.variance:.3f}", f"{row.mean:.3f}") for row in report.norms),
    )
    yield from _render_table(
        "BatchNorm between the members",
        ("pair", "layer", "mean moved, in deviations", "variance ratio"),
        ((row.pair, row.layer, f"{row.mean:.3f}", f"{row.variance:.3f}") for row in report.drifts),
    )
    yield from _render_table(
        "Members of another network",
        ("member", "tensor", "is", "of the first", "of this one"),
        (
            (row.member, found.key, found.kind, found.expected, found.got)
            for row in report.mismatches
            for found in row.differences
        ),
    )


def _format_quantiles(quantiles: Sequence[float]) -> Sequence[str]:
    return [f"{value:.3f}" for value in quantiles] or ["-"] * len(REPORTED_PERCENTILES)


def _render_table(title: str, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    cells = ["".join(f"<td>{escape(escape_name(value))}</td>" for value in row) for row in rows]
    if cells:
        yield f'<details><summary>{title}</summary><div class="scroll"><table><tr>'
        yield "".join(f"<th>{header}</th>" for header in headers) + "</tr>"
        yield from (f"<tr>{row}</tr>" for row in cells)
        yield "</table></div></details>"
