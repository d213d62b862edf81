"""Bundle: the folder with one ONNX graph, every member's weights, and the manifest that vouches for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from safetensors import SafetensorError
from safetensors.numpy import load

from dni_deploy.bundle.manifest import MANIFEST_FILE_NAME, Manifest
from dni_deploy.bundle.slider import PerceptualSlider
from dni_deploy.bundle.stored_file import read_verified
from dni_deploy.bundle.writer import build_bundle_files
from dni_deploy.errors import BundleError, InputError, LimitError, MismatchError, RefusedError, UsageError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils import onnx_weights
from dni_deploy.utils.atomic_write import write_bytes, write_bytes_atomically, write_folder_atomically

if TYPE_CHECKING:
    from dni_deploy.checkpoints.family import Family


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Nothing but the manifest is held in memory; every read checks the file's SHA-256 again.

    path      the folder.
    manifest  its table of contents.
    digest    SHA-256 of manifest.json in hex: the identity of the whole bundle.
    """

    path: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read the manifest and check every file of it against its SHA-256.

        Raises BundleError (not a bundle, a file missing, changed or cut), RefusedError (a file that is a link, not a
        file, or named outside the folder), LimitError (a manifest beyond its size limit).
        """
        folder = Path(path)
        for last in (False, False, True):
            bundle = cls._read_manifest(folder)
            try:
                for stored in bundle.manifest.files:
                    read_verified(folder, stored, keep=False)
            except (BundleError, RefusedError):
                # Somebody may have replaced the bundle between our reading of its manifest and of its files.
                if last or cls._read_manifest(folder).digest == bundle.digest:
                    raise
            else:
                return bundle
        raise AssertionError("unreachable")

    @classmethod
    def ensure_open(cls, bundle: Bundle | str | os.PathLike[str]) -> Bundle:
        """A bundle that is open already, as it is; else the one in that folder, opened."""
        return bundle if isinstance(bundle, Bundle) else cls.open(bundle)

    @classmethod
    def _read_manifest(cls, folder: Path) -> Bundle:
        if not folder.is_dir():
            missing = "does not exist" if not os.path.lexists(folder) else "is not a folder"
            raise BundleError(f"{escape_name(folder)} {missing}; a bundle is the folder that `dni-deploy export` writes.")
        data = read_verified(folder, None, keep=True)
        try:
            return cls(folder, Manifest.from_bytes(data), sha256(data).hexdigest())
        except (BundleError, RefusedError) as error:
            raise type(error)(f"{escape_name(folder / MANIFEST_FILE_NAME)}: {error}") from None

    @property
    def members(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.manifest.members)

    @property
    def signature(self) -> Signature:
        return self.manifest.signature

    @property
    def architecture(self) -> str:
        return self.manifest.architecture

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The blended initializers, in graph order."""
        return tuple(weight.name for weight in self.manifest.weights)

    @property
    def slider(self) -> PerceptualSlider | None:
        """The slider with even steps that `dni-deploy slider` stored; None without. Raises BundleError for knots that are none."""
        return None if self.manifest.slider is None else PerceptualSlider(self.manifest.slider)

    def alpha_at(self, position: float) -> float:
        """Alpha, the first member's share, at a position of the stored slider, 0 to 1. Raises UsageError where there is no slider."""
        if self.slider is None:
            raise UsageError(
                f"{escape_name(self.path)} holds no slider; `dni-deploy slider {escape_name(self.path)} PICTURE` measures one and keeps it there."
            )
        return self.slider.alpha_at(position)

    def read_graph(self) -> ModelProto:
        """The graph with its weights taken out: those initializers have name, shape and type, no data. The caller's own."""
        model = onnx_weights.parse_graph(read_verified(self.path, self.manifest.graph), escape_name(self.manifest.graph.file))
        onnx_weights.strip_weights(model, {weight.name: weight.shape for weight in self.manifest.weights})
        return model

    def read_graph_with_weights(self, weights: str | Mapping[str, NDArray[Any]]) -> ModelProto:
        """The graph with float32 weights inside: a member's, or these by name, rounded to float32. The caller's own.

        Raises MismatchError if a name is missing or a shape differs.
        """
        tensors = self.read_weights(weights) if isinstance(weights, str) else weights
        missing = [name for name in self.weight_names if name not in tensors]
        if missing:
            raise MismatchError(f"{len(missing)} of the graph's weights are not given, first {escape_name(missing[0])!r}.")
        model = self.read_graph()
        onnx_weights.fill_initializers(
            model, self.weight_names, lambda name: np.asarray(tensors[name]).astype(np.float32, copy=False)
        )
        return model

    def read_tensors(self, member: str) -> dict[str, NDArray[Any]]:
        """All tensors of the member's checkpoint, integers too, in their own dtypes. Fresh and read-only at every call.

        Raises UsageError on an unknown member, BundleError if the file changed since the bundle was opened.
        """
        if member not in self.members:
            raise UsageError(
                f"The bundle has no member {escape_name(member)!r}; it has {', '.join(map(escape_name, self.members))}."
            )
        stored = self.manifest.members[self.members.index(member)].stored
        try:
            tensors: dict[str, NDArray[Any]] = load(read_verified(self.path, stored))
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise BundleError(
                f"{escape_name(stored.file)} is not a safetensors file, though its SHA-256 fits the manifest."
            ) from None
        for tensor in tensors.values():
            tensor.flags.writeable = False
        return tensors

    def read_weights(self, member: str) -> dict[str, NDArray[Any]]:
        """The member's value of every blended initializer, in graph order, in its own dtype. Fresh and read-only at every call.

        Raises as `tensors` does, and BundleError if a weight is missing or has another shape than the graph's.
        """
        tensors = self.read_tensors(member)
        for weight in self.manifest.weights:
            found = tensors.get(weight.name)
            if found is None or found.shape != weight.shape or found.dtype.kind != "f":
                what = "missing" if found is None else f"{found.dtype} {found.shape}"
                raise BundleError(
                    f"Member {escape_name(member)!r}: {escape_name(weight.name)!r} is {what}, the graph has it as {weight.shape}."
                )
        return {weight.name: tensors[weight.name] for weight in self.manifest.weights}


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
