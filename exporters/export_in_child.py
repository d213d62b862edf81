"""Exports a network in a process of its own, so that what ends the interpreter in PyTorch's exporter is an error in ours.

Only for networks that are not written here: spandrel's and the user's own. `python -m exporters.export_in_child FOLDER` is the
child; it builds the network again from the tensors in the folder, and leaves the graph, or an error, in it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dni_deploy import errors
from dni_deploy.errors import DniError, InputError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils.temporary_folder import make_temporary_folder
from exporters.architectures.registry import find_architecture
from exporters.export_graph import ExportedGraph, export_graph
from exporters.graph_entry import pack_graph, unpack_graph

REQUEST_FILE_NAME, TENSORS_FILE_NAME = "request.json", "tensors.npz"
GRAPH_FILE_NAME, ERROR_FILE_NAME = "graph", "error.json"
BUILD_EXIT_CODE = 75
"""Of a child that cannot make the network: its factory is in a module that only the parent has."""


def export_in_child(
    architecture: str, tensors: Mapping[str, NDArray[Any]], net: nn.Module, signature: Signature, opset: int
) -> ExportedGraph:
    """Exports a network in a child process.

    Args:
        architecture: Its name, as `find_architecture` takes it.
        tensors: What the network was built from.
        net: The network, in eval mode.
        signature: Of the network.
        opset: As in `export_graph`.

    Returns:
        What `export_graph` returns.

    Raises:
        InputError: The exporter ended the child, or cannot export the network; and as `export_graph`, like its other errors.
    """
    names = list(tensors)
    with make_temporary_folder() as folder:
        request = {"architecture": architecture, "signature": signature.to_json(), "opset": opset, "names": names}
        (folder / REQUEST_FILE_NAME).write_text(json.dumps(request), encoding="utf-8")
        np.savez(folder / TENSORS_FILE_NAME, **{str(index): tensors[name] for index, name in enumerate(names)})  # type: ignore[arg-type]
        child = subprocess.run(
            [sys.executable, "-m", "exporters.export_in_child", os.fspath(folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if child.returncode == BUILD_EXIT_CODE:
            return export_graph(net, signature, opset=opset)
        error_file, graph_file = folder / ERROR_FILE_NAME, folder / GRAPH_FILE_NAME
        if child.returncode == 0 and error_file.exists():
            error = json.loads(error_file.read_text(encoding="utf-8"))
            raise getattr(errors, error["class"])(error["message"])
        exported = unpack_graph(graph_file.read_bytes(), net) if child.returncode == 0 else None
        if exported is None:
            raise InputError(
                f"The network {escape_name(type(net).__name__)} cannot be exported: PyTorch's exporter "
                f"{_describe_end(child.returncode)} on it. Layers that assign to their weights' .data in forward() do that."
            )
        return exported


def _describe_end(code: int) -> str:
    """What ended the child, from its exit code: minus the signal, or Windows' own number."""
    if code >= 0:
        return f"ended its process with code {code}"
    try:
        return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"was ended by signal {-code}"


def run_child(folder: Path) -> int:
    """Exports what the folder asks for into it; returns the exit code."""
    request = json.loads((folder / REQUEST_FILE_NAME).read_text(encoding="utf-8"))
    with np.load(folder / TENSORS_FILE_NAME) as file:
        tensors = {name: file[str(index)] for index, name in enumerate(request["names"])}
    try:
        signature = Signature.from_json(request["signature"])
        net = find_architecture(request["architecture"], tensors).build(tensors, signature.controls)
    except Exception:  # whatever a module of the user's raises where it is imported a second time
        return BUILD_EXIT_CODE
    try:
        exported = export_graph(net, signature, opset=request["opset"])
    except DniError as error:
        text = json.dumps({"class": type(error).__name__, "message": str(error)})
        (folder / ERROR_FILE_NAME).write_text(text, encoding="utf-8")
    else:
        (folder / GRAPH_FILE_NAME).write_bytes(pack_graph(exported))
    return 0


if __name__ == "__main__":
    sys.exit(run_child(Path(sys.argv[1])))
