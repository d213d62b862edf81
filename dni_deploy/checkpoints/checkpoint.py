"""One file's tensors under canonical names; selection.py says which of them, and which names."""

from __future__ import annotations

import hashlib
import os
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.checkpoints.container import open_zipped_checkpoint, read_shard_names
from dni_deploy.checkpoints.dtypes import STORED_DTYPES, make_dtype_error
from dni_deploy.checkpoints.file_type import CheckpointFile, is_read_failure, is_safetensors, open_checkpoint_file
from dni_deploy.checkpoints.other_formats import describe_by_name, find_index_name
from dni_deploy.checkpoints.pickle_reader import StoredTensor, UnusableTensor
from dni_deploy.checkpoints.safetensors_file import MAX_TENSORS, read_tensors
from dni_deploy.checkpoints.selection import RecognizedNetwork, Recognizer, Selection, TensorSelector
from dni_deploy.checkpoints.torch_file import TorchFile, open_torch_file
from dni_deploy.errors import CheckpointError, DniError, LimitError, RefusedError, escape_name
from dni_deploy.utils.format_count import format_count

_FLOAT_DTYPES = {np.dtype(kind) for kind in ("float16", "float32", "float64")}
_ALLOWED_DTYPES = _FLOAT_DTYPES | {np.dtype(kind) for kind in ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")}


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint:
    """Named tensors and where they came from.

    Attributes:
        tensors: Read-only, C-contiguous arrays by canonical name, in file order; float16, float32, float64 and integers as in
            the file, bfloat16 as float32 (exactly).
        source: The path as the caller wrote it, or "memory".
        sha256: Of the file's bytes, in hex; from memory, of the contents.
        wrapper: The entry that was read, such as "params_ema"; None where the file is a plain state dict.
        notes: One sentence for each thing that was left out, renamed or chosen.
        network: What a recognizer took them for: the architecture's name, the tensors' names in the network's order, a title.
    """

    tensors: dict[str, NDArray[Any]]
    source: str
    sha256: str
    wrapper: str | None = None
    notes: tuple[str, ...] = field(default=())
    network: RecognizedNetwork | None = None

    def __repr__(self) -> str:
        return f"<Checkpoint {escape_name(self.source)}: {format_count(len(self.tensors), 'tensor')}>"

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], *, key: str | None = None, recognizers: Sequence[Recognizer] = ()
    ) -> Checkpoint:
        """Reads the tensors of a file as data; the content decides what it is, not the suffix. Nothing in it is run.

        Read are files of safetensors, torch.save, TorchScript and torch.export, the index of a sharded checkpoint
        (*.index.json), and a .zip with one of them.

        Args:
            path: The file.
            key: The entry to read where a file has several, with dots for entries in entries and for prefixes of names.
            recognizers: What knows networks, to find the one in the file; exporters.architectures.recognize makes them.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: The file is missing, damaged or not a checkpoint.
            RefusedError: Reading it would run code.
            LimitError: It is too large for this machine or a stated limit.
        """
        with open_checkpoint_file(path) as checkpoint_file:
            try:
                return cls._read(checkpoint_file, os.fspath(path), key, recognizers)
            except DniError:
                raise
            except MemoryError:
                raise LimitError(f"{checkpoint_file.name} needs more memory than there is.") from None
            except Exception as error:  # on damaged bytes the standard library raises a dozen kinds, none written for a user
                if is_read_failure(error):
                    raise
                kind = describe_by_name(checkpoint_file.name, checkpoint_file.head)
                problem = (
                    f"is not a checkpoint: it is {kind}"
                    if kind
                    else "is damaged or not a checkpoint; download or save it again"
                )
                raise CheckpointError(f"{checkpoint_file.name} {problem}.") from None

    @classmethod
    def _read(
        cls, checkpoint_file: CheckpointFile, source: str, key: str | None, recognizers: Sequence[Recognizer]
    ) -> Checkpoint:
        digest = checkpoint_file.sha256()
        shards = None if is_safetensors(checkpoint_file) else read_shard_names(checkpoint_file)
        if shards is None:
            _check_not_a_shard(source, checkpoint_file.name)
            value, is_tensor, read = _open_tensors(open_zipped_checkpoint(checkpoint_file) or checkpoint_file)
        else:
            value, digest = _read_shards(shards, checkpoint_file, source, digest)
            is_tensor, read = _is_array, dict
        selection = TensorSelector(checkpoint_file.name, is_tensor, read, recognizers).select(value, key)
        arrays = read({name: selection.tensors[name] for name in selection.names})
        return cls._from_selection(selection, arrays, source, digest)

    @classmethod
    def _from_selection(cls, selection: Selection, arrays: Mapping[Any, NDArray[Any]], source: str, digest: str) -> Checkpoint:
        named = _canonicalize_names(arrays, selection.names, escape_name(source, 100))
        return cls(_make_read_only(named), source, digest, selection.wrapper, tuple(selection.notes), selection.network)

    @classmethod
    def from_state_dict(
        cls,
        tensors: Mapping[str, Any],
        source: str = "memory",
        *,
        key: str | None = None,
        recognizers: Sequence[Recognizer] = (),
    ) -> Checkpoint:
        """Copies a state dict in memory.

        Args:
            tensors: torch tensors or arrays by name, wrapped or not.
            source: Where they come from, for messages.
            key: The entry to read where there are several.
            recognizers: As for `read`.

        Returns:
            The checkpoint, which has its own memory.

        Raises:
            CheckpointError: There are no tensors that can be blended.
            RefusedError: A tensor is sparse.
        """
        where = escape_name(source, 120)

        def copy(chosen: Mapping[Any, Any]) -> dict[Any, NDArray[Any]]:
            return {name: _copy_to_array(value, name, where) for name, value in chosen.items()}

        selection = TensorSelector(where, _is_array, copy, recognizers).select(tensors, key)
        arrays = copy({name: selection.tensors[name] for name in selection.names})
        checkpoint = cls._from_selection(selection, arrays, source, "")
        digest = hashlib.sha256()
        for name, array in checkpoint.tensors.items():
            digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return replace(checkpoint, sha256=digest.hexdigest())

    def recognize(self, recognizers: Sequence[Recognizer]) -> Checkpoint:
        """Returns the part of this checkpoint that the recognizers know, or this checkpoint where they know none."""
        selection = TensorSelector(escape_name(self.source, 100), _is_array, dict, recognizers).select(self.tensors, None)
        if selection.network is None:
            return self
        arrays = {name: self.tensors[name] for name in selection.names}
        found = self._from_selection(selection, arrays, self.source, self.sha256)
        return replace(found, wrapper=self.wrapper, notes=(*self.notes, *found.notes))

    @property
    def float_keys(self) -> tuple[str, ...]:
        """Names of the tensors that a blend mixes, in file order."""
        return tuple(name for name, array in self.tensors.items() if array.dtype in _FLOAT_DTYPES)

    def count_nonfinite(self) -> list[tuple[str, int]]:
        """Lists the float tensors with NaN or infinite numbers, and how many each has."""
        counts = ((name, int(np.count_nonzero(~np.isfinite(self.tensors[name])))) for name in self.float_keys)
        return [(name, count) for name, count in counts if count]


