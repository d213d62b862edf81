"""A bundle as the page of a static site runs it: a graph with its weights as inputs, and what they are blended from.

The page blends as engines/onnxruntime_cpu/blender.py does, in JavaScript (page/blend.js): a row of float32 weights for each member,
and statistics in float64, from which BatchNorms are folded after every blend.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import MismatchError, UsageError
from dni_deploy.imaging.frames import check_signature
from dni_deploy.imaging.tiling import default_overlap, plan_tiles
from dni_deploy.signature import Signature
from engines.calibrated_network import read_network
from engines.lowering.gpu import LoweredGraph, lower_for_gpu
from engines.lowering.recipes import BatchNormFold, select_statistics_tensors
from engines.lowering.weights_as_inputs import weights_as_inputs

TILE_SIDES_PX = (256, 192, 128)
"""Sides of a tile to choose from, in input pixels: larger ones repeat less work at their borders."""

MAX_ACTIVATION_BYTES = 128 << 20
"""Of the largest value inside the network for one tile. WebAssembly has 4 GiB at most, a phone's browser less."""

MAX_WHOLE_PIXELS = 512 * 512
"""Of an input that cannot be cut into tiles; the page makes a larger picture smaller."""

MAX_OUTPUT_PIXELS = 1 << 24
"""Of an output: the largest canvas of Safari on a phone. The page makes a picture that would exceed it smaller."""

MAX_GRAPH_BYTES = 1 << 31
"""Of a graph without its weights; ONNX Runtime Web reads no larger one."""


@dataclass(frozen=True)
class WebNetwork:
    """What the page needs to run a bundle's network.

    Attributes:
        graph: The graph; its first input is the image, the others are the weights.
        members: float32 (N, P), each member's weights one after the other, in the order of the inputs.
        statistics: float64 (K, S), what BatchNorms are folded from, a row for each member or calibration point; S may be 0.
        facts: How the page finds its way in them, as JSON.
    """

    graph: onnx.ModelProto
    members: NDArray[np.float32]
    statistics: NDArray[np.float64]
    facts: dict[str, Any]


def make_web_network(bundle: Bundle) -> WebNetwork:
    """Makes of a bundle what the page runs.

    Args:
        bundle: An open bundle, calibrated or not.

    Returns:
        The network; its arrays are its own.

    Raises:
        MismatchError: The network does not turn frames into frames, or its graph is too large for a browser.
        EngineError: A node of the graph cannot be lowered.
        BundleError: The bundle is damaged.
    """
    signature = bundle.signature
    check_signature(signature)
    network = read_network(bundle)
    members = network.read_members()
    table = network.make_table(members)
    lowered = lower_for_gpu(network.graph, network.weight_names, "fp32")
    recipes = lowered.recipes
    names = [weight.name for weight in lowered.weights]
    graph = weights_as_inputs(lowered.graph, names)
    if graph.ByteSize() >= MAX_GRAPH_BYTES:
        raise MismatchError("The graph has constants of 2 GiB and more; no browser opens that.")
    offsets = dict(zip(names, np.cumsum([0, *(weight.count for weight in lowered.weights)]).tolist(), strict=False))
    rows = np.stack(
        [np.concatenate([recipes.linear[name].compute_value(each).reshape(-1) for name in names]) for each in members]
    )
    columns: list[NDArray[np.float64]] = []
    folds = [_describe_fold(fold, lowered, offsets) for fold in recipes.folds]
    points = select_statistics_tensors(recipes, members, table)
    columns += [np.stack([fold.stack_statistics(tensors).reshape(-1) for tensors in points]) for fold in recipes.folds]
    estimates = []  # of a BatchNorm that stays in the graph and reads its raw statistics
    for name in names:
        source, count = recipes.linear[name].source, prod(recipes.linear[name].shape)
        if table is not None and source is not None and source in table.statistics:
            estimates.append({"offset": offsets[name], "count": count})
            columns.append(np.stack([np.broadcast_to(tensors[source].reshape(-1), count) for tensors in points]))
    statistics = np.concatenate(columns, axis=1).astype(np.float64) if columns else np.empty((len(points), 0))
    facts = {
        "input": graph.graph.input[0].name,
        "output": graph.graph.output[0].name,
        "signature": _describe_signature(signature),
        "weights": [
            {"name": weight.name, "shape": list(weight.shape), "offset": offsets[weight.name]} for weight in lowered.weights
        ],
        "weight_count": rows.shape[1],
        "folds": folds,
        "estimates": estimates,
        "statistics_width": statistics.shape[1],
        "calibration_steps": None if table is None else table.steps,
        "controls": _describe_controls(signature, lowered, offsets),
        "tiles": choose_tiles(signature, graph),
        "max_input_pixels": MAX_OUTPUT_PIXELS // signature.scale**2 if signature.radius is not None else MAX_WHOLE_PIXELS,
    }
    return WebNetwork(graph, np.ascontiguousarray(rows), np.ascontiguousarray(statistics), facts)


