"""The control from scratch: two nets that were not fine-tuned from one another do not blend (section 3.2)."""

from __future__ import annotations

import numpy as np

from benchmarks.families import TRAINED_FAMILIES
from benchmarks.paper_reproduction.bench import ReproductionBench
from benchmarks.paper_reproduction.drawing import canvas, png, strip
from benchmarks.paper_reproduction.section import FigureImage, ReproductionGoal, Section, Table
from benchmarks.paper_reproduction.study import test_psnr
from benchmarks.photographs import add_noise, middle
from dni_deploy.compatibility.correlation import MAX_UNRELATED_INDEX, find_filter_layers, measure_layer_correlations

SWEEP_ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NOISE_SIGMA = 40
MIN_COLLAPSE_DB = 2.0
"""Smallest loss against the worse end that counts as a collapse, since no denoiser between the two would be that bad."""


def figure(bench: ReproductionBench) -> Section:
    """Correlates N20 with a net trained from scratch, and measures PSNR along alpha to it and to the fine-tuned N60."""
    figure, axes = canvas(1, 2, 3.0)
    goals: list[ReproductionGoal] = []
    rows: list[tuple[str | float, ...]] = []
    strips = []
    for panel, family in zip(axes[0], ("three_layer", "dncnn"), strict=True):
        title = TRAINED_FAMILIES[family].title
        tensors = {name: bench.tensors(family, name) for name in ("n20", "n60", "scratch")}
        layers = find_filter_layers(tensors["n20"])
        curves = {}
        for other in ("n60", "scratch"):
            curves[other] = [test_psnr(bench.between(family, "n20", other, alpha), NOISE_SIGMA) for alpha in SWEEP_ALPHAS]
            panel.plot(SWEEP_ALPHAS, curves[other], "o-", markersize=3, label=f"N20 to {other}")
            layer_rows, all_indices = measure_layer_correlations(f"n20 - {other}", tensors["n20"], tensors[other], layers)
            medians = [row.median for row in layer_rows if row.median is not None]
            rows.append(
                (
                    title,
                    other,
                    float(np.median(all_indices)),
                    max(medians, key=abs),
                    curves[other][0],
                    min(curves[other]),
                    curves[other][-1],
                )
            )
            if other == "scratch":
                goals.append(
                    ReproductionGoal(
                        f"{title}: index of N20 and the net from scratch, median over all filters",
                        abs(float(np.median(all_indices))),
                        "below",
                        MAX_UNRELATED_INDEX,
                    )
                )
        ends = min(curves["scratch"][0], curves["scratch"][-1])
        goals.append(
            ReproductionGoal(
                f"{title}: what the blend loses against the worse end",
                ends - min(curves["scratch"]),
                "at least",
                MIN_COLLAPSE_DB,
                "dB",
            )
        )
        panel.set(xlabel="share of the second", title=f"{title}, noise {NOISE_SIGMA}")
        strips.append(_draw_strip(bench, family))
    axes[0, 0].set_ylabel("PSNR, dB")
    axes[0, 0].legend()
    return Section(
        title="Nets trained from scratch do not blend",
        claim="two networks trained from scratch have filters in unrelated orders (index below 0.1), and a blend of them is meaningless "
        "(sections 3.2 and 4.5).",
        how=f"each net once more from another seed, for noise 60, from nothing; PSNR at noise "
        f"{NOISE_SIGMA} on the way from N20 to it, and from "
        "N20 to the fine-tuned N60.",
        goals=tuple(goals),
        pictures=(
            FigureImage("scratch", png(figure), "PSNR along alpha, to the fine-tuned net and to the one from scratch."),
            *(
                FigureImage(
                    f"scratch-{family.replace('_', '-')}",
                    data,
                    f"{TRAINED_FAMILIES[family].title}: N20 to the net from scratch.",
                )
                for family, data in zip(("three_layer", "dncnn"), strips, strict=True)
            ),
        ),
        tables=(
            Table(
                (
                    "net",
                    "N20 to",
                    "median index",
                    "layer of the largest median",
                    "N20, dB",
                    "lowest between, dB",
                    "other end, dB",
                ),
                tuple(rows),
            ),
        ),
    )


def _draw_strip(bench: ReproductionBench, family: str) -> bytes:
    noisy = add_noise(middle("astronaut", 160), NOISE_SIGMA)
    alphas = (0.0, 0.25, 0.5, 0.75, 1.0)
    outputs = [bench.between(family, "n20", "scratch", alpha)(noisy) for alpha in alphas]
    return strip([noisy, *outputs], [f"noise {NOISE_SIGMA}", *(f"alpha {alpha:.2f}" for alpha in alphas)])
