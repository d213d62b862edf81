"""A member that is a file with its own graph: .onnx, or an ncnn .param with its .bin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from dni_deploy.errors import CheckpointError, UsageError, escape_name

GRAPH_SUFFIXES = (".onnx", ".param")


@dataclass(frozen=True, eq=False)
class GraphFile:
    """One network with its graph and its weights.

    Attributes:
        model: The graph of the file, every tensor inside it, float32; float16 is widened.
        source: The path as the caller wrote it.
        sha256: Of the files' bytes, in hex.
        format: "onnx" or "ncnn".
        notes: One sentence for each thing that was changed.
    """

    model: onnx.ModelProto
    source: str
    sha256: str
    format: str
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The path, safe to print."""
        return escape_name(self.source, 100)


def has_graph_suffix(member: object) -> bool:
    """Tells whether a member is the path of a file with a graph, by its suffix: ONNX files have no magic number."""
    return isinstance(member, (str, os.PathLike)) and Path(member).suffix.lower() in GRAPH_SUFFIXES


def are_graph_files(members: Mapping[str, Any]) -> bool:
    """Tells whether the members of a family are files with graphs.

    Raises:
        UsageError: Some are and some are not.
    """
    graphs = [name for name, member in members.items() if has_graph_suffix(member)]
    if graphs and len(graphs) < len(members):
        other = next(name for name in members if name not in graphs)
        raise UsageError(
            f"Member {escape_name(graphs[0], 80)!r} is a file with a graph ({' or '.join(GRAPH_SUFFIXES)}) and "
            f"{escape_name(other, 80)!r} is not; give all members in one form."
        )
    return bool(graphs)


def check_model(model: onnx.ModelProto, where: str) -> None:
    """Raises CheckpointError where ONNX's checker finds a fault in a model."""
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # the checker's own errors, and those of protobuf
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CheckpointError(f"{where} is not a valid ONNX graph: {escape_name(reason.rstrip('.'))}.") from None
