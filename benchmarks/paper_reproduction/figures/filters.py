"""Filters: those of the three-layer net, learned for each level against interpolated (Fig. 3 of the paper)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.families import LEVEL_MEMBERS
from benchmarks.paper_reproduction.bench import ReproductionBench
from benchmarks.paper_reproduction.drawing import canvas, png, show
from benchmarks.paper_reproduction.section import FigureImage, ReproductionGoal, Section, Table
from benchmarks.paper_reproduction.study import END_MEMBERS, INNER_LEVELS, level_sweep
from dni_deploy.compatibility.correlation import correlate_filters

FAMILY_NAME = "three_layer"
LAYER_NAMES = ("conv1.weight", "conv2.weight", "conv3.weight")
SHOWN_FILTERS = 5
MAX_CURVE_DISTANCE = 0.02
"""Largest mean distance of two correlation curves that look like one on an axis of 0 to 1."""
MAX_DISTANCE_TO_FALL = 0.25
"""The same relative to the fall of the learned curve: if filters hardly change, any two curves look alike on that axis."""


def figure(bench: ReproductionBench) -> Section:
    """Blends N20 and N60 at each level's best alpha and compares every layer with the learned one."""
    alphas = {20: 0.0, **{level: level_sweep(bench, FAMILY_NAME, level).best_alpha for level in INNER_LEVELS}, 60: 1.0}
    members = [bench.tensors(FAMILY_NAME, name) for name in LEVEL_MEMBERS]
    blends = [bench.tensors(FAMILY_NAME, {END_MEMBERS[0]: 1 - alpha, END_MEMBERS[1]: alpha}) for alpha in alphas.values()]
    rows: list[tuple[str | float, ...]] = []
    curves: dict[str, list[NDArray[np.float64]]] = {}
    directs = []
    for layer in LAYER_NAMES:
        curves[layer] = [
            np.array([correlate_filters(members[0][layer], net[layer]) for net in nets]) for nets in (members, blends)
        ]
        direct = [correlate_filters(net[layer], blend[layer]) for net, blend in zip(members, blends, strict=True)]
        directs.append(float(min(np.median(index) for index in direct)))
        rows += [
            (
                layer,
                f"N{level}",
                f"{alpha:.2f}",
                *(float(curve[index].mean()) for curve in curves[layer]),
                float(direct[index].mean()),
            )
            for index, (level, alpha) in enumerate(alphas.items())
        ]
    # Filters of all layers in one row each, levels N30 to N50: at both ends the two curves are one.
    learned, blended = (np.concatenate([curves[layer][side][1:-1] for layer in LAYER_NAMES], axis=1) for side in (0, 1))
    distance = float(np.abs(learned - blended).mean())
    # The filters that change most: where nothing changes, two curves coincide whatever they are.
    moving = np.argsort(curves[LAYER_NAMES[0]][0][-1])[:SHOWN_FILTERS]
    return Section(
        title="Filters change gradually with the level, and interpolated ones fit the learned ones",
        claim="fine-tuned from N20, filters keep their order and change gradually; filters interpolated between N20 and N60 fit "
        "those learned for the levels between, and the correlation curves nearly coincide (section 3.2, Fig. 3).",
        how="three-layer net 9-5-9, filters of all layers (64, 32 and 3); alpha, the share of N60, is for each level the best one of the "
        "0.05 sweep; the index is Eq. 3, with N20's filter.",
        goals=(
            ReproductionGoal(
                "mean distance of the learned and the interpolated curve, all filters, N30 to N50",
                distance,
                "at most",
                MAX_CURVE_DISTANCE,
            ),
            ReproductionGoal(
                "the same in parts of the learned curve's fall",
                distance / float((1 - learned).mean()),
                "at most",
                MAX_DISTANCE_TO_FALL,
            ),
            ReproductionGoal(
                "index of the interpolated with the learned filter, lowest median of a layer and level",
                min(directs),
                "at least",
                0.95,
            ),
        ),
        pictures=(
            FigureImage(
                "filters", _filters(members, blends, alphas, moving), "The five filters of the first layer that change most."
            ),
            FigureImage(
                "filter-curves",
                _curves(curves, alphas),
                "Index with N20 by level: mean of a layer, and its five filters that change most.",
            ),
        ),
        tables=(
            Table(
                ("layer", "level", "alpha", "learned, index with N20", "interpolated", "interpolated with learned"),
                tuple(rows),
                4,
            ),
        ),
        otherwise="Here the filters of N20 move little, and much of what they move they owe to being trained on at all: the learned curve "
        "falls at N30 already, where the interpolated one falls evenly.",
    )


def _filters(members: Any, blends: Any, alphas: dict[int, float], moving: NDArray[np.intp]) -> bytes:
    figure, axes = canvas(SHOWN_FILTERS, 2 * len(LEVEL_MEMBERS), 4.6)
    for row, index in enumerate(moving):
        nets = [[net[LAYER_NAMES[0]][index] for net in side] for side in (members, blends)]
        scale = max(np.abs(weight).max() for side in nets for weight in side)
        for side, weights in enumerate(nets):
            for column, (level, alpha) in enumerate(alphas.items()):
                pixels = (weights[column].transpose(1, 2, 0) / scale + 1) / 2
                title = "" if row else f"learned, N{level}" if side == 0 else f"alpha {alpha:.2f}"
                show(axes[row, side * len(LEVEL_MEMBERS) + column], pixels, title)
    return png(figure)


def _curves(curves: dict[str, list[NDArray[np.float64]]], alphas: dict[int, float]) -> bytes:
    figure, axes = canvas(1, len(LAYER_NAMES), 3.0)
    levels = list(alphas)
    for panel, (layer, (learned, blended)) in zip(axes[0], curves.items(), strict=True):
        for number, index in enumerate(np.argsort(learned[-1])[:SHOWN_FILTERS], 1):
            panel.plot(levels, learned[:, index], "o-", color=f"C{number}", linewidth=0.8, markersize=2)
            panel.plot(levels, blended[:, index], "x--", color=f"C{number}", linewidth=0.8, markersize=3)
        panel.plot(levels, learned.mean(axis=1), "o-", color="k", label="learned, mean")
        panel.plot(levels, blended.mean(axis=1), "x--", color="k", label="interpolated, mean")
        panel.set(xlabel="noise level", title=layer)
    axes[0, 0].set_ylabel("index with N20")
    axes[0, 0].legend(fontsize=7)
    return png(figure)
