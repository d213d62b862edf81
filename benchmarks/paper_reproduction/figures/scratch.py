"""Scratch: the control. Two nets that were not fine-tuned from one another do not blend (section 3.2)."""

from __future__ import annotations

import numpy as np

from benchmarks.paper_reproduction.bench import Bench
from benchmarks.paper_reproduction.drawing import canvas, png, strip
from benchmarks.paper_reproduction.families import FAMILIES
from benchmarks.paper_reproduction.photographs import middle, noisy
from benchmarks.paper_reproduction.section import Goal, Picture, Section, Table
from benchmarks.paper_reproduction.study import test_psnr
from dni_deploy.compatibility.agreement import filter_layers, layer_indices
from dni_deploy.compatibility.correlation import UNRELATED

ALPHAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NOISE = 40
COLLAPSE = 2.0
"""dB that the middle of the way loses against the worse of both ends: nobody would take it for a denoiser between them."""


def figure(bench: Bench) -> Section:
    """Correlation of N20 with a net trained from nothing, and PSNR along the way to it; beside it the fine-tuned N60."""
    figure, axes = canvas(1, 2, 3.0)
    goals: list[Goal] = []
    rows: list[tuple[str | float, ...]] = []
    pictures = []
    for place, family in zip(axes[0], ("three_layer", "dncnn"), strict=True):
        title = FAMILIES[family].title
        tensors = {name: bench.tensors(family, name) for name in ("n20", "n60", "scratch")}
        layers = filter_layers(tensors["n20"])
        curves = {}
        for other in ("n60", "scratch"):
            curves[other] = [test_psnr(bench.between(family, "n20", other, alpha), NOISE) for alpha in ALPHAS]
            place.plot(ALPHAS, curves[other], "o-", markersize=3, label=f"N20 to {other}")
            found, every = layer_indices(f"n20 - {other}", tensors["n20"], tensors[other], layers)
            medians = [row.median for row in found if row.median is not None]
            rows.append(
                (
                    title,
                    other,
                    float(np.median(every)),
                    max(medians, key=abs),
                    curves[other][0],
                    min(curves[other]),
                    curves[other][-1],
                )
            )
            if other == "scratch":
                goals.append(
                    Goal(
                        f"{title}: index of N20 and the net from scratch, median over all filters",
                        abs(float(np.median(every))),
                        "below",
                        UNRELATED,
                    )
                )
        ends = min(curves["scratch"][0], curves["scratch"][-1])
        goals.append(
            Goal(
                f"{title}: what the blend loses against the worse end",
                ends - min(curves["scratch"]),
                "at least",
                COLLAPSE,
                "dB",
            )
        )
        place.set(xlabel="alpha, the share of the second", title=f"{title}, noise {NOISE}")
        pictures.append(_pictures(bench, family))
    axes[0, 0].set_ylabel("PSNR, dB")
    axes[0, 0].legend()
    return Section(
        title="Nets trained from scratch do not blend",
        claim="two networks trained from scratch have filters in unrelated orders (index below 0.1), and a blend of them is meaningless "
        "(sections 3.2 and 4.5).",
        how=f"each net once more from another seed, for noise 60, from nothing; PSNR at noise {NOISE} on the way from N20 to it, and from "
        "N20 to the fine-tuned N60.",
        goals=tuple(goals),
        pictures=(
            Picture("scratch", png(figure), "PSNR along alpha, to the fine-tuned net and to the one from scratch."),
            *(
                Picture(f"scratch-{family.replace('_', '-')}", data, f"{FAMILIES[family].title}: N20 to the net from scratch.")
                for family, data in zip(("three_layer", "dncnn"), pictures, strict=True)
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


def _pictures(bench: Bench, family: str) -> bytes:
    given = noisy(middle("astronaut", 160), NOISE)
    alphas = (0.0, 0.25, 0.5, 0.75, 1.0)
    outputs = [bench.between(family, "n20", "scratch", alpha)(given) for alpha in alphas]
    return strip([given, *outputs], [f"noise {NOISE}", *(f"alpha {alpha:.2f}" for alpha in alphas)])
