"""The tensors of a file of torch.save, TorchScript or torch.export, read without torch and without running anything.

There are two formats. Since torch 1.6: a zip archive with stored (never compressed) records: `data.pkl` says which tensor is
which view of which record. Before that: five pickles in a row (magic number, protocol, system, object, storage keys) and then
the storages. Every size is compared with the file before memory is allocated.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.checkpoints.dtypes import STORED_DTYPES, convert_elements, make_dtype_error
from dni_deploy.checkpoints.file_type import CheckpointFile
from dni_deploy.checkpoints.pickle_reader import (
    MAX_NAME_CHARACTERS,
    ScriptModule,
    Storage,
    StoredTensor,
    UnusableTensor,
    make_stored_tensor,
    read_pickle,
)
from dni_deploy.errors import CheckpointError, LimitError, RefusedError, escape_name
from dni_deploy.utils.text_file import load_json

MAX_RECORDS = 50_000
_PROGRAM_WEIGHTS_PATTERN = re.compile(
    r"(.+/)?(data/weights/\w*weights_config\.json|data/weights/\w+\.pt|serialized_state_dict\.(pt|json))"
)
"""The record with a program's weights, by version of torch: since 2.9, 2.8, before."""
_PROGRAM_DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64", 12: "bool",
    13: "bfloat16", 28: "uint16", 34: "uint32", 35: "uint64",
}  # fmt: skip
"""Source: torch/_export/serde/schema.py, ScalarType."""
_PROGRAM_STRIDED_LAYOUT = 7
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class TorchFile(ABC):
    """A torch.save file.

    Attributes:
        value: What was saved: nested dicts, lists and numbers, with StoredTensor for each tensor.
    """

    value: Any

    def __init__(self, checkpoint_file: CheckpointFile) -> None:
        """Keeps the opened file; subclasses look through all of it."""
        self._file, self._where = checkpoint_file, checkpoint_file.name
        self._storage_cache: dict[str, bytes] = {}

    def read_tensor(self, tensor: StoredTensor, name: str) -> NDArray[Any]:
        """Reads a tensor.

        Args:
            tensor: A leaf of `value`.
            name: Its name, for messages.

        Returns:
            The numbers, C-contiguous, of their own dtype, bfloat16 as float32; tensors that share a storage share the memory.

        Raises:
            CheckpointError: Numbers are missing or damaged, or of a type that is not read.
            RefusedError: The tensor is larger than its storage.
        """
        if tensor.dtype not in STORED_DTYPES:
            raise make_dtype_error(tensor.dtype, name, self._where)
        key = tensor.storage.key
        if key not in self._storage_cache:
            self._storage_cache[key] = self._read_storage(tensor.storage, name)
        return _view_storage(self._storage_cache[key], tensor, name, self._where)

    @abstractmethod
    def _read_storage(self, storage: Storage, name: str) -> bytes:
        """Reads the bytes of a storage; `name` is that of a tensor in it, for messages."""

    def _missing_error(self, name: str) -> CheckpointError:
        return CheckpointError(f"{self._where}: the numbers of {escape_name(name, 80)!r} are missing; the file is incomplete.")


def open_torch_file(checkpoint_file: CheckpointFile) -> TorchFile:
    """Looks through the whole file; the errors are those of `read_pickle`."""
    if not checkpoint_file.head.startswith(b"PK"):
        return LegacyTorchFile(checkpoint_file)
    try:
        names = zipfile.ZipFile(checkpoint_file.file).namelist()
    except zipfile.BadZipFile:
        names = []  # ZipTorchFile says so
    is_program = any(_PROGRAM_WEIGHTS_PATTERN.fullmatch(name) for name in names)
    return (ExportedProgramFile if is_program else ZipTorchFile)(checkpoint_file)


