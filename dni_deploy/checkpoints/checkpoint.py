"""One file's tensors under canonical names.

What wraps a state dict in a file is removed by one rule, the first that fits:

1. `key`, if it is not None: that entry, dots for entries inside entries ("generator.params_ema").
2. The file is a state dict itself: names to tensors; other entries beside them (an epoch) are left out.
3. The first of WRAPPER_KEYS that holds tensors, and inside it the same again ("generator" -> "params_ema").
4. The only other entry that holds tensors. Several: an error that lists them.

Then the prefix `module.` (DataParallel) is removed where every name has it, and `_orig_mod.` (torch.compile) wherever it is.
"""

from __future__ import annotations

import hashlib
import os
import sys
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.checkpoints.dtypes import STORED_DTYPES, make_dtype_error
from dni_deploy.checkpoints.file_type import CheckpointFile, is_safetensors, open_checkpoint_file
from dni_deploy.checkpoints.pickle_reader import StoredTensor, UnusableTensor
from dni_deploy.checkpoints.safetensors_file import MAX_TENSORS, read_tensors
from dni_deploy.checkpoints.torch_file import TorchFile, open_torch_file
from dni_deploy.errors import CheckpointError, DniError, LimitError, RefusedError, escape_name

WRAPPER_KEYS = (
    "params_ema", "params", "state_dict", "model_state_dict", "model", "net", "network", "weights",
    "generator", "g_ema", "netG", "G", "g",
)  # fmt: skip
"""In order of preference. `params_ema` is before `params`: where a file has both, the averaged weights are meant for use."""

MAX_WRAPPER_DEPTH = 3
"""How many wrappers may lie inside each other."""

