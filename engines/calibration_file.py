"""Re-estimated BatchNorm statistics as one safetensors file of a bundle; every field is checked when it is read.

Tensors are named as in the bundle's weights, float64 (K - N, C): a row for each calibration point that is no member alone. The
header's metadata holds `dni_deploy`: JSON with format, grid steps, number of members, and what it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dni_deploy.blending.calibration_table import MAX_CALIBRATION_POINTS, CalibrationTable, count_calibration_points
from dni_deploy.blending.variance_guard import list_variance_names
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.stored_file import read_verified
from dni_deploy.errors import BundleError, escape_name

CALIBRATION_FORMAT = "dni-deploy calibration, version 1"
MAX_METADATA_BYTES = 1 << 20
"""Of the JSON; an image takes about 150 bytes."""


def serialize_calibration(calibration: CalibrationTable) -> bytes:
    """Returns the content of the file; equal statistics give equal bytes."""
    about = {
        **calibration.about,
        "format": CALIBRATION_FORMAT,
        "steps": calibration.steps,
        "members": calibration.members,
    }
    tensors = {
        name: np.ascontiguousarray(rows[calibration.inner_mask]) for name, rows in sorted(calibration.statistics.items())
    }
    data: bytes = save(tensors, {"dni_deploy": json.dumps(about, sort_keys=True, allow_nan=False)})
    return data


def read_calibration(bundle: Bundle, members: Sequence[Mapping[str, NDArray[Any]]] | None = None) -> CalibrationTable | None:
    """Reads the re-estimated statistics of a bundle.

    Args:
        bundle: An open bundle.
        members: Each one's weights by name, where the caller has them; read otherwise.

    Returns:
        The statistics, or None where the bundle has none.

    Raises:
        BundleError: The file is damaged or made for another network, a statistic is not finite, or a variance is below 0.
    """
    stored = bundle.manifest.calibration
    if stored is None:
        return None
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
    _check_tensors(bundle, name, tensors, count_calibration_points(count, steps) - count)
    return CalibrationTable.from_inner_statistics(
        members or [bundle.read_weights(member) for member in bundle.members], steps, tensors, about
    )


def _check_tensors(bundle: Bundle, name: str, tensors: Mapping[str, NDArray[Any]], inner_count: int) -> None:
    graph = bundle.read_graph()
    shapes = {weight.name: weight.shape for weight in bundle.manifest.weights}
    expected_names = set(list_statistics_names(bundle, graph))
    if set(tensors) != expected_names:
        first = min(set(tensors) ^ expected_names)
        raise BundleError(f"{name} and the graph do not have the same BatchNorm statistics, first {escape_name(first)!r}.")
    variances = set(list_variance_names(expected_names, graph))
    for key, values in tensors.items():
        shape = (inner_count, *shapes[key])
        if values.dtype != np.float64 or values.shape != shape:
            raise BundleError(f"{name} has {escape_name(key)!r} as {values.dtype} {values.shape} instead of float64 {shape}.")
        if not np.isfinite(values).all() or (key in variances and bool((values < 0).any())):
            raise BundleError(f"{name} has a mean or variance in {escape_name(key)!r} that no network can have.")


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