def flatten_script_module(module: ScriptModule) -> dict[str, Any]:
    """Returns the tensors of a TorchScript module and of those inside it, under dotted names as in its state dict.

    Raises:
        LimitError: There are more than MAX_RECORDS attributes.
    """
    tensors: dict[str, Any] = {}
    waiting: list[tuple[str, ScriptModule]] = [("", module)]
    visited = 0
    while waiting:
        prefix, current = waiting.pop(0)
        visited += len(current)
        if visited > MAX_RECORDS or prefix.count(".") > 100:
            raise LimitError(f"The TorchScript module has more than {MAX_RECORDS:,} attributes, or modules 100 deep.")
        for name, value in current.items():
            if len(prefix) + len(name) > MAX_NAME_CHARACTERS:
                raise LimitError(f"The TorchScript module has names of more than {MAX_NAME_CHARACTERS:,} characters.")
            if isinstance(value, ScriptModule):
                waiting.append((f"{prefix}{name}.", value))
            elif isinstance(value, (StoredTensor, UnusableTensor)):
                tensors[prefix + name] = value
    return tensors


def _view_storage(buffer: bytes, tensor: StoredTensor, name: str, where: str) -> NDArray[Any]:
    """Makes the tensor's numbers, C-contiguous; a view of `buffer` where that is possible."""
    flat = np.frombuffer(buffer, STORED_DTYPES[tensor.dtype])
    count = math.prod(tensor.shape)
    if count == 0:
        return convert_elements(np.zeros(tensor.shape, flat.dtype), tensor.dtype)
    strides = tuple(stride * flat.itemsize for stride in tensor.strides)
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if count > flat.size:
        raise RefusedError(
            f"{where}: tensor {escape_name(name, 80)!r} declares {count:,} numbers over a storage of {flat.size:,}; refused, "
            "because a small file would fill the memory. Save it with .contiguous()."
        )
    if last >= flat.size:
        raise CheckpointError(f"{where}: tensor {escape_name(name, 80)!r} reaches past its storage of {flat.size:,} numbers.")
    view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
    return convert_elements(view if view.flags.c_contiguous else view.copy(order="C"), tensor.dtype)


def _storage_bytes(storage: Storage) -> int:
    size = {"complex64": 8, "complex128": 16, "qint32": 4}.get(storage.dtype, 1)
    return storage.count * (np.dtype(STORED_DTYPES[storage.dtype]).itemsize if storage.dtype in STORED_DTYPES else size)