_FLOAT_DTYPES = {np.dtype(kind) for kind in ("float16", "float32", "float64")}
_ALLOWED_DTYPES = _FLOAT_DTYPES | {np.dtype(kind) for kind in ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Named tensors and where they came from.

    Attributes:
        tensors: Read-only, C-contiguous arrays by canonical name, in file order; float16, float32, float64 and integers as in
            the file, bfloat16 as float32 (exactly).
        source: The path as the caller wrote it, or "memory".
        sha256: Of the file's bytes, in hex; from memory, of the contents.
        wrapper: The entry that was read, such as "params_ema"; None where the file is a plain state dict.
        notes: One sentence for each thing that was left out, renamed or chosen.
    """

    tensors: dict[str, NDArray[Any]]
    source: str
    sha256: str
    wrapper: str | None = None
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, key: str | None = None) -> Checkpoint:
        """Reads a .safetensors, .pth, .pt, .ckpt or .bin file; the content decides, not the suffix. Nothing in it is run.

        Args:
            path: The file.
            key: The entry to read where a file has several.

        Returns:
            The checkpoint.

        Raises:
            CheckpointError: The file is missing, damaged or not a checkpoint.
            RefusedError: Reading it would run code.
            LimitError: It is too large for this machine or a stated limit.
        """
        with open_checkpoint_file(path) as checkpoint_file:
            try:
                return cls._read(checkpoint_file, os.fspath(path), key)
            except DniError:
                raise
            except MemoryError:
                raise LimitError(f"{checkpoint_file.name} needs more memory than there is.") from None
            except Exception:  # on damaged bytes the standard library raises a dozen kinds, none of them written for a user
                raise CheckpointError(
                    f"{checkpoint_file.name} is damaged or not a checkpoint; download or save it again."
                ) from None

    @classmethod
    def _read(cls, checkpoint_file: CheckpointFile, source: str, key: str | None) -> Checkpoint:
        digest = checkpoint_file.sha256()
        if is_safetensors(checkpoint_file):
            tensors: Mapping[Any, Any] = read_tensors(checkpoint_file)
            chosen, wrapper, notes = _unwrap(tensors, key, checkpoint_file.name, _is_array)
            arrays = dict(chosen)
        else:
            torch_file = open_torch_file(checkpoint_file)
            chosen, wrapper, notes = _unwrap(torch_file.value, key, checkpoint_file.name, _is_stored_tensor)
            arrays = _load_tensors(torch_file, chosen, checkpoint_file)
        named, renamed = _canonicalize_names(arrays, checkpoint_file.name)
        return cls(_make_read_only(named), source, digest, wrapper, (*notes, *renamed))

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Any], source: str = "memory", *, key: str | None = None) -> Checkpoint:
        """Copies a state dict in memory.

        Args:
            tensors: torch tensors or arrays by name, wrapped or not.
            source: Where they come from, for messages.
            key: The entry to read where there are several.

        Returns:
            The checkpoint, which has its own memory.

        Raises:
            CheckpointError: There are no tensors that can be blended.
            RefusedError: A tensor is sparse.
        """
        where = escape_name(source, 120)
        chosen, wrapper, notes = _unwrap(tensors, key, where, _is_array)
        arrays = {name: _copy_to_array(value, name, where) for name, value in chosen.items()}
        named, renamed = _canonicalize_names(arrays, where)
        frozen = _make_read_only(named)
        digest = hashlib.sha256()
        for name, array in frozen.items():
            digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        return cls(frozen, source, digest.hexdigest(), wrapper, (*notes, *renamed))

    @property
    def float_keys(self) -> tuple[str, ...]:
        """Names of the tensors that a blend mixes, in file order."""
        return tuple(name for name, array in self.tensors.items() if array.dtype in _FLOAT_DTYPES)

    def count_nonfinite(self) -> list[tuple[str, int]]:
        """Lists the float tensors with NaN or infinite numbers, and how many each has."""
        counts = ((name, int(np.count_nonzero(~np.isfinite(self.tensors[name])))) for name in self.float_keys)
        return [(name, count) for name, count in counts if count]


def _unwrap(
    value: Any, key: str | None, where: str, is_tensor: Callable[[Any], bool]
) -> tuple[dict[Any, Any], str | None, list[str]]:
    if not isinstance(value, Mapping):
        kind = f"a {type(value).__name__}" if isinstance(value, (list, str, int)) else "an object"
        kind = "one tensor" if is_tensor(value) else kind
        raise CheckpointError(f"{where} holds {kind} instead of tensors under names; save net.state_dict().")
    path: list[str] = []
    if key is not None:
        for part in [key] if key in value else key.split("."):
            if not isinstance(value, Mapping) or not isinstance(value.get(part), Mapping):
                raise CheckpointError(
                    f"{where} has no entry {escape_name(key, 60)!r}; {_format_names(_find_tensor_entries(value, is_tensor))}."
                )
            value = value[part]
        path.append(key)
    notes: list[str] = []
    while not any(is_tensor(item) for item in value.values()):
        holders = _find_tensor_entries(value, is_tensor)
        preferred = [name for name in WRAPPER_KEYS if name in holders]
        if len(path) > MAX_WRAPPER_DEPTH or (not preferred and len(holders) != 1):
            raise CheckpointError(f"{where} has no single set of tensors; {_format_names(holders)}. Choose one with key=.")
        wrapper = (preferred or holders)[0]
        if len(holders) > 1:
            others = [name for name in holders if name != wrapper]
            notes.append(f"{wrapper!r} was read, {_format_names(others)} as well.")
        path.append(wrapper)
        value = value[wrapper]
    ignored = [escape_name(name, 40) for name, item in value.items() if not is_tensor(item)]
    if ignored:
        notes.append(f"Left out, because not tensors: {', '.join(ignored[:5])}.")
    return {name: item for name, item in value.items() if is_tensor(item)}, ".".join(path) or None, notes


def _find_tensor_entries(value: Any, is_tensor: Callable[[Any], bool]) -> list[str]:
    """Names of the entries that are, or hold within MAX_WRAPPER_DEPTH levels, dicts of tensors."""
    cache: dict[tuple[int, int], bool] = {}  # a pickle may refer to one dict from everywhere, even from inside itself

    def has_tensors(item: Any, depth: int) -> bool:
        if not isinstance(item, Mapping) or not depth:
            return False
        if (id(item), depth) not in cache:
            cache[id(item), depth] = any(is_tensor(inner) or has_tensors(inner, depth - 1) for inner in item.values())
        return cache[id(item), depth]

    if not isinstance(value, Mapping):
        return []
    return [name for name, item in value.items() if isinstance(name, str) and has_tensors(item, MAX_WRAPPER_DEPTH)]


def _format_names(names: list[str]) -> str:
    if not names:
        return "it has no tensors under names"
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"it has {', '.join(repr(escape_name(name, 40)) for name in names[:5])}{more}"


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


def _canonicalize_names(arrays: Mapping[Any, NDArray[Any]], where: str) -> tuple[dict[str, NDArray[Any]], list[str]]:
    names = list(arrays)
    for name in names:
        _check_name(name, where)
    if not names:
        raise CheckpointError(f"{where} has no tensors.")
    short, removed = [name.replace("_orig_mod.", "") for name in names], []
    while all(name.startswith("module.") for name in short):
        short = [name.removeprefix("module.") for name in short]
        removed = ["The prefix 'module.' was removed from every name."]
    seen: dict[str, str] = {}
    for name, original in zip(short, names, strict=True):
        _check_name(name, where)
        twin = seen.setdefault(unicodedata.normalize("NFC", name), original)
        if twin is not original:
            raise CheckpointError(
                f"{where} has the tensors {escape_name(twin, 60)!r} and {escape_name(original, 60)!r}, which are one name."
            )
    return dict(zip(short, arrays.values(), strict=True)), removed


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