TensorReader = Callable[[Mapping[Any, Any]], Mapping[Any, NDArray[Any]]]
"""Reads tensors that a file holds, by name."""


def _open_tensors(checkpoint_file: CheckpointFile) -> tuple[Any, Callable[[Any], bool], TensorReader]:
    """What a file holds, what of it is a tensor, and what reads tensors of it."""
    if is_safetensors(checkpoint_file):
        return read_tensors(checkpoint_file), _is_array, dict
    torch_file = open_torch_file(checkpoint_file)
    return torch_file.value, _is_stored_tensor, lambda chosen: _load_tensors(torch_file, chosen, checkpoint_file)


def _read_shards(
    shards: Mapping[str, str], index: CheckpointFile, source: str, digest: str
) -> tuple[dict[str, NDArray[Any]], str]:
    """The tensors of a sharded checkpoint in the order of its index, and a SHA-256 of the index and of all shards."""
    arrays: dict[str, NDArray[Any]] = {}
    digests = [digest]
    for shard in dict.fromkeys(shards.values()):
        with open_checkpoint_file(os.path.join(os.path.dirname(source), shard)) as checkpoint_file:
            digests.append(checkpoint_file.sha256())
            value, is_tensor, read = _open_tensors(checkpoint_file)
            names = [name for name, place in shards.items() if place == shard]
            missing = [name for name in names if not isinstance(value, Mapping) or not is_tensor(value.get(name))]
            if missing:
                raise CheckpointError(
                    f"{index.name} says that {escape_name(missing[0], 60)!r} is in {escape_name(shard, 60)}, and it is not; "
                    "download both again."
                )
            arrays.update(read({name: value[name] for name in names}))
    return {name: arrays[name] for name in shards}, hashlib.sha256("".join(digests).encode()).hexdigest()


