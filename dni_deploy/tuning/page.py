"""The page of a search: what was found, the plot, the images and every evaluation."""

from __future__ import annotations

from collections.abc import Mapping

from dni_deploy.imaging.frame_encoding import encode_data_uri
from dni_deploy.imaging.frames import Frame
from dni_deploy.reports.page import render_page
from dni_deploy.tuning.plot import plot_tuning_panels
from dni_deploy.tuning.report import TuneReport


def render_tune_page(report: TuneReport, frames: Mapping[str, Frame], image_name: str) -> str:
    """Renders the page.

    Args:
        report: The search.
        frames: What to show of one image by caption, uint8 (H, W, 3); embedded without loss.
        image_name: What that image is called.

    Returns:
        The HTML text.
    """
    rows = [
        {
            "is_chosen": index == report.chosen_index,
            "cells": [
                *(f"{coefficient:g}" for coefficient in evaluation.coefficients),
                *(score.format_value(value) for score, value in zip(report.scores, evaluation.values, strict=True)),
            ],
        }
        for index, evaluation in enumerate(report.evaluations)
    ]
    values = {
        "title": f"The best alpha of {', '.join(report.members)}",
        "command": "tune",
        "sentences": (*report.format_finding(), *report.notes),
        "command_line": report.format_next_command(),
        "plots": [{"svg": svg[svg.index(b"<svg") :].decode()} for svg in plot_tuning_panels(report)],
        "image_name": image_name,
        "frames": [{"caption": caption, "image": encode_data_uri(frame)} for caption, frame in frames.items()],
        "evaluation_count": len(rows),
        "header": [*(f"share of {name}" for name in report.members), *(score.name for score in report.scores)],
        "rows": rows,
        "footnote": "",
    }
    return render_page("dni_deploy.tuning", "page", values)
