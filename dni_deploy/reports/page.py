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

from dni_deploy.errors import UsageError, shown
from dni_deploy.imaging.frames import Frame
from dni_deploy.imaging.metrics.psnr import decibels
from dni_deploy.reports.page_parts import SCRIPT, STYLE

LOSSLESS_PIXELS = 8_000_000
"""Up to this many pixels in all, the pictures are written without loss; beyond, as JPEG of quality 95."""

LONGEST = 1600
"""Longest side in pixels of a picture on the page."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""The page may load nothing at all, wherever it is put."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 250, 48, 12, 16, 36
"""Of the chart, in its own units."""


@dataclass(frozen=True)
class Shot:
    """One position of the slider: the frame, its alpha in words, and its PSNR in dB where there is a reference.

    pixels: PSNR of blending the pixels of the two ends instead, at the same share.
    """

    frame: Frame
    alpha: str
    psnr: float | None = None
    pixels: float | None = None


def page(
    shots: Sequence[Shot],
    before: Frame,
    *,
    title: str,
    lead: str,
    ends: tuple[str, str],
    best: int | None = None,
    blend_pixels: bool = False,
    levels: Mapping[str, float] | None = None,
    facts: Mapping[str, str] | None = None,
) -> str:
    """The page as text; every name in it is escaped.

    ends: what the slider's left and right end are called. best: the shot that it starts at (the middle one if None).
    blend_pixels: offer the blend of the first and the last picture's pixels beside the network's. levels: PSNR by name, drawn
    as lines. facts: shown as a list. Raises UsageError for fewer than two shots.
    """
    if len(shots) < 2:
        raise UsageError(f"A page with a slider needs at least 2 pictures, got {len(shots)}.")
    start = len(shots) // 2 if best is None else best
    size = max(max(shot.frame.shape[:2]) for shot in shots)
    lossless = size <= LONGEST and sum(shot.frame.shape[0] * shot.frame.shape[1] for shot in shots) <= LOSSLESS_PIXELS
    chart = _Chart(shots, levels or {})
    rows = [
        {
            "alpha": shot.alpha,
            "network": "blended weights" + (f": {decibels(shot.psnr)}" if shot.psnr is not None else ""),
            "pixels": "blended pixels" + (f": {decibels(shot.pixels)}" if shot.pixels is not None else ""),
            "position": index / (len(shots) - 1),
            "x": chart.x(index),
            "y": chart.y(shot.psnr),
            "other": chart.y(shot.pixels if shot.pixels is not None else shot.psnr),
        }
        for index, shot in enumerate(shots)
    ]
    images = [
        f'<img class="shot" alt="Output, {escape(shot.alpha)}" src="{_uri(shot.frame, lossless)}"{"" if index == start else " hidden"}>'
        for index, shot in enumerate(shots)
    ]
    if blend_pixels:
        images.append(f'<img class="over" id="second" alt="" src="{_uri(shots[-1].frame, lossless)}" hidden>')
    images.append(f'<img class="over" id="input" alt="Input" src="{_uri(before, lossless)}">')
    told = f"<b>{escape(shots[start].alpha)}</b><br>{escape(str(rows[start]['network']))}"
    widest = max(shots[0].frame.shape[1], 640)
    quality = "without loss" if lossless else "as JPEG of quality 95"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
<p class="lead">{escape(lead)}</p>
<div class="desk">
<figure class="card">
<div class="stage" id="stage" style="--widest:{widest}px">
{chr(10).join(images)}
</div>
</figure>
<div class="stack">
<div class="card">
<label for="alpha">alpha</label>
<input type="range" id="alpha" min="0" max="{len(shots) - 1}" step="1" value="{start}" aria-describedby="told">
<div class="ends"><span>{escape(ends[0])}</span><span>{escape(ends[1])}</span></div>
<output id="told" for="alpha" aria-live="off">{told}</output>
{_views() if blend_pixels else ""}
<label for="cut">Uncover the input</label>
<input type="range" id="cut" min="0" max="100" step="1" value="0">
</div>
{chart.svg(start, best)}
{_facts(facts or {})}
</div>
</div>
{_table(shots, best)}
<noscript><p>The slider needs scripts; without them the page shows one picture and the table.</p></noscript>
<footer>Made by dni-deploy. This file holds everything it shows, loads nothing, and keeps the pictures {quality}.</footer>
</main>
<script type="application/json" id="facts">{_json({"start": start, "rows": rows})}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


class _Chart:
    """PSNR over the slider's positions; without a reference, nothing."""

    def __init__(self, shots: Sequence[Shot], levels: Mapping[str, float]) -> None:
        self.last = len(shots) - 1
        self.network = [shot.psnr for shot in shots]
        self.pixels = [shot.pixels for shot in shots]
        self.levels = {name: level for name, level in levels.items() if math.isfinite(level)}
        finite = [value for value in (*self.network, *self.pixels, *self.levels.values()) if _finite(value)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)  # type: ignore[type-var]
        margin = max(0.05 * (high - low), 0.05)  # type: ignore[operator]
        self.low, self.high = low - margin, high + margin  # type: ignore[operator]
        self.empty = not any(_finite(value) for value in self.network)

    def x(self, index: int) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * index / self.last, 1)

    def y(self, value: float | None) -> float:
        if value is None or not math.isfinite(value):
            return TOP
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low), 1)

    def svg(self, start: int, best: int | None) -> str:
        if self.empty:
            return ""
        parts = []
        step = _round_step(self.high - self.low)
        for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            y = self.y(number * step)
            parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{number * step:g}</text>')
        for name, level in self.levels.items():
            parts.append(f'<path class="level" d="M{LEFT} {self.y(level)}H{WIDTH - RIGHT}"/>')
            parts.append(
                f'<text x="{WIDTH - RIGHT - 4}" y="{self.y(level) - 4}" text-anchor="end">{escape(name)} {level:.2f} dB</text>'
            )
        for kind, values in (("other", self.pixels), ("curve", self.network)):
            points = [f"{self.x(index)},{self.y(value)}" for index, value in enumerate(values) if _finite(value)]
            if len(points) > 1:
                parts.append(f'<polyline class="{kind}" points="{" ".join(points)}"/>')
        parts.append(f'<circle class="now" id="now" r="6" cx="{self.x(start)}" cy="{self.y(self.network[start])}"/>')
        for index in (0, self.last):
            anchor = "start" if index == 0 else "end"
            parts.append(
                f'<text x="{self.x(index)}" y="{HEIGHT - 12}" text-anchor="{anchor}">alpha {index / self.last:g}</text>'
            )
        told = (
            f"PSNR over the sweep, best at position {best + 1} of {self.last + 1}"
            if best is not None
            else "PSNR over the sweep"
        )
        legend = '<p class="soft">Solid: blended weights. Dashed: blended pixels.</p>' if _finite(self.pixels[0]) else ""
        return (
            f'<div class="card"><h2>PSNR in dB</h2><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}; the table below '
            f'has the numbers">{"".join(parts)}</svg>{legend}</div>'
        )