def _check_not_a_shard(source: str, name: str) -> None:
    shard = find_index_name(source)
    if shard is not None:
        number, count, index = shard
        raise CheckpointError(
            f"{name} is one of {int(count)} shards of a checkpoint (number {int(number)}); give {escape_name(index, 80)}, "
            "which lists them, in its place."
        )


def _load_tensors(torch_file: TorchFile, chosen: Mapping[Any, Any], checkpoint_file: CheckpointFile) -> dict[Any, NDArray[Any]]:
    if len(chosen) > MAX_TENSORS:
        raise LimitError(f"{checkpoint_file.name} has {len(chosen):,} tensors; the limit is {MAX_TENSORS:,}.")
    total = 0
    for name, tensor in chosen.items():
        if not isinstance(tensor, StoredTensor):
            raise _unusable_error(tensor.kind, name, checkpoint_file.name)
        total += int(np.prod(tensor.shape, dtype=object)) * np.dtype(STORED_DTYPES.get(tensor.dtype, "u1")).itemsize
    if total > 4 * checkpoint_file.size + (1 << 20):  # tensors may share a storage (tied weights), but not all of them
        raise RefusedError(
            f"{checkpoint_file.name} has {checkpoint_file.size:,} bytes and declares tensors of {total:,}; refused, because a "
            "small file would fill the memory. Save each tensor with .contiguous()."
        )
    return {name: torch_file.read_tensor(tensor, name) for name, tensor in chosen.items()}


def _unusable_error(kind: str, name: object, where: str) -> DniError:
    if kind == "sparse":  # its indices are not checked by torch and can point outside of the tensor (CVE-2025-62164)
        return RefusedError(f"{where}: tensor {escape_name(name, 80)!r} is sparse; save it with .to_dense().")
    return CheckpointError(f"{where}: tensor {escape_name(name, 80)!r} is a {kind} tensor; save plain float tensors.")


def _canonicalize_names(
    arrays: Mapping[Any, NDArray[Any]], canonical: Mapping[Any, Any], where: str
) -> dict[str, NDArray[Any]]:
    if not arrays:
        raise CheckpointError(f"{where} has no tensors.")
    seen: dict[str, str] = {}
    for original in arrays:
        _check_name(original, where)
        _check_name(canonical[original], where)
        twin = seen.setdefault(unicodedata.normalize("NFC", canonical[original]), original)
        if twin is not original:
            raise CheckpointError(
                f"{where} has the tensors {escape_name(twin, 60)!r} and {escape_name(original, 60)!r}, which are one name."
            )
    return {canonical[original]: array for original, array in arrays.items()}


def _check_name(name: object, where: str) -> None:
    if not isinstance(name, str):
        raise CheckpointError(f"{where} has the tensor {escape_name(name, 40)!r}, whose name is not text.")
    if not 0 < len(name) <= 512:
        raise CheckpointError(f"{where} has a tensor whose name has {len(name):,} characters; 1 to 512 are allowed.")
    if escape_name(name, len(name)) != name or name.startswith("/") or "../" in name:
        raise CheckpointError(
            f"{where} has a tensor called {escape_name(name, 80)!r}; control characters and paths are not names."
        )


def _is_stored_tensor(value: Any) -> bool:
    return isinstance(value, (StoredTensor, UnusableTensor))


def _is_array(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def _copy_to_array(value: Any, name: object, where: str) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        array = np.array(value, order="C", copy=True)
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    kind = "sparse" if value.is_sparse or "sparse" in str(value.layout) else ""
    kind = kind or ("quantized" if value.is_quantized else "meta" if value.is_meta else "nested" if value.is_nested else "")
    if kind:
        raise _unusable_error(kind, name, where)
    if str(value.dtype) == "torch.bfloat16":
        value = value.float()
    elif str(value.dtype).removeprefix("torch.") not in STORED_DTYPES:
        raise make_dtype_error(str(value.dtype).removeprefix("torch."), name, where)
    return np.array(value.detach().cpu().numpy(), order="C", copy=True)


def _make_read_only(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    for name, array in arrays.items():
        if array.dtype not in _ALLOWED_DTYPES:
            raise make_dtype_error(array.dtype, name, "The state dict")
        array.setflags(write=False)
    return dict(arrays)