class ZipTorchFile(TorchFile):
    """A torch.save file since 1.6. Every record that is read is checked against its CRC."""

    def __init__(self, checkpoint_file: CheckpointFile) -> None:
        """Looks through the whole file; the errors are those of `read_pickle`."""
        super().__init__(checkpoint_file)
        where = self._where
        try:
            self._zip = zipfile.ZipFile(checkpoint_file.file)
        except zipfile.BadZipFile:
            raise CheckpointError(
                f"{where} is cut short or damaged: the index at the end of the archive is missing. Download or copy it again."
            ) from None
        self._check_kind(set(self._zip.namelist()))
        self._records = self._validate_records(checkpoint_file.size)
        root = self._find_root()
        self._data_prefix = f"{root}/data/"
        self._check_version(root)
        self.value = self._read_value(root)

    def _read_value(self, root: str) -> Any:
        is_script = any(name.startswith(f"{root}/code/") for name in self._records)
        for name in sorted(self._records):
            if name.endswith(".pkl") and name != f"{root}/data.pkl" and not is_script:  # those of TorchScript are not needed
                read_pickle(io.BytesIO(self._read_record(name)), self._where, self._file.budget)
        value = read_pickle(io.BytesIO(self._read_record(f"{root}/data.pkl")), self._where, self._file.budget)
        return flatten_script_module(value) if isinstance(value, ScriptModule) else value

    def _check_version(self, root: str) -> None:
        where = self._where
        order = self._read_text(f"{root}/byteorder", "little")
        if order != "little":
            raise CheckpointError(
                f"{where} was written in the byte order {escape_name(order, 20)!r}; save it on a little-endian machine."
            )
        version = self._read_text(f"{root}/version", self._read_text(f"{root}/.data/version", "3"))
        if not re.fullmatch(r"\d{1,4}", version) or int(version) > 10:
            raise CheckpointError(f"{where} has the archive version {escape_name(version, 20)!r}; versions up to 10 are known.")

    def _read_storage(self, storage: Storage, name: str) -> bytes:
        record = self._data_prefix + storage.key
        if record not in self._records:
            raise self._missing_error(name)
        size, declared = self._records[record].file_size, _storage_bytes(storage)
        if size != declared:
            raise CheckpointError(
                f"{self._where}: the storage of {escape_name(name, 80)!r} has {size:,} bytes instead of {declared:,}."
            )
        return self._read_record(record)

    def _validate_records(self, size: int) -> dict[str, zipfile.ZipInfo]:
        where, records, total = self._where, self._zip.infolist(), 0
        if len(records) > MAX_RECORDS:
            raise LimitError(f"{where} has {len(records):,} records; the limit is {MAX_RECORDS:,}.")
        by_name: dict[str, zipfile.ZipInfo] = {}
        for record in records:
            name, safe = record.filename, escape_name(record.orig_filename, 50)
            if name in by_name:
                raise RefusedError(
                    f"{where} has two records called {safe!r}, and readers differ in which one they use; save it again."
                )
            parts = name.split("/")
            if name.startswith("/") or ".." in parts or "\\" in name or ":" in name or name != record.orig_filename:
                raise RefusedError(f"{where} has a record called {safe!r}, which reaches out of the archive.")
            if record.flag_bits & 1:
                raise RefusedError(f"{where} is an encrypted archive; unpack it and save it with torch.save.")
            by_name[name] = record
            if len(parts) > 1 and parts[1] == "code":
                continue  # the code of TorchScript is compressed, and never read
            if record.compress_type != zipfile.ZIP_STORED:
                raise RefusedError(
                    f"{where} has the compressed record {safe!r}; torch.save never compresses, and a small file "
                    "could fill the memory. Save it again with torch.save."
                )
            total += record.file_size
            if record.file_size != record.compress_size or total > size:
                raise CheckpointError(f"{where} is damaged: its records claim more bytes than the file has.")
        return by_name

    def _check_kind(self, names: set[str]) -> None:
        where = self._where
        if names and all(name.endswith(".npy") for name in names):
            raise CheckpointError(f"{where} is a NumPy archive (.npz); save it as .safetensors.")

    def _find_root(self) -> str:
        roots = [name.removesuffix("/data.pkl") for name in self._records if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(roots) != 1:
            raise CheckpointError(f"{self._where} is a zip archive, but not one of torch.save (no single data.pkl in it).")
        return roots[0]

    def _read_record(self, name: str) -> bytes:
        try:
            return self._zip.read(self._records[name])
        except (zipfile.BadZipFile, EOFError):
            raise CheckpointError(
                f"{self._where} is damaged: its record {escape_name(name, 60)!r} fails the archive's own checksum. "
                "Download it again."
            ) from None

    def _read_text(self, name: str, default: str) -> str:
        return self._read_record(name).decode("latin1").strip() if name in self._records else default


class ExportedProgramFile(ZipTorchFile):
    """A torch.export program (.pt2), of which the weights are read: a table of raw records, or a torch.save file inside."""

    _inner: TorchFile | None = None

    def _find_root(self) -> str:
        return self._find_weights().rpartition("/data/weights/")[0] or "archive"

    def _find_weights(self) -> str:
        names = [name for name in self._records if _PROGRAM_WEIGHTS_PATTERN.fullmatch(name)]
        if len(names) != 1:
            raise CheckpointError(
                f"{self._where} is a torch.export program (.pt2) with {len(names)} sets of weights; 1 is read."
            )
        return names[0]

    def _read_value(self, root: str) -> Any:
        name = self._find_weights()
        data = self._read_record(name)
        if not name.endswith("_config.json"):
            self._inner = ZipTorchFile(CheckpointFile(io.BytesIO(data), self._where, len(data), self._file.budget))
            return self._inner.value
        self._data_prefix = f"{name.rpartition('/')[0]}/"
        config = load_json(data.decode("utf-8"))["config"]
        return {
            key: self._make_tensor(entry["path_name"], entry["use_pickle"], entry["tensor_meta"])
            for key, entry in config.items()
        }

    def _make_tensor(self, path_name: str, is_pickled: bool, meta: dict[str, Any]) -> StoredTensor | UnusableTensor:
        dtype = _PROGRAM_DTYPES.get(meta["dtype"], "unusual")
        if is_pickled or meta["layout"] != _PROGRAM_STRIDED_LAYOUT or dtype not in STORED_DTYPES:
            return UnusableTensor("sparse or unusual")
        shape, strides = ([size["as_int"] for size in meta[field]] for field in ("sizes", "strides"))
        count = self._records[self._data_prefix + path_name].file_size // np.dtype(STORED_DTYPES[dtype]).itemsize
        return make_stored_tensor(Storage(dtype, path_name, count), meta["storage_offset"]["as_int"], shape, strides)

    def _read_storage(self, storage: Storage, name: str) -> bytes:
        return super()._read_storage(storage, name) if self._inner is None else self._inner._read_storage(storage, name)


class LegacyTorchFile(TorchFile):
    """A torch.save file before 1.6, or any other pickle, which is read to its end and then reported as no checkpoint."""

    def __init__(self, checkpoint_file: CheckpointFile) -> None:
        """Looks through the whole file; the errors are those of `read_pickle`."""
        super().__init__(checkpoint_file)
        where, budget = self._where, checkpoint_file.budget
        if read_pickle(checkpoint_file, where, budget) != LEGACY_MAGIC:
            while checkpoint_file.tell() < checkpoint_file.size:
                read_pickle(checkpoint_file, where, budget)
            raise CheckpointError(f"{where} is a pickle, but not one of torch.save; save net.state_dict() with torch.save.")
        if read_pickle(checkpoint_file, where, budget) != 1001:
            raise CheckpointError(f"{where} has an unknown version of torch's old format; save it again with a newer torch.")
        system = read_pickle(checkpoint_file, where, budget)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise CheckpointError(f"{where} was not written on a little-endian machine; save it again on one.")
        storages: dict[str, Storage] = {}
        self.value = read_pickle(checkpoint_file, where, budget, storages)
        keys = read_pickle(checkpoint_file, where, budget)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(set(keys)) != len(keys):
            raise CheckpointError(f"{where} is damaged: its list of storages is not a list of names.")
        self._storage_spans = self._locate_storages(keys, storages)

    def _read_storage(self, storage: Storage, name: str) -> bytes:
        if storage.key not in self._storage_spans:
            raise self._missing_error(name)
        start, size = self._storage_spans[storage.key]
        self._file.file.seek(start)
        return self._file.read(size)

    def _locate_storages(self, keys: list[str], storages: dict[str, Storage]) -> dict[str, tuple[int, int]]:
        spans: dict[str, tuple[int, int]] = {}
        for key in keys:
            if key not in storages:
                raise CheckpointError(f"{self._where} is damaged: it has numbers that no tensor refers to.")
            storage = storages[key]
            prefix = self._file.read(8)
            count = int.from_bytes(prefix, "little", signed=True)
            length = _storage_bytes(storage)
            if len(prefix) < 8 or self._file.tell() + length > self._file.size:
                raise CheckpointError(
                    f"{self._where} is cut short: it ends at {self._file.size:,} bytes, in the middle of the numbers. "
                    "Download it again."
                )
            if count != storage.count:
                raise CheckpointError(
                    f"{self._where} is damaged: a storage has {count:,} numbers instead of {storage.count:,}."
                )
            spans[key] = (self._file.tell(), length)
            self._file.file.seek(length, io.SEEK_CUR)
        if self._file.tell() != self._file.size:
            raise CheckpointError(
                f"{self._where} has {self._file.size - self._file.tell():,} bytes after its end; download it again."
            )
        return spans
