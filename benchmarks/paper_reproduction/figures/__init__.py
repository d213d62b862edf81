"""The figures, in the page's order: each module has `figure(bench) -> Section`."""

from __future__ import annotations

FIGURES = (
    "filters",
    "distributions",
    "best_alpha",
    "scratch",
    "super_resolution",
    "regions",
    "image_to_image",
    "style",
    "style_parts",
    "semantic",
    "correlations",
    "smoothness",
)
