"""The channels of every convolution of a blend, moved to the blend of the members' statistics.

Without BatchNorm each layer's output shrinks where members are blended, so that what follows gets weaker signals than it was
trained for. Source: REPAIR (Jordan et al., ICLR 2023), which corrects halfway; here at every calibration point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dni_deploy.blending.blend import blend_float64
from dni_deploy.utils.progress import OptionalProgress, report_progress
from engines.lowering.calibration_nodes import (
    CorrectedLayer,
    Correction,
    find_convolutions,
    insert_calibration_nodes,
    make_neutral_tensors,
    parameter_names,
)
from engines.lowering.graph_rewriter import GraphRewriter
from engines.onnxruntime_cpu.statistics import BatchNormEstimator

Tensors = Mapping[str, NDArray[Any]]

VARIANCE_EPSILON = 1e-12
"""Added to a measured variance. The smallest that is not 0 in the public networks tried is 1e-8."""

MIN_DEVIATION = 1e-5
"""A channel with less in a member or the blend is as good as constant: only its mean is moved. Outputs are of the order of 1."""


def find_correctable_layers(graph: onnx.ModelProto, weight_names: tuple[str, ...]) -> dict[str, CorrectedLayer]:
    """Finds the convolutions of more than one pixel, by the name of their value: of one pixel nothing has a deviation."""
    shapes = GraphRewriter.from_graph(graph, weight_names).shapes
    convolutions = find_convolutions(graph, weight_names)
    return {value: layer for value, layer in convolutions.items() if shapes.get(value, ())[2:] != (1, 1)}


def fit_channels(
    graph: onnx.ModelProto,
    members: Sequence[Tensors],
    points: NDArray[np.float64],
    batches: Sequence[NDArray[np.float32]],
    threads: int = 0,
    progress: OptionalProgress = None,
) -> dict[CorrectedLayer, list[Correction]]:
    """Fits the corrections of all layers at each point.

    Every layer is measured behind layers that are corrected, and in one run: the nodes of the graph normalize by what they
    measure.

    Args:
        graph: The bundle's graph.
        members: Each member's weights by name.
        points: float64 (K, N), coefficients.
        batches: Inputs, float32 (B, C, H, W).
        threads: Number of threads; 0: one per core.
        progress: Called with the points done.

    Returns:
        For each layer one correction for each point; empty where there is no layer to correct.
    """
    weight_names = tuple(members[0])
    layers = find_correctable_layers(graph, weight_names)
    neutral = make_neutral_tensors(layers.values())
    names = (*weight_names, *neutral)
    measured = BatchNormEstimator(insert_calibration_nodes(graph, layers.values()), names, threads, statistics="running")
    deviations, means = [], []
    for tensors in members:
        moments = measured.estimate({**tensors, **neutral}, batches)
        means.append({layer: moments[parameter_names(layer)[2]][0] for layer in layers})
        deviations.append({layer: np.sqrt(moments[parameter_names(layer)[2]][1]) for layer in layers})
    del measured
    corrected = BatchNormEstimator(insert_calibration_nodes(graph, layers.values(), VARIANCE_EPSILON), names, threads)
    corrections: dict[CorrectedLayer, list[Correction]] = {layer: [] for layer in layers.values()}
    for number, point in enumerate(points):
        report_progress(progress, number, len(points), "channels of the blends")
        target_means, target_deviations = blend_float64(means, point), blend_float64(deviations, point)
        targets: dict[str, NDArray[np.float64]] = {}
        for value in layers:
            scale, shift = parameter_names(value)[:2]
            targets |= {scale: target_deviations[value], shift: target_means[value]}
        moments = corrected.estimate({**blend_float64(members, point), **neutral, **targets}, batches)
        for value, layer in layers.items():
            mean, variance = moments[parameter_names(value)[2]]
            corrections[layer].append(_match_moments(mean, np.sqrt(variance), target_means[value], target_deviations[value]))
    return corrections


def _match_moments(
    mean: NDArray[np.float64],
    deviation: NDArray[np.float64],
    target_mean: NDArray[np.float64],
    target_deviation: NDArray[np.float64],
) -> Correction:
    is_constant = np.minimum(deviation, target_deviation) < MIN_DEVIATION
    scale = np.where(is_constant, 1.0, target_deviation / np.maximum(deviation, MIN_DEVIATION))
    return Correction(scale, target_mean - scale * mean)
