"""Distributions: the correlation index with N20 in a front and in a back layer of DnCNN (Fig. 4 of the paper)."""

from __future__ import annotations

import numpy as np

from benchmarks.families import LEVEL_MEMBERS
from benchmarks.paper_reproduction.bench import ReproductionBench
from benchmarks.paper_reproduction.drawing import canvas, png
from benchmarks.paper_reproduction.section import FigureImage, ReproductionGoal, Section, Table
from benchmarks.paper_reproduction.study import END_MEMBERS, INNER_LEVELS, level_sweep
from dni_deploy.compatibility.correlation import correlate_filters

FAMILY_NAME = "dncnn"
CONVOLUTION_NUMBERS = (5, 12)
"""The paper's front and back layer: the 5th and the 12th convolution."""
MIN_MEDIAN_FALL = 0.01
"""Smallest fall of the median that is visible on an axis of 0 to 1."""


def figure(bench: ReproductionBench) -> Section:
    """Computes the index of every filter of two layers, learned and interpolated."""
    alphas = (0.0, *(level_sweep(bench, FAMILY_NAME, level).best_alpha for level in INNER_LEVELS), 1.0)
    members = [bench.tensors(FAMILY_NAME, name) for name in LEVEL_MEMBERS]
    blends = [bench.tensors(FAMILY_NAME, {END_MEMBERS[0]: 1 - alpha, END_MEMBERS[1]: alpha}) for alpha in alphas]
    convolutions = [name for name, tensor in members[0].items() if tensor.ndim == 4]
    figure, axes = canvas(1, 2, 3.0, sharey=True)
    rows: list[tuple[str | float, ...]] = []
    distances = []
    for panel, layer in zip(axes[0], (convolutions[number - 1] for number in CONVOLUTION_NUMBERS), strict=True):
        learned, blended = (
            [correlate_filters(weights[0][layer], weight[layer]) for weight in weights]
            for weights in (members, [members[0], *blends[1:]])
        )
        distances += [abs(np.median(one) - np.median(other)) for one, other in zip(learned, blended, strict=True)]
        for shift, values, name in ((-1.7, learned, "learned"), (1.7, blended, "interpolated")):
            color = "C0" if name == "learned" else "C1"
            panel.violinplot(values[1:], [20 + 10 * index + shift for index in range(1, 5)], widths=3, showextrema=False)
            panel.plot(
                [20 + 10 * index for index in range(5)], [np.median(value) for value in values], "o-", color=color, label=name
            )
        panel.set(xlabel="noise level", title=f"convolution {CONVOLUTION_NUMBERS[len(rows) // len(LEVEL_MEMBERS)]}, {layer}")
        rows += [
            (
                f"{CONVOLUTION_NUMBERS[len(distances) // len(LEVEL_MEMBERS) - 1]}",
                name,
                alpha,
                float(np.median(one)),
                float(np.percentile(one, 5)),
                float(np.percentile(one, 95)),
                float(np.median(other)),
            )
            for name, alpha, one, other in zip(LEVEL_MEMBERS, alphas, learned, blended, strict=True)
        ]
    axes[0, 0].set_ylabel("index with N20")
    axes[0, 0].legend()
    medians = {number: [float(row[3]) for row in rows if row[0] == str(number)] for number in CONVOLUTION_NUMBERS}
    return Section(
        title="Front and back layers of DnCNN tell the same",
        claim="the same holds for DnCNN: median and distribution of the index over the filters of the 5th and the 12th convolution "
        "fall gradually with the level, alike in both, and interpolated filters follow them (section 3.2, Fig. 4).",
        how="DnCNN-17; the index of Eq. 3 with N20 of all 64 filters of a layer; alpha of each level from the 0.05 sweep.",
        goals=(
            ReproductionGoal("lowest median of both layers, N30 to N60", min(map(min, medians.values())), "at least", 0.689),
            ReproductionGoal(
                "fall of the median by N60, the layer where it is smaller",
                1 - max(found[-1] for found in medians.values()),
                "at least",
                MIN_MEDIAN_FALL,
            ),
            ReproductionGoal(
                "largest rise of a median from one level to the next (0: it never rises)",
                max(0.0, *(float(np.diff(values).max()) for values in medians.values())),
                "at most",
                0.005,
            ),
            ReproductionGoal(
                "largest distance of the medians, learned and interpolated", float(max(distances)), "at most", 0.05
            ),
            ReproductionGoal(
                "largest distance of the two layers' medians",
                max(abs(one - other) for one, other in zip(*medians.values(), strict=True)),
                "at most",
                0.1,
            ),
        ),
        pictures=(
            FigureImage("distributions", png(figure), "Index with N20 by level: median (lines) and distribution (violins)."),
        ),
        tables=(Table(("convolution", "net", "alpha", "median", "5 %", "95 %", "median, interpolated"), tuple(rows), 5),),
        otherwise="This family was kept near N20 on purpose (few steps at a low rate, for blends that fit): its filters turn very "
        "little, in the right order and alike in both layers, but not as far as in the paper's figure.",
    )
