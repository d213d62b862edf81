"""Check page: verdict, reasons, the plot and its figures as one HTML file that needs nothing from outside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from dni_deploy.agreement import QUANTILES, Drift, LayerIndex
from dni_deploy.errors import shown
from dni_deploy.midpoint import Midpoint

_STYLE = """
:root{color-scheme:light dark;--back:#faf9f6;--ink:#1d2329;--soft:#5b6570;--line:#dcd8d0;--mark:#b8420e}
@media (prefers-color-scheme:dark){:root{--back:#14171a;--ink:#ece8e1;--soft:#a5adb5;--line:#363d43;--mark:#ff8f52}}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:72rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1 b{color:var(--mark)}figure{margin:1rem 0;background:#fff;border-radius:.5rem;padding:.5rem;overflow-x:auto}
svg{display:block;max-width:100%;height:auto}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{text-align:right;padding:.25rem .6rem;border-bottom:1px solid var(--line)}
th:nth-child(-n+2),td:nth-child(-n+2){text-align:left;overflow-wrap:anywhere}
"""


def check_page(
    verdict: str,
    members: Sequence[str],
    sentences: Sequence[str],
    svg: str,
    layers: Sequence[LayerIndex],
    drifts: Sequence[Drift],
    midpoints: Sequence[Midpoint],
) -> str:
    """The page as text. svg: the plot, as an element of its own without an XML declaration."""
    title = f"{', '.join(shown(name) for name in members)}: {verdict}"
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(', '.join(shown(name) for name in members))}: <b>{escape(verdict)}</b></h1><ul>",
        *(f"<li>{escape(shown(sentence, 1000))}</li>" for sentence in sentences),
        f'</ul><figure aria-label="correlation index of each layer">{svg}</figure>',
        *_table(
            "Correlation index",
            ("pair", "layer", "shape", "filters", "left out", *(f"{quantile} %" for quantile in QUANTILES)),
            (
                (
                    row.pair, row.layer, "x".join(map(str, row.shape)), row.filters, row.constant,
                    *(f"{value:.3f}" for value in row.quantiles),
                )
                for row in layers
            ),
        ),
        *_table(
            "BatchNorm statistics",
            ("pair", "layer", "mean moved, in deviations", "variance ratio"),
            ((row.pair, row.layer, f"{row.mean:.3f}", f"{row.variance:.3f}") for row in drifts),
        ),
        *_table(
            "Halfway",
            ("pair", "finite", "error", "departure", "brightness", "contrast"),
            (
                (
                    row.pair, "yes" if row.finite else "no", f"{row.error:.3f}", f"{row.departure:.3f}",
                    f"{row.brightness:+.3f}", f"{row.contrast:.3f}",
                )
                for row in midpoints
            ),
        ),
        "</main></body></html>\n",
    ]  # fmt: skip
    return "".join(parts)


def _table(title: str, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterable[str]:
    cells = ["".join(f"<td>{escape(shown(value))}</td>" for value in row) for row in rows]
    if cells:
        yield f'<h2>{title}</h2><div class="scroll"><table><tr>{"".join(f"<th>{header}</th>" for header in headers)}</tr>'
        yield from (f"<tr>{row}</tr>" for row in cells)
        yield "</table></div>"
