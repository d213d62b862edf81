"""Bundle files: name and content of every file that a graph and a family become."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from safetensors.numpy import save

from dni_deploy.bundle.manifest import MANIFEST_FILE_NAME, Manifest, MemberEntry, StoredFile, WeightEntry
from dni_deploy.errors import InputError, MismatchError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils import onnx_weights

if TYPE_CHECKING:
    from dni_deploy.checkpoints.family import Family, Member

MAX_INLINE_BYTES = 1 << 20
"""Bytes of float32 copies that go into the graph file itself; beyond it they get a file of their own."""


def build_bundle_files(
    graph: ModelProto,
    family: Family,
    signature: Signature,
    architecture: str,
    graph_facts: Mapping[str, Any],
    tied: Mapping[str, str],
) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, the manifest last; one member's bytes at a time."""
    model = ModelProto()
    model.CopyFrom(graph)
    initializers = onnx_weights.find_weight_initializers(model, family.float_keys)
    first = family.members[0].checkpoint.tensors
    for initializer in initializers:
        if tuple(initializer.dims) != first[initializer.name].shape:
            raise MismatchError(
                f"The graph has {escape_name(initializer.name)!r} as {tuple(initializer.dims)}, "
                f"the family as {first[initializer.name].shape}."
            )
    entries = []
    offsets: dict[str, tuple[int, int]] = {}
    for member in family.members:
        data = save(dict(member.checkpoint.tensors))
        offsets = offsets or _read_tensor_spans(data)
        entries.append(_make_member_entry(member, data, family))
        yield entries[-1].stored.file, data
    weights_file, data = _set_weight_data(initializers, first, entries[0].stored.file, offsets)
    if weights_file is not None:
        yield weights_file.file, data
    data = model.SerializeToString(deterministic=True)
    stored = StoredFile.from_digest("graph", "onnx", sha256(data).hexdigest(), len(data))
    yield stored.file, data
    used = {initializer.name for initializer in initializers}
    manifest = Manifest(
        architecture=architecture,
        signature=signature,
        opset=max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0),
        members=tuple(entries),
        graph=stored,
        weights=tuple(WeightEntry(initializer.name, tuple(initializer.dims)) for initializer in initializers),
        weights_file=weights_file,
        unused=tuple(name for name in family.float_keys if name not in used and name not in tied),
        tied=tied,
        graph_facts=graph_facts,
    )
    yield MANIFEST_FILE_NAME, manifest.to_bytes()


def _make_member_entry(member: Member, data: bytes, family: Family) -> MemberEntry:
    checkpoint = member.checkpoint
    return MemberEntry(
        name=member.name,
        stored=StoredFile.from_digest(member.name, "safetensors", sha256(data).hexdigest(), len(data)),
        source=escape_name(checkpoint.source.replace("\\", "/").rpartition("/")[2]),  # no path: it would tell of the machine
        source_sha256=checkpoint.sha256,
        dtype=",".join(sorted({str(checkpoint.tensors[name].dtype) for name in family.float_keys})),
    )


def _read_tensor_spans(data: bytes) -> dict[str, tuple[int, int]]:
    """Offset in the file and length of each tensor of a safetensors file that we wrote."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return {
        name: (start + entry["data_offsets"][0], entry["data_offsets"][1] - entry["data_offsets"][0])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _set_weight_data(
    initializers: list[TensorProto],
    first: Mapping[str, NDArray[Any]],
    file: str,
    offsets: Mapping[str, tuple[int, int]],
) -> tuple[StoredFile | None, bytes]:
    """Give the initializers the first member's values: in its file where that is float32, else as float32 copies."""
    copies = []
    for initializer in initializers:
        values = first[initializer.name]
        if values.dtype == np.float32 and values.size:
            onnx_weights.set_external_data(initializer, file, *offsets[initializer.name])
        else:
            with np.errstate(over="ignore"):
                rounded = values.astype("<f4")
            if not np.isfinite(rounded).all():
                raise InputError(f"The tensor {escape_name(initializer.name)!r} has values beyond float32's range.")
            copies.append((initializer, rounded))
    if sum(values.nbytes for _, values in copies) <= MAX_INLINE_BYTES:
        for initializer, values in copies:
            onnx_weights.fill_initializer(initializer, values)
        return None, b""
    data = b"".join(values.tobytes() for _, values in copies)
    stored = StoredFile.from_digest("weights", "bin", sha256(data).hexdigest(), len(data))
    offset = 0
    for initializer, values in copies:
        onnx_weights.set_external_data(initializer, stored.file, offset, values.nbytes)
        offset += values.nbytes
    return stored, data
