"""Bundle files: name and content of every file that a graph and a family become."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from safetensors.numpy import save

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.manifest import MANIFEST_FILE_NAME, Manifest, MemberEntry, StoredFile, WeightEntry, parse_slider_points
from dni_deploy.errors import BundleError, InputError, LimitError, MismatchError, RefusedError, UsageError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils import onnx_weights
from dni_deploy.utils.atomic_write import write_bytes, write_bytes_atomically, write_folder_atomically

if TYPE_CHECKING:
    from dni_deploy.checkpoints.family import Family, Member


def write_bundle(
    path: str | os.PathLike[str],
    graph: ModelProto,
    family: Family,
    signature: Signature,
    *,
    architecture: str,
    graph_facts: Mapping[str, Any],
    tied: Mapping[str, str] | None = None,
    force: bool = False,
) -> Bundle:
    """Write the folder and open it.

    graph  its float32 initializers named by the family's float keys become the weights, whatever values they carry;
           it is not changed. They point into the first member's file where that is float32.
    force  replace the bundle at `path`; anything else that lies there is never replaced.

    A new bundle appears whole. In an existing one the new files are written first, the manifest is replaced last, in one
    step, and then the files that only the old manifest named are removed. The same input gives the same bytes.
    Raises UsageError (exists), MismatchError (the graph does not fit the family), LimitError (no room), InputError.
    """
    folder = Path(path)
    if os.path.lexists(folder) and force and not (folder.is_dir() and not any(folder.iterdir())):
        replace_files(folder, lambda _: build_bundle_files(graph, family, signature, architecture, graph_facts, tied or {}))
    else:
        with write_folder_atomically(folder, force=force) as temporary:
            for name, data in build_bundle_files(graph, family, signature, architecture, graph_facts, tied or {}):
                write_bytes(temporary / name, data)
    return Bundle.open(folder)


def replace_files(folder: Path, make_files: Callable[[Manifest], Iterable[tuple[str, bytes]]]) -> None:
    """Replace the bundle in this folder by what `make_files` makes of its manifest: names and contents, the manifest last.

    Nobody else writes meanwhile. New files first, then the manifest in one step, then files that only the old manifest named are
    removed; until that step the old bundle is whole. Raises UsageError (no bundle, or another writer), LimitError, InputError.
    """
    written = set()
    with _lock_folder(folder):
        try:
            old = Bundle._read_manifest(folder)
        except (BundleError, RefusedError) as error:
            raise UsageError(
                f"Only a bundle can be replaced or added to, and this is none that can be read. {error} Nothing was written."
            ) from None
        kept = {stored.file for stored in old.manifest.files}
        named = kept
        try:
            for name, data in make_files(old.manifest):
                written.add(name)
                if name == MANIFEST_FILE_NAME:
                    named = {stored.file for stored in Manifest.from_bytes(data).files}
                write_bytes_atomically(folder / name, data, force=True)
        except BaseException as error:
            # Whether the old manifest still stands is for the disk to say: the fault may lie between its replacement and us.
            with suppress(BundleError, RefusedError):
                if Bundle._read_manifest(folder).digest == old.digest:
                    _remove_files(folder, written - kept - {MANIFEST_FILE_NAME})
                    if isinstance(error, (LimitError, InputError)):
                        raise type(error)(f"{error} The bundle {escape_name(folder)} is as it was.") from error
            raise
        _remove_files(folder, kept - named)


def _remove_files(folder: Path, names: set[str]) -> None:
    for name in names:  # names that a checked manifest gave: never a path
        with suppress(OSError):
            os.unlink(folder / name)


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Keep a second writer out: it could remove files that the first one's manifest names."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder that one may write to and not list
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{escape_name(folder)} is being written by another process; try again. Nothing was written."
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


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


def store_recalibration(bundle: Bundle, data: bytes | None) -> Bundle:
    """Add the bytes of a recalibration file to the bundle's folder, in place of the one that is there; None takes that away.

    Returns the bundle as it is then, opened; its digest is another one. The change is one step: a crash leaves the old one or the
    new one. Raises UsageError (the bundle was replaced since it was opened, or is being written), LimitError, InputError.
    """
    stored = (
        None if data is None else StoredFile.from_digest("recalibration", "safetensors", sha256(data).hexdigest(), len(data))
    )

    def change(old: Manifest) -> Iterator[tuple[str, bytes]]:
        if stored is not None and data is not None:
            yield stored.file, data
        yield MANIFEST_FILE_NAME, replace(old, recalibration=stored).to_bytes()

    return _apply_change(bundle, change)


def store_slider(
    bundle: Bundle, points: Sequence[tuple[float, float]] | None, about: Mapping[str, Any] | None = None
) -> Bundle:
    """Add a slider's knots, (position, alpha) each, or replace those that are there; None takes them away.

    about  what they were measured on and how even they make the steps, as JSON; it is told and never computed with.
    Raises as store_recalibration does, and BundleError for knots that no manifest may hold: fewer than two, or beyond 0 to 1.
    """
    slider = None if points is None else parse_slider_points([[float(position), float(alpha)] for position, alpha in points])

    def change(old: Manifest) -> Iterator[tuple[str, bytes]]:
        yield MANIFEST_FILE_NAME, replace(old, slider=slider, slider_about=None if slider is None else about).to_bytes()

    return _apply_change(bundle, change)


def _apply_change(bundle: Bundle, change: Callable[[Manifest], Iterator[tuple[str, bytes]]]) -> Bundle:
    def make_files(old: Manifest) -> Iterator[tuple[str, bytes]]:
        if _without_attachments(old) != _without_attachments(bundle.manifest):
            raise UsageError(
                f"{escape_name(bundle.path)} was replaced since it was opened, so that nothing made from it can be added; open it again. "
                "Nothing was written."
            )
        yield from change(old)

    replace_files(bundle.path, make_files)
    return Bundle.open(bundle.path)


def _without_attachments(manifest: Manifest) -> Manifest:
    return replace(manifest, recalibration=None, slider=None, slider_about=None)
