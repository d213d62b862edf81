"""From the tensors of a checkpoint to a verified graph: the steps of an export that need torch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from numpy.typing import NDArray
from torch import nn

from dni_deploy.errors import MismatchError
from dni_deploy.network_controls import Control
from dni_deploy.signature import Signature
from dni_deploy.utils.log_duration import log_duration
from dni_deploy.utils.onnxruntime_library import ort
from exporters.architectures.architecture import Architecture
from exporters.architectures.registry import find_architecture
from exporters.cache import VERSIONED_PACKAGES, export_graph_cached
from exporters.export_graph import EXPORTER_OPSET, ExportedGraph
from exporters.verify_graph import verify_graph

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportedNetwork:
    """A network as a verified graph.

    Attributes:
        architecture: Its name.
        signature: Of the network.
        exported: The graph.
        graph_facts: Versions and the error of the verification, as JSON.
    """

    architecture: str
    signature: Signature
    exported: ExportedGraph
    graph_facts: dict[str, Any]


def export_network(
    arch: str,
    tensors: Mapping[str, NDArray[Any]],
    opset: int | None,
    adjust_signature: Callable[[Signature, str], Signature],
    report: Callable[[int, str], None],
    controls: Sequence[Control] = (),
) -> ExportedNetwork:
    """Builds the network that has these tensors and exports its graph.

    Args:
        arch: As `find_architecture` takes it.
        tensors: Of the family's first member.
        opset: Of the graph; None for EXPORTER_OPSET.
        adjust_signature: Makes the signature of the architecture's and its name.
        report: Called with the number of the step that begins, and its name.
        controls: What the network takes beside the image; empty for the architecture's.

    Returns:
        The graph and what is known of it.

    Raises:
        MismatchError: The architecture is unknown, the network takes no such controls, or the graph does not follow its weights.
        InputError: The network cannot be exported.
    """
    report(1, "building the network")
    architecture = find_architecture(arch, tensors)
    log.info("architecture %s", architecture.name)
    with log_duration(log, "building the network"):
        net = architecture.build(tensors, controls)
    signature = adjust_signature(architecture.resolve_signature(net), architecture.name)
    report(2, "exporting the graph")
    exported, error = _export_verified(architecture, net, signature, opset or EXPORTER_OPSET, report)
    log.info("largest relative error of the graph against PyTorch: %.2g", error)
    idle = [control.name for control in signature.controls if control.weight_name not in exported.names]
    if idle:
        raise MismatchError(f"The output of the network does not depend on the control {idle[0]}.")
    graph_facts = {name: version(name) for name in VERSIONED_PACKAGES} | {
        "onnxruntime": ort.__version__,
        "probe_error": float(f"{error:.1e}"),
    }
    notes = list(getattr(net, "export_notes", ()))
    for note in notes:
        log.info("%s", note)
    graph_facts |= {"notes": notes} if notes else {}
    return ExportedNetwork(architecture.name, signature, exported, graph_facts)


def _export_verified(
    architecture: Architecture, net: nn.Module, signature: Signature, opset: int, report: Callable[[int, str], None]
) -> tuple[ExportedGraph, float]:
    """The graph and the probe's error. A cached graph that fails is thrown away and made anew: it may be of an older
    network."""
    exported, cached = export_graph_cached(architecture.name, net, signature, opset=opset)
    report(3, "verifying the graph")
    try:
        return exported, verify_graph(exported.graph, net, signature)
    except MismatchError:
        if not cached:
            raise
    exported, _ = export_graph_cached(architecture.name, net, signature, opset=opset, fresh=True)
    return exported, verify_graph(exported.graph, net, signature)
