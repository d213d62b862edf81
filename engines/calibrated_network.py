"""A calibration as one safetensors file of a bundle; every field is checked when it is read.

Tensors are float64 (K - N, C), a row for each calibration point that is no member alone: means and variances of BatchNorms, named
as in the bundle's weights, and scales and shifts of corrected layers, named as engines/lowering/calibration_nodes.py names them.
The header's metadata holds `dni_deploy`: JSON with format, grid steps, number of members, and what it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dni_deploy.blending.calibration_table import MAX_CALIBRATION_POINTS, CalibrationTable, count_calibration_points
from dni_deploy.blending.variance_guard import list_variance_names
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.stored_file import read_verified
from dni_deploy.errors import BundleError, escape_name
from engines.lowering.calibration_nodes import (
    SCALE_SUFFIX,
    SHIFT_SUFFIX,
    CorrectedLayer,
    add_neutral_tensors,
    find_convolutions,
    find_output_layer,
    insert_calibration_nodes,
    make_neutral_tensors,
)

CALIBRATION_FORMAT = "dni-deploy calibration, version 1"
MAX_METADATA_BYTES = 1 << 20
"""Of the JSON; an image takes about 150 bytes."""

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class CalibratedNetwork:
    """A bundle's network as every engine runs it: with the nodes of its calibration, where it has one.

    Attributes:
        bundle: The bundle.
        graph: The graph.
        weight_names: Names of the graph's initializers that change with alpha.
        layers: The layers that the calibration corrects.
        steps: Grid steps of the calibration along an edge of the simplex.
        inner_statistics: What the calibration knows at the calibration points that are no member alone; None without one.
        about: How the calibration came to be.
    """

    bundle: Bundle
    graph: onnx.ModelProto
    weight_names: tuple[str, ...]
    layers: tuple[CorrectedLayer, ...] = ()
    steps: int = 0
    inner_statistics: Mapping[str, NDArray[np.float64]] | None = None
    about: Mapping[str, Any] | None = None

    def read_members(self) -> list[dict[str, NDArray[Any]]]:
        """Reads the members' weights, in family order, and adds what every member has for the nodes of the calibration."""
        return self.complete_members(self.bundle.read_all_weights())

    def complete_members(self, members: Sequence[Tensors]) -> list[dict[str, NDArray[Any]]]:
        """Adds to the members' weights what every member has for the nodes of the calibration."""
        return add_neutral_tensors(members, self.layers)

    def describe_calibration(self) -> dict[str, Any] | None:
        """Returns for reports the number of calibration points, and how they came to be; None without a calibration."""
        if self.about is None:
            return None
        return {"calibration_points": count_calibration_points(len(self.bundle.members), self.steps), **self.about}

    def make_table(self, members: Sequence[Tensors]) -> CalibrationTable | None:
        """Makes the calibration table for members as `read_members` gives them; None without a calibration."""
        if self.inner_statistics is None or self.about is None:
            return None
        return CalibrationTable.from_inner_statistics(members, self.steps, self.inner_statistics, self.about)


def serialize_calibration(table: CalibrationTable) -> bytes:
    """Returns the content of the file; equal tables give equal bytes."""
    about = {**table.about, "format": CALIBRATION_FORMAT, "steps": table.steps, "members": table.members}
    tensors = {name: np.ascontiguousarray(rows[table.inner_mask]) for name, rows in sorted(table.statistics.items())}
    data: bytes = save(tensors, {"dni_deploy": json.dumps(about, sort_keys=True, allow_nan=False)})
    return data


