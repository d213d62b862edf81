"""A cache with one exported graph per architecture, kept without weights, because the graph does not depend on their values.

A first export of RRDBNet-23 spends a quarter of a minute in the exporter; every later one of the same shape reads a file.
The cache may be deleted at any time, and export works without one.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dni_deploy.errors import DniError
from dni_deploy.signature import Signature
from dni_deploy.utils.derived_file import read_derived_file, write_derived_file
from dni_deploy.utils.hardware import cache_folder
from dni_deploy.utils.log_duration import log_duration
from exporters import canonical_names, capture_program, onnx_translations, opset17, training_form
from exporters import export_graph as export_module
from exporters.architectures.architecture import find_source_tensors
from exporters.export_graph import EXPORTER_OPSET, ExportedGraph, collect_float_tensors, export_graph
from exporters.export_in_child import export_in_child
from exporters.graph_entry import pack_graph, unpack_graph

log = logging.getLogger(__name__)

VERSIONED_PACKAGES = ("torch", "onnx", "onnxscript")


def export_graph_cached(
    architecture: str, net: nn.Module, signature: Signature, *, opset: int = EXPORTER_OPSET, fresh: bool = False
) -> tuple[ExportedGraph, bool]:
    """Exports a network, or reads its graph from the cache; what was exported is put there.

    A cache that cannot be read or written, and an entry that is damaged, count as none.

    Args:
        architecture: Its name.
        net: As in `export_graph`.
        signature: As in `export_graph`.
        opset: As in `export_graph`.
        fresh: Whether to export without looking into the cache, and to replace the entry.

    Returns:
        What `export_graph` returns, byte for byte, and whether it came from the cache.

    Raises:
        InputError: As `export_graph`, like its other errors.
    """
    folder = cache_folder()
    entry = None if folder is None else folder / f"{cache_key(architecture, net, signature, opset)}.graph"
    if entry is not None and not fresh:
        cached = _read_entry(entry, net)
        if cached is not None:
            log.info("the export cache holds this graph: %s", entry)
            return cached, True
    with log_duration(log, "exporting the graph, which is not in the export cache,"):
        tensors = find_source_tensors(net) if architecture.startswith("spandrel.") or ":" in architecture else None
        if tensors is None:
            exported = export_graph(net, signature, opset=opset)
        else:  # nobody here has seen this network's code
            exported = export_in_child(architecture, tensors, net, signature, opset)
    if entry is not None:
        _write_entry(entry, exported)
    return exported, False


def cache_key(architecture: str, net: nn.Module, signature: Signature, opset: int) -> str:
    """Computes the SHA-256, in hex, of everything that the graph depends on.

    That is the network but for its weights' values, our code, and the version of the exporter.
    """
    digest = hashlib.sha256()
    for part in _iterate_key_parts(architecture, net, signature, opset):
        data = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _iterate_key_parts(architecture: str, net: nn.Module, signature: Signature, opset: int) -> Iterator[object]:
    yield from (
        architecture,
        sorted(signature.to_json().items()),
        opset,
        [version(name) for name in VERSIONED_PACKAGES],
        repr(net),
    )
    tensors, tied = collect_float_tensors(net)
    yield from ([(name, tuple(tensor.shape)) for name, tensor in tensors.items()], sorted(tied.items()))
    for name, buffer in net.named_buffers():  # integer and non-persistent buffers are constants of the graph
        if name not in tensors and name not in tied and not name.endswith("num_batches_tracked"):
            yield from (name, _hash_tensor(buffer))
    for name, module in net.named_modules():  # numbers that forward may use and repr may not show
        yield from (name, type(module).__qualname__)
        for key, value in sorted(vars(module).items()):
            if isinstance(value, (Tensor, np.ndarray)):
                yield from (key, _hash_tensor(torch.as_tensor(value)))
            elif key != "training" and not key.startswith("_") and _is_plain(value):
                yield from (key, value)
    classes = {base for module in net.modules() for base in type(module).__mro__}
    for source in sorted(filter(None, set(map(_find_source_file, classes)))):
        yield Path(source).read_bytes()
    for module in (export_module, canonical_names, capture_program, onnx_translations, opset17, training_form):
        yield Path(str(module.__file__)).read_bytes()


def _hash_tensor(tensor: Tensor) -> tuple[str, tuple[int, ...], str]:
    array = np.ascontiguousarray(tensor.detach().cpu().numpy())
    return str(array.dtype), array.shape, hashlib.sha256(array.tobytes()).hexdigest()


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _find_source_file(module_class: type) -> str | None:
    """The file that defines a class, if it is not PyTorch's own, which the version stands for."""
    if module_class.__module__.partition(".")[0] == "torch" or module_class.__module__ not in sys.modules:
        return None
    try:
        return inspect.getsourcefile(module_class)
    except TypeError:  # defined in a console
        return None


def _read_entry(entry: Path, net: nn.Module) -> ExportedGraph | None:
    """The entry with the network's weights put in; None if there is none, or it is not whole."""
    data = read_derived_file(entry, "an exported graph")
    return None if data is None else unpack_graph(data, net)


def _write_entry(entry: Path, exported: ExportedGraph) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_derived_file(entry, pack_graph(exported), force=True)
    except (OSError, DniError):  # a full or read-only disk must not cost the export
        return