def _views() -> str:
    return """<fieldset><legend class="label">Show</legend>
<label><input type="radio" name="view" value="network" checked>blended weights</label>
<label><input type="radio" name="view" value="pixels">blended pixels of the two ends</label>
</fieldset>"""


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f'<div class="card"><h2>Measured</h2><dl>{items}</dl></div>'


def _table(shots: Sequence[Shot], best: int | None) -> str:
    if all(shot.psnr is None for shot in shots):
        return ""
    pixels = any(shot.pixels is not None for shot in shots)
    head = '<th scope="col">alpha</th><th scope="col">blended weights</th>' + ('<th scope="col">blended pixels</th>' * pixels)
    rows = []
    for index, shot in enumerate(shots):
        cells = [escape(shot.alpha), "" if shot.psnr is None else decibels(shot.psnr)]
        cells += ["" if shot.pixels is None else decibels(shot.pixels)] * pixels
        mark = ' class="best"' if index == best else ""
        rows.append(f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return (
        f'<details><summary>All numbers</summary><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _uri(frame: Frame, lossless: bool) -> str:
    image = Image.fromarray(frame)
    if max(image.size) > LONGEST:
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=95, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace("&", "\\u0026")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _round_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that about five lines fit."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next((factor * power for factor in (1, 2, 5) if span / (factor * power) <= 6), 10 * power)


def check_page_name(path: object) -> None:
    """Raises UsageError for a name that a browser would not take for a page."""
    if not str(path).lower().endswith((".html", ".htm")):
        raise UsageError(f"A page is written as .html; got {shown(path)}. Nothing was written.")