def read_network(bundle: Bundle) -> CalibratedNetwork:
    """Reads a bundle's graph, with the nodes of its calibration where it has one.

    Args:
        bundle: An open bundle.

    Returns:
        The network.

    Raises:
        BundleError: The calibration's file is damaged or made for another network, a number is not finite, or a variance is
            below 0.
    """
    graph, stored = bundle.read_graph(), bundle.manifest.calibration
    if stored is None:
        return CalibratedNetwork(bundle, graph, bundle.weight_names)
    name = escape_name(stored.file)
    data = read_verified(bundle.path, stored)
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        text = header["__metadata__"]["dni_deploy"]
        about = json.loads(text) if len(text) <= MAX_METADATA_BYTES else None
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        raise BundleError(f"{name} is not a calibration file, though its SHA-256 fits the manifest.") from None
    if not isinstance(about, dict) or about.pop("format", None) != CALIBRATION_FORMAT:
        raise BundleError(
            f"{name} is not of the format {CALIBRATION_FORMAT!r}; make it again with dni-deploy build --calibrate."
        )
    steps, count = about.pop("steps", None), about.pop("members", None)
    if type(steps) is not int or type(count) is not int or count != len(bundle.members):
        raise BundleError(f"{name} is for {escape_name(count, 20)} members, the bundle has {len(bundle.members)}.")
    if not 2 <= steps < MAX_CALIBRATION_POINTS or count_calibration_points(count, steps) > MAX_CALIBRATION_POINTS:
        raise BundleError(
            f"{name} has {escape_name(steps, 20)} steps between {count} members: "
            f"more than {MAX_CALIBRATION_POINTS} calibration points, or none."
        )
    layers = _find_layers(bundle, name, graph, tensors)
    _check_tensors(bundle, name, graph, layers, tensors, count_calibration_points(count, steps) - count)
    calibrated = insert_calibration_nodes(graph, layers)
    names = (*bundle.weight_names, *make_neutral_tensors(layers))
    return CalibratedNetwork(bundle, calibrated, names, layers, steps, tensors, about)


def _find_layers(bundle: Bundle, name: str, graph: onnx.ModelProto, tensors: Tensors) -> tuple[CorrectedLayer, ...]:
    values = {key.removesuffix(SCALE_SUFFIX) for key in tensors if key.endswith(SCALE_SUFFIX)}
    output = find_output_layer(graph, bundle.weight_names, bundle.signature.output_channels).layer
    known = {**find_convolutions(graph, bundle.weight_names), output.value: output}
    unknown = values - known.keys()
    if unknown:
        raise BundleError(
            f"{name} corrects {escape_name(min(unknown))!r}, which the graph does not have or nothing can correct."
        )
    return tuple(layer for layer in known.values() if layer.value in values)


def _check_tensors(
    bundle: Bundle, name: str, graph: onnx.ModelProto, layers: Sequence[CorrectedLayer], tensors: Tensors, inner_count: int
) -> None:
    shapes = {weight.name: weight.shape for weight in bundle.manifest.weights}
    corrections = {f"{layer.value}{suffix}": (layer.channels,) for layer in layers for suffix in (SCALE_SUFFIX, SHIFT_SUFFIX)}
    statistics = set(list_statistics_names(bundle, graph))
    expected_names = corrections.keys() | (statistics if statistics & tensors.keys() else set())
    if tensors.keys() != expected_names or not expected_names:
        first = min(tensors.keys() ^ expected_names, default="")
        raise BundleError(f"{name} and the graph do not have the same layers to calibrate, first {escape_name(first)!r}.")
    variances = set(list_variance_names(statistics, graph))
    for key, values in tensors.items():
        shape = (inner_count, *corrections.get(key, shapes.get(key, ())))
        if values.dtype != np.float64 or values.shape != shape:
            raise BundleError(f"{name} has {escape_name(key)!r} as {values.dtype} {values.shape} instead of float64 {shape}.")
        if not np.isfinite(values).all() or (key in variances and bool((values < 0).any())):
            raise BundleError(f"{name} has a number in {escape_name(key)!r} that no network can have.")


def list_statistics_names(bundle: Bundle, graph: Any | None = None) -> tuple[str, ...]:
    """Lists the weights of a bundle that are means and variances of BatchNorms.

    Args:
        bundle: An open bundle.
        graph: Its graph, where the caller has it; read otherwise.

    Returns:
        Names, in the weights' order.
    """
    model = bundle.read_graph() if graph is None else graph
    used = {name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:5]}
    return tuple(name for name in bundle.weight_names if name in used)
