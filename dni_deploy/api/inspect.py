"""Describes what a bundle holds."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from onnx import ModelProto

from dni_deploy.blending.weight_groups import GroupedWeight, WeightGroups
from dni_deploy.bundle.bundle import Bundle
from dni_deploy.network_controls import CONTROL_PREFIX
from dni_deploy.signature import Signature
from engines.calibrated_network import read_network

PASS_THROUGH_OPERATORS = frozenset({"Identity", "Cast", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten", "Expand"})
"""Operators that only hand a weight on; its role is that at their consumer."""

WEIGHT_ROLES: Mapping[tuple[str, int], str] = {
    ("Conv", 1): "convolution weight",
    ("Conv", 2): "convolution bias",
    ("ConvTranspose", 1): "transposed convolution weight",
    ("ConvTranspose", 2): "transposed convolution bias",
    ("Gemm", 1): "linear weight",
    ("Gemm", 2): "linear bias",
    ("MatMul", 0): "linear weight",
    ("MatMul", 1): "linear weight",
    ("BatchNormalization", 1): "BatchNorm gamma",
    ("BatchNormalization", 2): "BatchNorm beta",
    ("BatchNormalization", 3): "BatchNorm mean",
    ("BatchNormalization", 4): "BatchNorm variance",
    ("InstanceNormalization", 1): "InstanceNorm gamma",
    ("InstanceNormalization", 2): "InstanceNorm beta",
    ("GroupNormalization", 1): "GroupNorm gamma",
    ("GroupNormalization", 2): "GroupNorm beta",
    ("LayerNormalization", 1): "LayerNorm gamma",
    ("LayerNormalization", 2): "LayerNorm beta",
    ("PRelu", 1): "PReLU slope",
    ("Gather", 0): "embedding",
    ("Mul", 0): "scale",
    ("Mul", 1): "scale",
    ("Add", 0): "shift",
    ("Add", 1): "shift",
}


PLAN_FILE_NAME = re.compile(
    r"(?:(?P<runtime>onnxruntime)|(?P<library>tensorrt(-rtx)?)-(?P<kind>refit|inputs|graph|constant)-(?P<precision>[a-z0-9]+))"
    r"-[0-9a-f]{16}\.plan"
)
"""What the engines call their plans."""


@dataclass(frozen=True)
class MemberRow:
    """One member.

    Attributes:
        name: Its name.
        source: The checkpoint that it came from.
        dtype: Its float dtypes.
        size: Size of its file in bytes.
        sha256: SHA-256 of its file, in hex.
    """

    name: str
    source: str
    dtype: str
    size: int
    sha256: str


@dataclass(frozen=True)
class WeightRow:
    """One blended initializer: its name, its shape, and what the graph uses it for."""

    name: str
    shape: tuple[int, ...]
    role: str


@dataclass(frozen=True)
class PlanRow:
    """One plan in the bundle, by the name of its file. It may be another machine's.

    Attributes:
        file: Name of the file.
        engine: The engine that opens it.
        precision: Its precision.
        size: Its size in bytes.
    """

    file: str
    engine: str
    precision: str
    size: int


@dataclass(frozen=True)
class InspectReport:
    """What a bundle holds.

    Attributes:
        path: Path of the bundle.
        architecture: Name of the architecture.
        digest: SHA-256 of the manifest, in hex.
        size: Size of all its files in bytes, without the manifest and the plans.
        opset: ONNX opset of the graph.
        signature: Input and output of the network.
        members: One row for each member.
        parameters: Number of parameters per member that a change of alpha blends.
        operators: Operator -> its number in the graph, most frequent first.
        weights: One row for each blended initializer.
        unused: Float keys of the checkpoints that the network's forward never reads.
        tied: Names that share the values of another one.
        graph_facts: What export recorded, such as versions.
        verification_error: Largest relative error that export measured against PyTorch; None if it was not recorded.
        plans: The plans that were built from the bundle, which are no part of it.
        calibration: The calibration: method, calibration points, and the images with their SHA-256; None without.
        slider: The perceptually uniform slider: the members at its positions 0 and 1, the number of its points, and if
            recorded, the images with their SHA-256 and the largest step over the mean step, by alpha (before) and by the
            slider (after); None without.
        alignment: Member with whose channels the others' were aligned, and how many channels of each were moved; None without.
        groups: Each weight with the roles and the depth that rules for alpha select by.
    """

    path: str
    architecture: str
    digest: str
    size: int
    opset: int
    signature: Signature
    members: tuple[MemberRow, ...]
    parameters: int
    operators: dict[str, int]
    weights: tuple[WeightRow, ...]
    unused: tuple[str, ...]
    tied: dict[str, str]
    graph_facts: dict[str, Any]
    verification_error: float | None
    plans: tuple[PlanRow, ...]
    calibration: dict[str, Any] | None
    slider: dict[str, Any] | None = None
    alignment: dict[str, Any] | None = None
    groups: tuple[GroupedWeight, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the report as `--json` prints it."""
        return asdict(self)