def _describe_signature(signature: Signature) -> dict[str, Any]:
    return {
        "channels": signature.input_channels,
        "scale": signature.scale,
        "multiple": signature.multiple,
        "minimum": signature.minimum,
        "low": signature.low,
        "high": signature.high,
        "residual": signature.residual,
    }


def _describe_fold(fold: BatchNormFold, lowered: LoweredGraph, offsets: dict[str, int]) -> dict[str, Any]:
    """Tells which numbers a fold's scale multiplies: `outer` blocks of `channels` times `inner` numbers from `offset` on."""
    shape = lowered.recipes.linear[fold.weight].shape
    return {
        "offset": offsets[fold.weight],
        "outer": prod(shape[: fold.axis]),
        "channels": shape[fold.axis],
        "inner": prod(shape[fold.axis + 1 :]),
        "bias": offsets[fold.bias],
    }


def _describe_controls(signature: Signature, lowered: LoweredGraph, offsets: dict[str, int]) -> list[dict[str, Any]]:
    """Tells where each control's number is among the weights, in whatever forms the graph reads it."""
    return [
        {
            "name": control.name,
            "low": control.low,
            "high": control.high,
            "default": control.default,
            "shift": control.offset,
            "places": [
                {"offset": offsets[name], "count": prod(recipe.shape)}
                for name, recipe in lowered.recipes.linear.items()
                if recipe.source == control.weight_name
            ],
        }
        for control in signature.controls
    ]


def choose_tiles(signature: Signature, graph: onnx.ModelProto) -> dict[str, int] | None:
    """Chooses the tiles in which the page renders a picture.

    Args:
        signature: Of the network.
        graph: The network's graph, to measure how large its activations are.

    Returns:
        `side` and `overlap` in input pixels; None for a network that depends on the whole picture.
    """
    if signature.radius is None:
        return None
    overlap = default_overlap(signature)
    possible = [side for side in TILE_SIDES_PX if _can_tile(signature, side, overlap)]
    if not possible:
        return {"side": signature.round_up_side(4 * overlap + 2 * signature.multiple), "overlap": overlap}
    fitting = [side for side in possible if _measure_largest_activation(graph, signature, side) <= MAX_ACTIVATION_BYTES]
    return {"side": (fitting or possible[-1:])[0], "overlap": overlap}


def _can_tile(signature: Signature, side: int, overlap: int) -> bool:
    """Whether tiles of this side take less than 4 times the work of one frame."""
    try:
        plan_tiles(2 * side, 2 * side, signature, side, overlap)
    except UsageError:
        return False
    return side >= 4 * overlap


def _measure_largest_activation(graph: onnx.ModelProto, signature: Signature, side: int) -> int:
    """Returns the bytes of the graph's largest value for a tile of this side, as far as ONNX can infer shapes."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    side = signature.round_up_side(side)
    shape = model.graph.input[0].type.tensor_type.shape
    for dimension, size in zip(shape.dim, (signature.frame_batch, signature.input_channels, side, side), strict=True):
        dimension.dim_value = size
    del model.graph.value_info[:]
    for value in model.graph.output:  # the exporter's names of sizes would contradict the numbers
        value.type.tensor_type.ClearField("shape")
    values = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    shapes = [[dimension.dim_value for dimension in value.type.tensor_type.shape.dim] for value in values]
    return max((4 * prod(each) for each in shapes), default=0)
