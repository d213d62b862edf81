"""Exports a family of checkpoints as a bundle."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from torch import nn

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.manifest import MANIFEST_FILE_NAME
from dni_deploy.bundle.writer import write_bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family
from dni_deploy.errors import MismatchError, UsageError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils.log_duration import log_duration
from dni_deploy.utils.progress import OptionalProgress, report_progress
from exporters.architectures.architecture import Architecture
from exporters.architectures.recognize import make_recognizers
from exporters.architectures.registry import find_architecture
from exporters.cache import VERSIONED_PACKAGES, export_graph_cached
from exporters.export_graph import EXPORTER_OPSET, MIN_OPSET, ExportedGraph
from exporters.verify_graph import verify_graph

log = logging.getLogger(__name__)

PROGRESS_STEPS = 5


def export(
    members: Mapping[str, str | os.PathLike[str] | Checkpoint | Mapping[str, Any]],
    output: str | os.PathLike[str],
    *,
    arch: str = "auto",
    key: str | None = None,
    opset: int = EXPORTER_OPSET,
    value_range: tuple[float, float] | None = None,
    residual: bool | None = None,
    force: bool = False,
    progress: OptionalProgress = None,
) -> Bundle:
    """Exports a family of checkpoints as a bundle: one graph with every weight under its name, verified, and each member's
    weights.

    Args:
        members: 2 to 16 names with a file, a Checkpoint or a state dict each, in family order. "PATH#ENTRY" is an entry of a
            file that holds several networks, such as "gan.pth#generator".
        output: The folder to write, such as "sr.dni".
        arch: "auto", a name from exporters.architectures, or "package.module:factory" for a network of your own.
        key: The entry to read in each file that names none; None to find the one that holds the network.
        opset: ONNX opset, 17 or newer; 17 if TensorRT 8.6 is to read the graph.
        value_range: Values of black and white for the network, such as (-1, 1); None: the architecture's.
        residual: Whether the network outputs the noise, to be subtracted from its input; None: the architecture's.
        force: Replace the bundle at `output`.
        progress: Called with the steps done.

    Returns:
        The bundle.

    Raises:
        UsageError: The output exists, or an option is out of range.
        MismatchError: The members differ, the architecture is unknown, or the graph does not follow its weights.
        InputError: A file cannot be read, or the network cannot be exported.
        RefusedError: Reading a file would run its code.
        LimitError: A file is too large, or the disk is full. In all cases nothing is written.
    """
    _check_output(Path(output), force)
    if not isinstance(opset, int) or opset < MIN_OPSET:
        raise UsageError(f"Opset {escape_name(opset)} is too old; the lowest is {MIN_OPSET}.")
    report_progress(progress, 0, PROGRESS_STEPS, "reading the members")
    with log_duration(log, "reading the members"):
        family = Family.from_checkpoints(members, key=key, recognizers=make_recognizers(arch))
    report_progress(progress, 1, PROGRESS_STEPS, "building the network")
    tensors = dict(family.members[0].checkpoint.tensors)
    architecture = find_architecture(arch, tensors)
    log.info("architecture %s", architecture.name)
    with log_duration(log, "building the network"):
        net = architecture.build(tensors)
    signature = _make_signature(architecture, net, value_range, residual)
    report_progress(progress, 2, PROGRESS_STEPS, "exporting the graph")
    exported, error = _export_verified(architecture, net, signature, opset, progress)
    log.info("largest relative error of the graph against PyTorch: %.2g", error)
    _check_tied(family, exported.tied)
    report_progress(progress, 4, PROGRESS_STEPS, "writing the bundle")
    graph_facts: dict[str, Any] = {name: version(name) for name in VERSIONED_PACKAGES} | {
        "onnxruntime": onnxruntime.__version__,
        "probe_error": float(f"{error:.1e}"),
    }
    if family.notes:
        graph_facts["notes"] = list(family.notes)
    with log_duration(log, "writing the bundle"):
        bundle = write_bundle(
            output,
            exported.graph,
            family,
            signature,
            architecture=architecture.name,
            graph_facts=graph_facts,
            tied=exported.tied,
            force=force,
        )
    report_progress(progress, PROGRESS_STEPS, PROGRESS_STEPS, "done")
    return bundle


def _check_output(output: Path, force: bool) -> None:
    """Refuse before the work what writing would refuse after it."""
    if not os.path.lexists(output):
        return
    if not force:
        raise UsageError(f"{escape_name(output)} exists; give --force to replace it. Nothing was written.")
    if not output.is_dir() or (any(output.iterdir()) and not (output / MANIFEST_FILE_NAME).is_file()):
        raise UsageError(f"{escape_name(output)} is not a bundle, and --force replaces nothing else. Nothing was written.")


def _make_signature(
    architecture: Architecture, net: nn.Module, value_range: tuple[float, float] | None, residual: bool | None
) -> Signature:
    signature = architecture.resolve_signature(net)
    if value_range is not None:
        low, high = (float(end) for end in value_range)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UsageError(f"The range {low:g}..{high:g} does not go up from one number to another.")
        signature = replace(signature, low=low, high=high)
    if residual is not None:
        signature = replace(signature, residual=residual)
    if signature.residual and (signature.scale != 1 or signature.input_channels != signature.output_channels):
        raise UsageError(
            f"--residual needs an output as large as the input; {escape_name(architecture.name)} goes from {signature.input_channels} "
            f"to {signature.output_channels} channels at scale {signature.scale}."
        )
    return signature


def _export_verified(
    architecture: Architecture, net: nn.Module, signature: Signature, opset: int, progress: OptionalProgress
) -> tuple[ExportedGraph, float]:
    """The graph and the probe's error. A cached graph that fails is thrown away and made anew: it may be of an older
    network."""
    exported, cached = export_graph_cached(architecture.name, net, signature, opset=opset)
    report_progress(progress, 3, PROGRESS_STEPS, "verifying the graph")
    try:
        return exported, verify_graph(exported.graph, net, signature)
    except MismatchError:
        if not cached:
            raise
    exported, _ = export_graph_cached(architecture.name, net, signature, opset=opset, fresh=True)
    return exported, verify_graph(exported.graph, net, signature)


def _check_tied(family: Family, tied: Mapping[str, str]) -> None:
    """Two keys that are one tensor in the network must hold the same numbers, or one of the two would be ignored."""
    for alias, name in tied.items():
        for member in family.members:
            tensors = member.checkpoint.tensors
            if alias in tensors and name in tensors and not np.array_equal(tensors[alias], tensors[name]):
                raise MismatchError(
                    f"The network uses one tensor as {escape_name(alias)!r} and {escape_name(name)!r}, "
                    f"but in member {member.name!r} the two differ."
                )
