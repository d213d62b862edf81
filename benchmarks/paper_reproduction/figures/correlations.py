"""Correlations: the index of every layer of every fine-tuned family, and of the controls."""

from __future__ import annotations

import numpy as np

from benchmarks.families import TRAINED_FAMILIES
from benchmarks.paper_reproduction.bench import ReproductionBench
from benchmarks.paper_reproduction.drawing import canvas, png
from benchmarks.paper_reproduction.section import FigureImage, ReproductionGoal, Section, Table
from dni_deploy.compatibility.correlation import MAX_UNRELATED_INDEX, MIN_BLENDING_INDEX, measure_layer_correlations


def figure(bench: ReproductionBench) -> Section:
    """Each member with the first of its family, layer by layer: as `dni-deploy check` does it."""
    rows: list[tuple[str | float, ...]] = []
    goals: list[ReproductionGoal] = []
    points: list[tuple[str, list[float], bool]] = []
    for family, row in TRAINED_FAMILIES.items():
        ancestor = next(iter(row.members))
        first = bench.tensors(family, ancestor)
        layers = bench.filter_layers(family)
        lowest = []
        for member in list(row.members)[1:]:
            found, every = measure_layer_correlations(f"{ancestor} - {member}", first, bench.tensors(family, member), layers)
            medians = [layer.median for layer in found if layer.median is not None]
            control = member in row.controls
            points.append((f"{family} {member}", medians, control))
            rows.append(
                (family, f"{ancestor} - {member}", float(np.median(every)), min(medians), max(medians), str(len(medians)))
            )
            if control:
                goals.append(
                    ReproductionGoal(
                        f"{row.title}, from scratch: median over all filters",
                        abs(float(np.median(every))),
                        "below",
                        MAX_UNRELATED_INDEX,
                    )
                )
            else:
                lowest.append(min(medians))
        goals.append(
            ReproductionGoal(
                f"{row.title}: lowest median of a layer, all fine-tuned members", min(lowest), "at least", MIN_BLENDING_INDEX
            )
        )
    figure, ((panel,),) = canvas(1, 1, 0.3 * len(points) + 0.8)
    for index, (_, medians, control) in enumerate(points):
        panel.plot(medians, [index] * len(medians), "|", color="C3" if control else "C0", markersize=9)
    panel.axvline(MIN_BLENDING_INDEX, color="grey", linestyle=":")
    panel.axvline(MAX_UNRELATED_INDEX, color="grey", linestyle=":")
    panel.set_yticks(range(len(points)), [name for name, _, _ in points])
    panel.invert_yaxis()
    panel.set(xlabel="median index of a layer, with the family's first member (dotted: 0.1 and 0.689)")
    return Section(
        title="Families that blend correlate, layer by layer",
        claim="successful families have an index in [0.689, 1), failures one below 0.1 (sections 3.2 and 4.5).",
        how="every convolution and linear layer of every family of this page: the median of Eq. 3 over its filters, each member with the "
        "one that it was fine-tuned from.",
        goals=tuple(goals),
        pictures=(FigureImage("correlations", png(figure), "Each mark is a layer; red: trained from scratch."),),
        tables=(Table(("family", "pair", "median, all filters", "lowest layer", "highest layer", "layers"), tuple(rows), 3),),
        otherwise="A layer below the bound moved far in its fine-tuning; whether the family blends all the same is for the figures above "
        "to show, the index alone does not decide it.",
    )
