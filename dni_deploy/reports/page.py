"""Page: one self-contained HTML file with a slider over the pictures of a sweep."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from dni_deploy.errors import UsageError, escape_name
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.metrics.psnr import format_db

PAGE_CSS = """
:root{color-scheme:light dark;--back:#faf9f6;--card:#fff;--ink:#1d2329;--soft:#5b6570;--line:#dcd8d0;--mark:#b8420e;--second:#3b6ea5}
@media (prefers-color-scheme:dark){
:root{--back:#14171a;--card:#1d2226;--ink:#ece8e1;--soft:#a5adb5;--line:#363d43;--mark:#ff8f52;--second:#7fb2ea}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:72rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:clamp(1.4rem,4vw,2rem);line-height:1.2;margin:0 0 .4rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:0 0 .5rem}
p{margin:0 0 1rem}
.lead,.soft{color:var(--soft)}
.desk{display:grid;gap:1.25rem;grid-template-columns:minmax(0,1fr)}
@media (min-width:60rem){.desk{grid-template-columns:minmax(0,3fr) minmax(18rem,2fr);align-items:start}
figure.card{position:sticky;top:1rem}}
.card{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem}
figure{margin:0}
.stage{position:relative;overflow:hidden;border-radius:.35rem;background:var(--line);max-width:min(100%,var(--widest));margin:0 auto}
.stage img{display:block;width:100%;height:auto}
.stage img.over{position:absolute;inset:0;height:100%}
.stage img[hidden]{display:none}
#input{clip-path:inset(0 calc(100% - var(--cut,0%)) 0 0)}
.stage::after{content:"";position:absolute;top:0;bottom:0;left:var(--cut,0%);width:2px;margin-left:-1px;background:#fff;
box-shadow:0 0 4px #000;opacity:var(--edge,0);pointer-events:none}
label,.label{display:block;font-weight:600}
input[type=range]{width:100%;height:2.25rem;margin:.1rem 0;accent-color:var(--mark);cursor:pointer}
input:focus-visible,summary:focus-visible{outline:3px solid var(--second);outline-offset:2px;border-radius:.3rem}
.ends{display:flex;justify-content:space-between;gap:1rem;font-size:.875rem;color:var(--soft)}
.ends span{overflow-wrap:anywhere}
output{display:block;font-size:1.15rem;font-variant-numeric:tabular-nums;min-height:3.4em;overflow-wrap:anywhere}
output b{color:var(--mark)}
legend{padding:0}fieldset{border:0;padding:0;margin:0 0 1rem}
fieldset label{display:inline-flex;align-items:center;gap:.4rem;min-height:2.25rem;margin-right:1rem;font-weight:400;cursor:pointer}
fieldset input{accent-color:var(--mark);width:1.1rem;height:1.1rem}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font-size:14px}
svg .grid{stroke:var(--line)}svg .curve{fill:none;stroke:var(--mark);stroke-width:2.5}
svg .other{fill:none;stroke:var(--second);stroke-width:2;stroke-dasharray:6 5}
svg .level{stroke:var(--soft);stroke-dasharray:2 4}
svg .now{fill:var(--mark);stroke:var(--card);stroke-width:2}
dl{display:grid;grid-template-columns:auto 1fr;gap:.25rem 1rem;margin:0}
dt{color:var(--soft)}dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
svg+p{margin:.25rem 0 0}.stack>*+*{margin-top:1.25rem}
details{margin-top:1.25rem}summary{cursor:pointer;font-weight:600;padding:.4rem 0}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.3rem .6rem;border-bottom:1px solid var(--line)}th:first-child,td:first-child{text-align:left}
tr.best td{color:var(--mark);font-weight:600}
footer{margin-top:2rem;font-size:.875rem;color:var(--soft)}
"""

PAGE_SCRIPT = """
(() => {
  "use strict";
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const at = id => document.getElementById(id);
  const stage = at("stage"), slider = at("alpha"), cut = at("cut"), told = at("told"), now = at("now");
  const shots = [...stage.querySelectorAll("img.shot")], top = at("second");
  let shown = facts.start, view = "network";
  function draw() {
    const row = facts.rows[shown], pixels = view === "pixels";
    shots.forEach((image, index) => { image.hidden = pixels ? index !== 0 : index !== shown; });
    if (top) { top.hidden = !pixels; top.style.opacity = row.position; }
    told.replaceChildren();
    const strong = document.createElement("b");
    strong.textContent = row.alpha;
    told.append(strong, document.createElement("br"), pixels ? row.pixels : row.network);
    slider.setAttribute("aria-valuetext", row.alpha + ". " + (pixels ? row.pixels : row.network));
    if (now) { now.setAttribute("cx", row.x); now.setAttribute("cy", pixels ? row.other : row.y); }
    stage.dataset.shown = shown;
    stage.dataset.view = view;
  }
  slider.addEventListener("input", () => { shown = Number(slider.value); draw(); });
  cut.addEventListener("input", () => {
    stage.style.setProperty("--cut", cut.value + "%");
    stage.style.setProperty("--edge", Number(cut.value) > 0 && Number(cut.value) < 100 ? 1 : 0);
    cut.setAttribute("aria-valuetext", cut.value + " percent of the width shows the input");
  });
  document.querySelectorAll("input[name=view]").forEach(choice =>
    choice.addEventListener("change", () => { view = choice.value; draw(); }));
  // A browser may restore the sliders of an earlier visit; the page starts as it was written.
  slider.value = facts.start; cut.value = 0;
  document.querySelectorAll("input[name=view]").forEach(choice => { choice.checked = choice.value === "network"; });
  draw();
})();
"""

MAX_LOSSLESS_PIXELS = 8_000_000
"""Up to this many pixels in all, the pictures are written without loss; beyond, as JPEG of quality 95."""

MAX_IMAGE_SIDE_PX = 1600
"""Longest side in pixels of a picture on the page."""

CONTENT_SECURITY_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The page may load nothing at all, wherever it is put."""

CHART_WIDTH, CHART_HEIGHT, CHART_LEFT_MARGIN, CHART_RIGHT_MARGIN, CHART_TOP_MARGIN, CHART_BOTTOM_MARGIN = (
    440,
    250,
    48,
    12,
    16,
    36,
)
"""Of the chart, in its own units."""


@dataclass(frozen=True)
class SweepFrame:
    """One position of the slider: the frame, its alpha in words, and its PSNR in dB where there is a reference.

    pixels: PSNR of blending the pixels of the two ends instead, at the same share.
    """

    frame: Frame
    alpha_text: str
    psnr: float | None = None
    pixel_blend_psnr: float | None = None


def render_slider_page(
    sweep_frames: Sequence[SweepFrame],
    input_frame: Frame,
    *,
    title: str,
    introduction: str,
    end_labels: tuple[str, str],
    best_index: int | None = None,
    blend_pixels: bool = False,
    levels: Mapping[str, float] | None = None,
    summary: Mapping[str, str] | None = None,
) -> str:
    """The page as text; every name in it is escaped.

    ends: what the slider's left and right end are called. best: the shot that it starts at (the middle one if None).
    blend_pixels: offer the blend of the first and the last picture's pixels beside the network's. levels: PSNR by name, drawn
    as lines. facts: shown as a list. Raises UsageError for fewer than two shots.
    """
    if len(sweep_frames) < 2:
        raise UsageError(f"A page with a slider needs at least 2 pictures, got {len(sweep_frames)}.")
    start = len(sweep_frames) // 2 if best_index is None else best_index
    size = max(max(shot.frame.shape[:2]) for shot in sweep_frames)
    lossless = (
        size <= MAX_IMAGE_SIDE_PX
        and sum(shot.frame.shape[0] * shot.frame.shape[1] for shot in sweep_frames) <= MAX_LOSSLESS_PIXELS
    )
    chart = _PsnrChart(sweep_frames, levels or {})
    rows = [
        {
            "alpha": shot.alpha_text,
            "network": "blended weights" + (f": {format_db(shot.psnr)}" if shot.psnr is not None else ""),
            "pixels": "blended pixels" + (f": {format_db(shot.pixel_blend_psnr)}" if shot.pixel_blend_psnr is not None else ""),
            "position": index / (len(sweep_frames) - 1),
            "x": chart.x_of_index(index),
            "y": chart.y_of_psnr(shot.psnr),
            "other": chart.y_of_psnr(shot.pixel_blend_psnr if shot.pixel_blend_psnr is not None else shot.psnr),
        }
        for index, shot in enumerate(sweep_frames)
    ]
    images = [
        f'<img class="shot" alt="Output, {escape(shot.alpha_text)}" src="{_encode_data_uri(shot.frame, lossless)}"{"" if index == start else " hidden"}>'
        for index, shot in enumerate(sweep_frames)
    ]
    if blend_pixels:
        images.append(
            f'<img class="over" id="second" alt="" src="{_encode_data_uri(sweep_frames[-1].frame, lossless)}" hidden>'
        )
    images.append(f'<img class="over" id="input" alt="Input" src="{_encode_data_uri(input_frame, lossless)}">')
    told = f"<b>{escape(sweep_frames[start].alpha_text)}</b><br>{escape(str(rows[start]['network']))}"
    widest = max(sweep_frames[0].frame.shape[1], 640)
    quality = "without loss" if lossless else "as JPEG of quality 95"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{PAGE_CSS}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="lead">{escape(introduction)}</p>
<div class="desk">
<figure class="card">
<div class="stage" id="stage" style="--widest:{widest}px">
{chr(10).join(images)}
</div>
</figure>
<div class="stack">
<div class="card">
<label for="alpha">alpha</label>
<input type="range" id="alpha" min="0" max="{len(sweep_frames) - 1}" step="1" value="{start}" aria-describedby="told">
<div class="ends"><span>{escape(end_labels[0])}</span><span>{escape(end_labels[1])}</span></div>
<output id="told" for="alpha" aria-live="off">{told}</output>
{_render_view_choice() if blend_pixels else ""}
<label for="cut">Uncover the input</label>
<input type="range" id="cut" min="0" max="100" step="1" value="0">
</div>
{chart.render_svg(start, best_index)}
{_render_summary(summary or {})}
</div>
</div>
{_render_table(sweep_frames, best_index)}
<noscript><p>The slider needs scripts; without them the page shows one picture and the table.</p></noscript>
<footer>Made by dni-deploy. This file holds everything it shows, loads nothing, and keeps the pictures {quality}.</footer>
</main>
<script type="application/json" id="facts">{_to_script_json({"start": start, "rows": rows})}</script>
<script>{PAGE_SCRIPT}</script>
</body>
</html>
"""


class _PsnrChart:
    """PSNR over the slider's positions; without a reference, nothing."""

    def __init__(self, sweep_frames: Sequence[SweepFrame], levels: Mapping[str, float]) -> None:
        self.last_index = len(sweep_frames) - 1
        self.network_psnrs = [shot.psnr for shot in sweep_frames]
        self.pixel_psnrs = [shot.pixel_blend_psnr for shot in sweep_frames]
        self.levels = {name: level for name, level in levels.items() if math.isfinite(level)}
        finite = [value for value in (*self.network_psnrs, *self.pixel_psnrs, *self.levels.values()) if _is_finite(value)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)  # type: ignore[type-var]
        margin = max(0.05 * (high - low), 0.05)  # type: ignore[operator]
        self.axis_min, self.axis_max = low - margin, high + margin  # type: ignore[operator]
        self.is_empty = not any(_is_finite(value) for value in self.network_psnrs)

    def x_of_index(self, index: int) -> float:
        return round(CHART_LEFT_MARGIN + (CHART_WIDTH - CHART_LEFT_MARGIN - CHART_RIGHT_MARGIN) * index / self.last_index, 1)

    def y_of_psnr(self, value: float | None) -> float:
        if value is None or not math.isfinite(value):
            return CHART_TOP_MARGIN
        return round(
            CHART_TOP_MARGIN
            + (CHART_HEIGHT - CHART_TOP_MARGIN - CHART_BOTTOM_MARGIN)
            * (self.axis_max - value)
            / (self.axis_max - self.axis_min),
            1,
        )

    def render_svg(self, start: int, best_index: int | None) -> str:
        if self.is_empty:
            return ""
        parts = []
        step = _choose_grid_step(self.axis_max - self.axis_min)
        for number in range(math.ceil(self.axis_min / step), math.floor(self.axis_max / step) + 1):
            y = self.y_of_psnr(number * step)
            parts.append(f'<path class="grid" d="M{CHART_LEFT_MARGIN} {y}H{CHART_WIDTH - CHART_RIGHT_MARGIN}"/>')
            parts.append(f'<text x="{CHART_LEFT_MARGIN - 6}" y="{y + 4}" text-anchor="end">{number * step:g}</text>')
        for name, level in self.levels.items():
            parts.append(
                f'<path class="level" d="M{CHART_LEFT_MARGIN} {self.y_of_psnr(level)}H{CHART_WIDTH - CHART_RIGHT_MARGIN}"/>'
            )
            parts.append(
                f'<text x="{CHART_WIDTH - CHART_RIGHT_MARGIN - 4}" y="{self.y_of_psnr(level) - 4}" text-anchor="end">{escape(name)} {level:.2f} dB</text>'
            )
        for kind, values in (("other", self.pixel_psnrs), ("curve", self.network_psnrs)):
            points = [
                f"{self.x_of_index(index)},{self.y_of_psnr(value)}" for index, value in enumerate(values) if _is_finite(value)
            ]
            if len(points) > 1:
                parts.append(f'<polyline class="{kind}" points="{" ".join(points)}"/>')
        parts.append(
            f'<circle class="now" id="now" r="6" cx="{self.x_of_index(start)}" cy="{self.y_of_psnr(self.network_psnrs[start])}"/>'
        )
        for index in (0, self.last_index):
            anchor = "start" if index == 0 else "end"
            parts.append(
                f'<text x="{self.x_of_index(index)}" y="{CHART_HEIGHT - 12}" text-anchor="{anchor}">alpha {index / self.last_index:g}</text>'
            )
        told = (
            f"PSNR over the sweep, best at position {best_index + 1} of {self.last_index + 1}"
            if best_index is not None
            else "PSNR over the sweep"
        )
        legend = (
            '<p class="soft">Solid: blended weights. Dashed: blended pixels.</p>' if _is_finite(self.pixel_psnrs[0]) else ""
        )
        return (
            f'<div class="card"><h2>PSNR in dB</h2><svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{told}; the table below '
            f'has the numbers">{"".join(parts)}</svg>{legend}</div>'
        )


def _render_view_choice() -> str:
    return """<fieldset><legend class="label">Show</legend>
<label><input type="radio" name="view" value="network" checked>blended weights</label>
<label><input type="radio" name="view" value="pixels">blended pixels of the two ends</label>
</fieldset>"""


def _render_summary(summary: Mapping[str, str]) -> str:
    if not summary:
        return ""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in summary.items())
    return f'<div class="card"><h2>Measured</h2><dl>{items}</dl></div>'


def _render_table(sweep_frames: Sequence[SweepFrame], best_index: int | None) -> str:
    if all(shot.psnr is None for shot in sweep_frames):
        return ""
    pixels = any(shot.pixel_blend_psnr is not None for shot in sweep_frames)
    head = '<th scope="col">alpha</th><th scope="col">blended weights</th>' + ('<th scope="col">blended pixels</th>' * pixels)
    rows = []
    for index, shot in enumerate(sweep_frames):
        cells = [escape(shot.alpha_text), "" if shot.psnr is None else format_db(shot.psnr)]
        cells += ["" if shot.pixel_blend_psnr is None else format_db(shot.pixel_blend_psnr)] * pixels
        mark = ' class="best"' if index == best_index else ""
        rows.append(f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return (
        f'<details><summary>All numbers</summary><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _encode_data_uri(frame: Frame, lossless: bool) -> str:
    image = Image.fromarray(frame)
    if max(image.size) > MAX_IMAGE_SIDE_PX:
        image.thumbnail((MAX_IMAGE_SIDE_PX, MAX_IMAGE_SIDE_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _to_script_json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _choose_grid_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that about five lines fit."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next((factor * power for factor in (1, 2, 5) if span / (factor * power) <= 6), 10 * power)


def check_page_name(path: object) -> None:
    """Raises UsageError for a name that a browser would not take for a page."""
    if not str(path).lower().endswith((".html", ".htm")):
        raise UsageError(f"A page is written as .html; got {escape_name(path)}. Nothing was written.")
