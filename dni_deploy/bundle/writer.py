"""Writing of bundles: the files that a graph and a family become, and what is added to a bundle later."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from safetensors.numpy import save

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.bundle.folder import MANIFEST_FILE_NAME
from dni_deploy.bundle.manifest import (
    ATTACHMENT_FIELDS,
    Manifest,
    MemberEntry,
    StoredFile,
    WeightEntry,
    parse_slider_points,
)
from dni_deploy.checkpoints.family import Family, Member
from dni_deploy.errors import BundleError, InputError, LimitError, MismatchError, RefusedError, UsageError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils import onnx_weights
from dni_deploy.utils.address import as_local_path
from dni_deploy.utils.atomic_write import write_bytes, write_bytes_atomically, write_folder_atomically
from dni_deploy.utils.file_lock import try_lock

log = logging.getLogger(__name__)

MAX_INLINE_BYTES = 1 << 20
"""Largest size of the float32 copies that are stored in the graph file itself; beyond it they get a file of their own."""


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
    """Writes a bundle and opens it.

    A new bundle appears whole. In an existing one the new files are written first, the manifest is replaced last, in one step,
    and then the files that only the old manifest named are removed. The same input gives the same bytes.

    Args:
        path: The folder.
        graph: Its float32 initializers named by the family's float keys become the weights, whatever values they have. They
            point into the first member's file where that is float32. It is not changed.
        family: The members.
        signature: What goes into the network and comes out.
        architecture: Name of the architecture.
        graph_facts: How the graph was made, as JSON.
        tied: Name of a tensor -> name of the one with which it shares its values.
        force: Whether a bundle at `path` is replaced; anything else there never is.

    Returns:
        The bundle.

    Raises:
        UsageError: Something exists at `path`.
        MismatchError: The graph does not fit the family.
        LimitError: There is no room.
        InputError: The folder cannot be written, or a tensor has values beyond float32.
    """
    folder = as_local_path(path, "a bundle that is written")

    def build_files(_: Manifest | None = None) -> Iterator[tuple[str, bytes]]:
        return build_bundle_files(graph, family, signature, architecture, graph_facts, tied or {})

    if os.path.lexists(folder) and force and not (folder.is_dir() and not any(folder.iterdir())):
        replace_files(folder, build_files)
    else:
        with write_folder_atomically(folder, force=force) as temporary:
            for name, data in build_files():
                write_bytes(temporary / name, data)
    return Bundle.open(folder)


def replace_files(folder: Path, make_files: Callable[[Manifest], Iterable[tuple[str, bytes]]]) -> None:
    """Replaces the bundle in a folder. No other process can write to it meanwhile.

    New files are written first, then the manifest is replaced in one step, then the files that only the old manifest named are
    removed; until that step the old bundle is whole.

    Args:
        folder: The bundle.
        make_files: Makes name and content of each new file from the old manifest; the new manifest is the last one.

    Raises:
        UsageError: There is no bundle that can be read, or another process is writing.
        LimitError: There is no room.
        InputError: The folder cannot be written.
    """
    written = set()
    with _lock_folder(folder):
        try:
            old = Bundle.read_manifest(folder)
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
                write_bytes_atomically(folder / name, data, force=True, mode_of=folder / MANIFEST_FILE_NAME)
        except BaseException as error:
            # Read from the disk whether the old manifest is still there: the error may have come after its replacement.
            with suppress(BundleError, RefusedError):
                if Bundle.read_manifest(folder).digest == old.digest:
                    _remove_files(folder, written - kept - {MANIFEST_FILE_NAME})
                    if isinstance(error, (LimitError, InputError)):
                        raise type(error)(f"{error} The bundle {escape_name(folder)} is as it was.") from error
            raise
        left = _remove_files(folder, kept - named)
        if left:
            log.warning(
                "%s of the bundle before could not be removed from %s; remove them by hand.",
                ", ".join(map(escape_name, left)),
                escape_name(folder),
            )


def _remove_files(folder: Path, names: set[str]) -> list[str]:
    """Removes files of a bundle; returns the names of those that cannot be removed."""
    left = []
    for name in sorted(names):  # names that a checked manifest gave: never a path
        try:
            os.unlink(folder / name)
        except FileNotFoundError:
            pass
        except OSError:
            left.append(name)
    return left


@contextmanager
def _lock_folder(folder: Path) -> Iterator[None]:
    """Keeps a second writer out, which could remove files that the first one's manifest names."""
    with ExitStack() as stack:
        with suppress(OSError):  # Windows opens no folders, and one may write to a folder and not list it: no lock there
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            if not try_lock(descriptor):
                raise UsageError(f"{escape_name(folder)} is being written by another process; try again. Nothing was written.")
        yield


