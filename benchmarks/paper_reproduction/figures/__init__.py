"""The figures, in the page's order: each module has `figure(bench) -> Section`."""

from __future__ import annotations

FIGURE_MODULES = (
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