def inspect(bundle_path: str | os.PathLike[str]) -> InspectReport:
    """Checks every file of a bundle and describes it.

    Args:
        bundle_path: Path of the bundle.

    Returns:
        The description.

    Raises:
        DniError: As Bundle.open raises.
    """
    bundle = Bundle.open(bundle_path)
    manifest, graph = bundle.manifest, bundle.read_graph()
    role = find_weight_roles(graph, bundle.weight_names)
    error = manifest.graph_facts.get("probe_error")
    return InspectReport(
        path=os.fspath(bundle.path),
        architecture=bundle.architecture,
        digest=bundle.digest,
        size=sum(stored.size for stored in manifest.files),
        opset=manifest.opset,
        signature=bundle.signature,
        members=tuple(
            MemberRow(member.name, member.source, member.dtype, member.stored.size, member.stored.sha256)
            for member in manifest.members
        ),
        parameters=sum(prod(weight.shape) for weight in manifest.weights),
        operators=dict(Counter(node.op_type for node in graph.graph.node).most_common()),
        weights=tuple(WeightRow(weight.name, weight.shape, role[weight.name]) for weight in manifest.weights),
        unused=manifest.unused,
        tied=dict(manifest.tied),
        graph_facts=dict(manifest.graph_facts),
        verification_error=float(error) if isinstance(error, (int, float)) else None,
        plans=list_plans(bundle.path),
        calibration=read_network(bundle).describe_calibration(),
        slider=_describe_slider(bundle),
        alignment=_describe_alignment(manifest.graph_facts),
        groups=WeightGroups.from_graph(graph, bundle.weight_names).weights,
    )


def _describe_slider(bundle: Bundle) -> dict[str, Any] | None:
    slider = bundle.slider
    if slider is None:
        return None
    return {**(bundle.manifest.slider_about or {}), "members": list(reversed(bundle.members)), "points": len(slider.points)}


def _describe_alignment(graph_facts: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        alignment = graph_facts["alignment"]
        rows = {str(name): {key: int(row[key]) for key in ("moved", "channels")} for name, row in alignment["members"].items()}
        return {"with": str(alignment["with"]), "members": rows}
    except (AttributeError, KeyError, TypeError, ValueError):  # free form: another program may have written something else
        return None


def list_plans(bundle_path: Path) -> tuple[PlanRow, ...]:
    """Lists the plans in a bundle's folder by name; none is read. Files with other names are left out."""
    try:
        files = sorted(entry for entry in (bundle_path / "plans").iterdir() if entry.is_file())
    except OSError:
        return ()
    plans = []
    for file in files:
        match = PLAN_FILE_NAME.fullmatch(file.name)
        if match:
            kind, library = match["kind"], match["library"]
            engine = match["runtime"] or (library if kind == "refit" else f"{library}-{kind}")
            plans.append(PlanRow(file.name, engine, match["precision"] or "fp32", file.stat().st_size))
    return tuple(plans)


def find_weight_roles(graph: ModelProto, names: tuple[str, ...]) -> dict[str, str]:
    """Finds what each initializer is to the operator that uses it, seen through reshapes and the like.

    Args:
        graph: The model.
        names: Names of the initializers.

    Returns:
        Name -> role: "unused" if nothing uses it; several roles are joined by " and ".
    """
    consumers: dict[str, list[tuple[Any, int]]] = {}
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            consumers.setdefault(name, []).append((node, index))
    roles = {}
    for name in names:
        seen, queue, uses = {name}, [name], []
        while queue:
            for node, index in consumers.get(queue.pop(), []):
                if node.op_type in PASS_THROUGH_OPERATORS and index == 0:
                    handed_on = [output for output in node.output if output not in seen]
                    seen.update(handed_on)
                    queue += handed_on
                else:
                    uses.append(WEIGHT_ROLES.get((node.op_type, index), f"{node.op_type} input {index}"))
        if name.startswith(CONTROL_PREFIX):
            uses = ["control"]
        roles[name] = " and ".join(sorted(set(uses))) or "unused"
    return roles
