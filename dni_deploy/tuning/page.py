"""Tune page: the finding, the plot, the pictures and every evaluation as one HTML file that needs nothing from outside."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape

from PIL import Image

from dni_deploy.errors import escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.reports.page import CONTENT_SECURITY_POLICY
from dni_deploy.tuning.plot import plot_tuning
from dni_deploy.tuning.report import TuneReport

_PAGE_CSS = """
:root{color-scheme:light dark;--back:#faf9f6;--ink:#1d2329;--soft:#5b6570;--line:#dcd8d0;--mark:#b8420e}
@media (prefers-color-scheme:dark){:root{--back:#14171a;--ink:#ece8e1;--soft:#a5adb5;--line:#363d43;--mark:#ff8f52}}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:76rem;margin:0 auto;padding:1.5rem 1rem 3rem}
.plot{background:#fff;border-radius:.5rem;padding:.5rem;margin:1rem 0;overflow-x:auto}
.plot svg{display:block;max-width:100%;height:auto}
.shots{display:flex;flex-wrap:wrap;gap:1rem}.shots figure{margin:0;max-width:100%}
.shots img{display:block;max-width:100%;image-rendering:pixelated}
figcaption{color:var(--soft);font-size:.9rem}code{overflow-wrap:anywhere}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{text-align:right;padding:.2rem .7rem;border-bottom:1px solid var(--line)}tr.best td{color:var(--mark);font-weight:600}
"""

_PLOT_DESCRIPTION = "the measures of every blend; the table has the numbers"


def render_tune_page(report: TuneReport, frames: Mapping[str, Frame], image_name: str) -> str:
    """The page as text; every name in it is escaped. shots: frames by caption, of the first picture, without loss."""
    title = f"The best alpha of {', '.join(escape_name(name, 40) for name in report.members)}"
    svg = plot_tuning(report, "svg").decode()
    sentences = (*report.format_finding(), *report.notes)
    header = [*report.members, *(score.name for score in report.scores)]
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}"><title>{escape(title)}</title><link rel="icon" href="data:,">',
            f"<style>{_PAGE_CSS}</style></head><body><main><h1>{escape(title)}</h1>",
            *(f"<p>{escape(escape_name(sentence, 1000))}</p>" for sentence in sentences),
            f"<p><code>{escape(escape_name(report.format_next_command(), 1000))}</code></p>",
            f'<div class="plot" role="img" aria-label="{_PLOT_DESCRIPTION}">{svg[svg.index("<svg") :]}</div>',
            f'<h2>{escape(escape_name(image_name))}</h2><div class="shots">',
            *(
                f'<figure><img alt="{escape(caption)}" src="{_encode_data_uri(frame)}"><figcaption>{escape(caption)}</figcaption></figure>'
                for caption, frame in frames.items()
            ),
            f"</div><h2>{len(report.evaluations)} evaluations</h2>",
            '<div class="scroll"><table><thead><tr>',
            *(f"<th>{escape(escape_name(name, 60))}</th>" for name in header),
            "</tr></thead><tbody>",
            *(_render_row(report, index) for index in range(len(report.evaluations))),
            "</tbody></table></div></main></body></html>\n",
        )
    )


def _render_row(report: TuneReport, index: int) -> str:
    row = report.evaluations[index]
    cells = [f"{share:g}" for share in row.coefficients]
    cells += [score.format_value(value) for score, value in zip(report.scores, row.values, strict=True)]
    mark = ' class="best"' if index == report.chosen_index else ""
    return f"<tr{mark}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _encode_data_uri(frame: Frame) -> str:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