def build_bundle_files(
    graph: ModelProto,
    family: Family,
    signature: Signature,
    architecture: str,
    graph_facts: Mapping[str, Any],
    tied: Mapping[str, str],
) -> Iterator[tuple[str, bytes]]:
    """Makes name and content of each file of a bundle, the manifest last; only one member's bytes are in memory at a time.

    The arguments and errors are those of `write_bundle`.
    """
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
    stored = StoredFile.for_data("graph", "onnx", data)
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
        stored=StoredFile.for_data(member.name, "safetensors", data),
        source=escape_name(checkpoint.source.replace("\\", "/").rpartition("/")[2]),  # no path, which may be private
        source_sha256=checkpoint.sha256,
        dtype=",".join(sorted({str(checkpoint.tensors[name].dtype) for name in family.float_keys})),
    )


def _read_tensor_spans(data: bytes) -> dict[str, tuple[int, int]]:
    """Offset in the file and length of each tensor of a safetensors file that was written here."""
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
    """Points the initializers at the first member's values: in its file where that is float32, else in float32 copies."""
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
    stored = StoredFile.for_data("weights", "bin", data)
    offset = 0
    for initializer, values in copies:
        onnx_weights.set_external_data(initializer, stored.file, offset, values.nbytes)
        offset += values.nbytes
    return stored, data


def store_calibration(bundle: Bundle, data: bytes | None) -> Bundle:
    """Adds a calibration file to a bundle, or replaces the one that it has.

    The change is one step: a crash leaves the old bundle or the new one.

    Args:
        bundle: The bundle.
        data: Content of the file; None removes the file.

    Returns:
        The bundle as it is then, opened; its digest is another one.

    Raises:
        UsageError: The bundle was replaced since it was opened, or is being written.
        LimitError: There is no room.
        InputError: The folder cannot be written.
    """
    if data is None:
        return _change_attachments(bundle, calibration=None)
    stored = StoredFile.for_data("calibration", "safetensors", data)
    return _change_attachments(bundle, [(stored.file, data)], calibration=stored)


def store_slider(
    bundle: Bundle, points: Sequence[tuple[float, float]] | None, about: Mapping[str, Any] | None = None
) -> Bundle:
    """Adds a slider to a bundle, or replaces the one that it has.

    Args:
        bundle: The bundle.
        points: (position, alpha) of each point; None removes the slider.
        about: On what it was measured and how even it makes the steps, as JSON; shown, never computed with.

    Returns:
        The bundle as it is then, opened; its digest is another one.

    Raises:
        BundleError: There are fewer than two points, or numbers outside 0 to 1.
        UsageError: As `store_calibration`, as are LimitError and InputError.
    """
    if points is None:
        return _change_attachments(bundle, slider=None, slider_about=None)
    slider = parse_slider_points([[float(position), float(alpha)] for position, alpha in points])
    return _change_attachments(bundle, slider=slider, slider_about=about)


def _change_attachments(bundle: Bundle, new_files: Sequence[tuple[str, bytes]] = (), **fields: Any) -> Bundle:
    """Writes new files and a manifest with these fields changed."""
    if bundle.address is not None:
        raise UsageError(
            f"{escape_name(bundle.address)} is read from there and not changed; copy the bundle to a folder, change it there, and "
            "upload it. Nothing was written."
        )

    def make_files(old: Manifest) -> Iterator[tuple[str, bytes]]:
        if _without_attachments(old) != _without_attachments(bundle.manifest):
            raise UsageError(
                f"{escape_name(bundle.path)} was replaced since it was opened, so that nothing made from it can be added; "
                "open it again. Nothing was written."
            )
        yield from new_files
        yield MANIFEST_FILE_NAME, replace(old, **fields).to_bytes()

    replace_files(bundle.path, make_files)
    return Bundle.open(bundle.path)


def _without_attachments(manifest: Manifest) -> Manifest:
    absent: dict[str, Any] = dict.fromkeys(ATTACHMENT_FIELDS)
    return replace(manifest, **absent)
