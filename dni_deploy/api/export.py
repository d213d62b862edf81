"""Exports a family of checkpoints as a bundle."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.folder import MANIFEST_FILE_NAME
from dni_deploy.bundle.writer import write_bundle
from dni_deploy.checkpoints.checkpoint import Checkpoint
from dni_deploy.checkpoints.family import Family
from dni_deploy.checkpoints.graph_family import read_graph_family, read_graph_files
from dni_deploy.checkpoints.graph_file import are_graph_files
from dni_deploy.errors import MismatchError, UsageError, escape_name
from dni_deploy.network_controls import Control, check_controls, parse_declarations
from dni_deploy.signature import ColorMode, Signature
from dni_deploy.utils.address import as_local_path
from dni_deploy.utils.log_duration import log_duration
from dni_deploy.utils.opset import MIN_OPSET
from dni_deploy.utils.optional_packages import import_optional
from dni_deploy.utils.progress import OptionalProgress, report_progress

if TYPE_CHECKING:
    from onnx import ModelProto

log = logging.getLogger(__name__)

PROGRESS_STEPS = 5


def export(
    members: Mapping[str, str | os.PathLike[str] | Checkpoint | Mapping[str, Any]],
    output: str | os.PathLike[str],
    *,
    arch: str = "auto",
    key: str | None = None,
    opset: int | None = None,
    value_range: tuple[float, float] | None = None,
    residual: bool | None = None,
    color: ColorMode | None = None,
    align: bool = False,
    controls: Sequence[str | Control] = (),
    force: bool = False,
    progress: OptionalProgress = None,
) -> Bundle:
    """Exports a family of checkpoints as a bundle: one graph with every weight under its name, verified, and each member's
    weights.

    Files that have a graph (.onnx, or an ncnn .param with its .bin) need no architecture and no torch; their graphs have to be
    the same up to names.

    Args:
        members: 2 to 16 names with a file, a Checkpoint or a state dict each, in family order; all of them files with graphs, or
            none. "PATH#ENTRY" is an entry of a file that holds several networks, such as "gan.pth#generator".
        output: The folder to write, such as "sr.dni".
        arch: "auto", a name from exporters.architectures, or "package.module:factory" for a network of your own.
        key: The entry to read in each file that names none; None to find the one that holds the network.
        opset: ONNX opset, 17 or newer; 17 if TensorRT 8.6 is to read the graph. None: 18, of files with graphs their own.
        value_range: Values of black and white for the network, such as (-1, 1); None: the architecture's.
        residual: Whether the network outputs the noise, to be subtracted from its input; None: the architecture's.
        color: How a network of one channel gets a frame: "luma" is Y of BT.601, full range, while Cb and Cr are enlarged
            (bicubic); "channels" is red, green and blue as three gray images. None: "luma" for SRCNN and for networks that
            enlarge, "channels" for others, such as denoisers of gray images.
        align: Put the channels of every member after the first into the order of the first one's, which changes nothing of what
            the member computes: for members that differ in the order of their channels. The files stay as they are.
        controls: What the network takes beside the image, each a number that a running engine changes: the arguments of its
            forward by name, or constant planes behind the image's channels; "sigma=0..50/255@15/255" is range and default,
            "label:5=0..1@0" an argument of five numbers. Empty: those of the architecture.
        force: Replace the bundle at `output`.
        progress: Called with the steps done.

    Returns:
        The bundle.

    Raises:
        UsageError: The output exists, or an option is out of range.
        MismatchError: The members differ, the architecture is unknown, the graph does not follow its weights, or the network has
            no channels that can be aligned.
        InputError: A file cannot be read, or the network cannot be exported.
        RefusedError: Reading a file would run its code.
        UnavailableError: A package is missing.
        LimitError: A file is too large, or the disk is full. In all cases nothing is written.
    """
    _check_output(as_local_path(output, "the output"), force)
    if opset is not None and (not isinstance(opset, int) or opset < MIN_OPSET):
        raise UsageError(f"Opset {escape_name(opset)} is too old; the lowest is {MIN_OPSET}.")

    def adjust_signature(signature: Signature, architecture: str) -> Signature:
        return _choose_color(_adjust_signature(signature, architecture, value_range, residual), architecture, color)

    def report(step: int, what: str) -> None:
        report_progress(progress, step, PROGRESS_STEPS, what)

    parsed_controls = parse_declarations([text for text in controls if isinstance(text, str)])
    parsed_controls += tuple(control for control in controls if isinstance(control, Control))
    _check_control_names(parsed_controls, members)
    alignment = import_optional("dni_deploy.calibration.alignment") if align else None
    report(0, "reading the members")
    if are_graph_files(members):
        if arch != "auto" or key is not None:
            raise UsageError("An architecture and a key are for checkpoints; these members have a graph of their own.")
        exported = _export_graph_files(members, opset, adjust_signature, report, parsed_controls)
    else:
        exported = _export_checkpoints(members, arch, key, opset, adjust_signature, report, parsed_controls)
    _check_tied(exported.family, exported.tied)
    if alignment is not None:
        report(3, "aligning the members")
        with log_duration(log, "aligning the members"):
            exported = _align_members(exported, alignment)
    report(4, "writing the bundle")
    with log_duration(log, "writing the bundle"):
        bundle = write_bundle(
            output,
            exported.graph,
            exported.family,
            exported.signature,
            architecture=exported.architecture,
            graph_facts=exported.graph_facts,
            tied=exported.tied,
            force=force,
        )
    report(PROGRESS_STEPS, "done")
    return bundle


@dataclass(frozen=True)
class _ExportedFamily:
    family: Family
    graph: ModelProto
    signature: Signature
    architecture: str
    graph_facts: dict[str, Any]
    tied: dict[str, str] = field(default_factory=dict)


def _export_checkpoints(
    members: Mapping[str, Any],
    arch: str,
    key: str | None,
    opset: int | None,
    adjust_signature: Callable[[Signature, str], Signature],
    report: Callable[[int, str], None],
    controls: Sequence[Control],
) -> _ExportedFamily:
    module = import_optional("exporters.export_network")
    make_recognizers = import_optional("exporters.architectures.recognize").make_recognizers
    with log_duration(log, "reading the members"):
        family = Family.from_checkpoints(members, key=key, recognizers=make_recognizers(arch))
    tensors = dict(family.members[0].checkpoint.tensors)
    network = module.export_network(arch, tensors, opset, adjust_signature, report, controls)
    family = family.with_controls(network.signature.controls)
    exported = network.exported
    notes = [*family.notes, *network.graph_facts.get("notes", ())]
    graph_facts = network.graph_facts | ({"notes": notes} if notes else {})
    return _ExportedFamily(family, exported.graph, network.signature, network.architecture, graph_facts, exported.tied)


def _export_graph_files(
    members: Mapping[str, Any],
    opset: int | None,
    adjust_signature: Callable[[Signature, str], Signature],
    report: Callable[[int, str], None],
    controls: tuple[Control, ...],
) -> _ExportedFamily:
    module = import_optional("exporters.finish_graph_family")
    with log_duration(log, "reading the members"):
        files = read_graph_files(members, controls)
        graph_family = read_graph_family(files, opset)
    report(1, "measuring the network")
    names = list(files)
    finished = module.finish_graph(graph_family.graph, files[names[0]].name)
    signature = adjust_signature(replace(finished.signature, controls=controls), graph_family.format)
    report(3, "verifying the graph")
    with log_duration(log, "verifying the graph"):
        error = module.verify_members(
            finished,
            ((member.name, files[member.name].model, member.checkpoint.tensors) for member in graph_family.family.members),
        )
    log.info("largest relative error of the graph against the members' files: %.2g", error)
    idle = [control.name for control in controls if control.weight_name not in graph_family.family.float_keys]
    if idle:
        raise MismatchError(f"The output of the network does not depend on the control {idle[0]}.")
    notes = [*graph_family.family.notes, *finished.notes]
    for note in notes:
        log.info("%s", note)
    graph_facts: dict[str, Any] = {
        "onnx": version("onnx"),
        "onnxruntime": module.ort.__version__,  # the distribution may be onnxruntime-gpu
        "probe_error": float(f"{error:.1e}"),
    }
    if notes:
        graph_facts["notes"] = notes
    return _ExportedFamily(graph_family.family, finished.graph, signature, graph_family.format, graph_facts)


def _align_members(exported: _ExportedFamily, alignment: ModuleType) -> _ExportedFamily:
    family, alignments = alignment.align_family(exported.graph, exported.signature, exported.family, exported.tied)
    first = family.names[0]
    notes = [
        f"{name}: {row.moved} of {row.channels} channels were moved to the places that they have in {first}."
        for name, row in alignments.items()
    ]
    graph_facts = exported.graph_facts | {
        "alignment": {"with": first, "members": {name: asdict(row) for name, row in alignments.items()}},
        "notes": [*exported.graph_facts.get("notes", []), *notes],
    }
    return replace(exported, family=family, graph_facts=graph_facts)


def _check_control_names(controls: Sequence[Control], members: Iterable[str]) -> None:
    check_controls(controls)
    for control in controls:
        if control.name in members:
            raise UsageError(f"{escape_name(control.name)!r} is a member and a control; give the member another name.")


def _check_output(output: Path, force: bool) -> None:
    """Refuse before the work what writing would refuse after it."""
    if not os.path.lexists(output):
        return
    if not force:
        raise UsageError(f"{escape_name(output)} exists; give --force to replace it. Nothing was written.")
    if not output.is_dir() or (any(output.iterdir()) and not (output / MANIFEST_FILE_NAME).is_file()):
        raise UsageError(f"{escape_name(output)} is not a bundle, and --force replaces nothing else. Nothing was written.")


def _adjust_signature(
    signature: Signature, architecture: str, value_range: tuple[float, float] | None, residual: bool | None
) -> Signature:
    if value_range is not None:
        low, high = (float(end) for end in value_range)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UsageError(f"The range {low:g}..{high:g} does not go up from one number to another.")
        signature = replace(signature, low=low, high=high)
    if residual is not None:
        signature = replace(signature, residual=residual)
    if signature.residual and (signature.scale != 1 or signature.input_channels != signature.output_channels):
        raise UsageError(
            f"--residual needs an output as large as the input; {escape_name(architecture)} goes from {signature.input_channels} "
            f"to {signature.output_channels} channels at scale {signature.scale}."
        )
    return signature


def _choose_color(signature: Signature, architecture: str, color: ColorMode | None) -> Signature:
    """Chooses how a network of one channel gets frames: in the literature, those of super-resolution are trained on luma."""
    has_one_channel = signature.takes_frames and signature.input_channels == 1
    if color is None:
        color = "luma" if has_one_channel and (signature.scale > 1 or architecture == "srcnn") else "channels"
    if color not in ("channels", "luma"):
        raise UsageError(f'The color is "luma" or "channels", got {escape_name(color)!r}.')
    if color == "luma" and not has_one_channel:
        raise UsageError(
            f"--color luma is for networks of one channel; {escape_name(architecture)} goes from {signature.input_channels} to "
            f"{signature.output_channels}."
        )
    return replace(signature, color=color)


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
