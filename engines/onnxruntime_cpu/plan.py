"""The plan file: the layout of an optimized network, kept on disk so that a session opens without optimizing again.

A derived file in the bundle's `plans/` folder, safetensors within. It holds the optimized graph and the gather map, no weights:
those stay in the bundle, so a plan serves every family on the same graph. Its name is the hash of all that the layout depends on
(the lowered graph with its recipes, the settings of the optimizer, ONNX Runtime's version, the processor's instruction sets), so a
plan for anything else is never read. One that this account did not write is passed over.
"""

from __future__ import annotations

import json
import logging
import platform
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from safetensors.numpy import load, save

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import BundleError, escape_name
from dni_deploy.utils.derived_file import read_derived_file, write_derived_file
from dni_deploy.utils.hardware import layout_instruction_sets
from dni_deploy.utils.onnxruntime_library import ort
from engines.lowering.graph_digest import digest_lowered_graph
from engines.lowering.recipes import Recipes
from engines.onnxruntime_cpu import runtime
from engines.onnxruntime_cpu.layout import Layout, WeightSpan

log = logging.getLogger(__name__)

PLAN_FORMAT = "dni-deploy plan for onnxruntime, version 4"
"""Raise the version where this file's content changes, and where `find_layout` makes another layout of the same optimized
graph: nothing else in a plan's identity tells of that."""


@dataclass(frozen=True)
class LayoutIdentity:
    """Everything that a layout depends on: a plan of another identity is another plan.

    Attributes:
        lowered: Digest of the lowered graph with its recipes.
        settings: Settings with which ONNX Runtime optimizes the graph.
        onnxruntime: Version of ONNX Runtime.
        machine: Name of the processor's architecture.
        instruction_sets: The processor's instruction sets that change the layout.
    """

    lowered: str
    settings: runtime.OptimizerSettings
    onnxruntime: str
    machine: str
    instruction_sets: tuple[str, ...]

    @classmethod
    def of(cls, lowered: onnx.ModelProto, recipes: Recipes) -> LayoutIdentity:
        """Makes the identity of a plan for a lowered graph on this machine."""
        return cls(
            lowered=digest_lowered_graph(lowered, recipes),
            settings=runtime.OPTIMIZER_SETTINGS,
            onnxruntime=str(ort.__version__),
            machine=platform.machine(),
            instruction_sets=layout_instruction_sets(),
        )

    def to_json(self) -> dict[str, Any]:
        """Describes the identity under fixed keys."""
        return {
            "lowered graph": self.lowered,
            "settings": self.settings.to_json(),
            "ONNX Runtime": self.onnxruntime,
            "processor": self.machine,
            "instruction sets": list(self.instruction_sets),
        }

    @property
    def key(self) -> str:
        """SHA-256 in hex of the identity and of the plan's format."""
        return sha256(json.dumps([PLAN_FORMAT, self.to_json()], sort_keys=True).encode()).hexdigest()


def plan_path(bundle: Bundle, identity: LayoutIdentity) -> Path:
    """Names the bundle's plan for this machine, whether there is one or not.

    Args:
        bundle: The bundle.
        identity: The plan's identity.

    Returns:
        The path of the file.
    """
    return bundle.path / "plans" / f"onnxruntime-{identity.key[:16]}.plan"


def write_plan(bundle: Bundle, layout: Layout, identity: LayoutIdentity, *, force: bool = False) -> Path:
    """Writes the layout as the bundle's plan for this machine.

    Args:
        bundle: The bundle.
        layout: The layout of the lowered graph that `identity` is of.
        identity: The plan's identity.
        force: Replace a plan that is there.

    Returns:
        The path of the file.

    Raises:
        UsageError: The plan exists and `force` is off.
        LimitError: There is no room for it.
        InputError: It cannot be written.
    """
    header = {
        "format": PLAN_FORMAT,
        "identity": identity.to_json(),
        "slots": [[span.name, list(span.shape), span.start, span.stop] for span in layout.spans],
        "offsets": list(layout.offsets.items()),
    }
    tensors: dict[str, NDArray[Any]] = {
        "optimized": np.frombuffer(layout.optimized.SerializeToString(deterministic=True), np.uint8),
        "gather": layout.gather.astype(np.int64),
    }
    text = json.dumps(header, sort_keys=True)
    path = plan_path(bundle, identity)
    path.parent.mkdir(exist_ok=True)
    write_derived_file(path, save(tensors, {"header": text}), force=force)
    return path


def read_plan(bundle: Bundle, identity: LayoutIdentity) -> Layout | None:
    """Reads the layout from the bundle's plan for this machine.

    Args:
        bundle: The bundle.
        identity: The plan's identity.

    Returns:
        The layout, or None where there is no plan that this account wrote.

    Raises:
        BundleError: The plan was renamed and is another one; the message names what differs.
    """
    path = plan_path(bundle, identity)
    data = read_derived_file(path, "a plan")
    if data is None:
        _log_absence(path, identity)
        return None
    advice = f"write it again with dni-deploy build {escape_name(bundle.path)} --force"
    header, tensors = _read_header(data), load(data)
    del data
    differing = _find_differing_fields(header["identity"], identity)
    if differing:
        log.info("plan %s rejected: it differs by its %s", escape_name(path), differing)
        raise BundleError(f"{escape_name(path)} is for something else, by its {differing}; {advice}.")
    optimized = onnx.ModelProto.FromString(tensors["optimized"].tobytes())
    spans = tuple(WeightSpan(name, tuple(shape), start, stop) for name, shape, start, stop in header["slots"])
    log.info("plan %s found", escape_name(path))
    return Layout(optimized, spans, tensors["gather"].astype(np.int32), dict(header["offsets"]))


def _log_absence(path: Path, identity: LayoutIdentity) -> None:
    """Logs that there is no plan, and which fields of the plans that are there instead are others."""
    if not log.isEnabledFor(logging.INFO):
        return
    log.info("plan %s absent: the layout is found anew", escape_name(path))
    for other in sorted(path.parent.glob("onnxruntime-*.plan")):
        data = None if other == path else read_derived_file(other, "a plan")
        if data is not None:
            differing = _find_differing_fields(_read_header(data)["identity"], identity)
            log.info("plan %s rejected: it differs by its %s", escape_name(other), differing)


def _read_header(data: bytes) -> dict[str, Any]:
    about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header: dict[str, Any] = json.loads(about["__metadata__"]["header"])
    return header


def _find_differing_fields(written: dict[str, Any], identity: LayoutIdentity) -> str:
    """Names the fields that differ, joined by "and"; empty where none does."""
    return " and ".join(name for name, value in identity.to_json().items() if written.get(name) != value)
