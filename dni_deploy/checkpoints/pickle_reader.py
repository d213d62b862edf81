"""Pickles, read as plain data by a stack machine that cannot call anything.

A pickle is a program: it may name any importable function and call it. This machine knows the names that tensors are saved
with, replaces each of them by data, and refuses a call of every other name; nothing is ever imported. It is an allow-list:
scanners with deny-lists have been bypassed again and again (CVE-2025-10155 to 10157), and `torch.load(weights_only=True)`
itself has had holes (CVE-2025-32434, CVE-2026-24747).

An object of an unknown class that is only made and given its attributes (NEWOBJ without arguments, then BUILD), such as the
`argparse.Namespace` of a training script, is an OpaqueValue.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

from dni_deploy.checkpoints.read_budget import ReadBudget
from dni_deploy.errors import CheckpointError, RefusedError, escape_name

MAX_INTEGER_KEY = 1 << 61
"""Larger integer keys are left out: Python's hash of an integer is its rest by 2^61 - 1, and a dict of keys with one hash takes
time quadratic in their number. No hash of the other types can be chosen: those of texts are salted."""

MAX_MEMO_INDEX = 1 << 31
MAX_NAME_CHARACTERS = 1000


class ByteReader(Protocol):
    """Bytes in order."""

    def read(self, count: int = -1, /) -> bytes:
        """Reads `count` bytes, or the rest; must not allocate more than there is."""
        ...

    def readline(self) -> bytes:
        """Reads to the end of the line."""
        ...


@dataclass(frozen=True)
class Storage:
    """A run of numbers in the file.

    Attributes:
        dtype: Element type as torch calls it, such as "float32" or "untyped".
        key: Name of its record.
        count: Number of elements.
    """

    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a view of a storage. Nothing is checked against the file yet.

    Attributes:
        storage: Where its numbers are.
        dtype: Element type as torch calls it.
        offset: First element in the storage.
        shape: Size of each axis.
        strides: Distance along each axis, in elements.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class UnusableTensor:
    """A tensor that cannot be blended.

    Attributes:
        kind: "sparse", "quantized", "meta", ...
    """

    kind: str


class OpaqueValue:
    """Something other than a tensor, such as a NumPy scalar or an object of an unknown class: data that is never read."""


class ScriptModule(dict[str, Any]):
    """The attributes of a module of TorchScript by name: tensors, numbers and further ScriptModules."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle refers to; nothing is imported for it.

    Attributes:
        name: Such as torch._utils._rebuild_tensor_v2.
    """

    name: str

    @property
    def is_known(self) -> bool:
        """Whether tensors are saved with it, so that it may be called."""
        known = (_IGNORED_GLOBALS, _CALL_HANDLERS, _UNUSABLE_KINDS, STORAGE_CLASSES)
        return any(self.name in names for names in known) or _DTYPE_PATTERN.fullmatch(self.name) is not None


_STORAGE_DTYPES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64", "Untyped": "untyped",
    "ComplexDouble": "complex128", "QInt8": "qint8", "QInt32": "qint32", "QUInt8": "quint8", "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
}  # fmt: skip
STORAGE_CLASSES = {
    f"{package}.{kind}Storage": dtype
    for package in ("torch", "torch.cuda", "torch.storage")
    for kind, dtype in _STORAGE_DTYPES.items()
}
_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_IGNORED_GLOBALS = {
    "torch.Tensor", "torch.nn.parameter.Parameter", "torch.device", "torch.serialization._get_layout", "torch.Size",
    "collections.OrderedDict", "collections.defaultdict", "collections.Counter", "_codecs.encode",
    "numpy.dtype", "numpy.ndarray", *(f"{module}.{name}" for module in _NUMPY_MODULES for name in ("scalar", "_reconstruct")),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__")
      for name in ("set", "frozenset", "dict", "list", "tuple", "bytearray", "complex", "int", "float", "bool", "str")),
    *(f"torch.per_{name}" for name in ("tensor_affine", "channel_affine", "tensor_symmetric", "channel_symmetric")),
    *(f"pathlib.{prefix}{name}" for prefix in ("", "_local.") for name in
      ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"torch.jit._pickle.{name}" for name in
      ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag")),
}  # fmt: skip
"""Names whose calls give an OpaqueValue, unless _CALL_HANDLERS has one for them."""
_DTYPE_PATTERN = re.compile(r"torch\.(q?u?int\d+(x\d+)?|b?float\d+(_\w+)?|complex\d+|bool|half|double|long|short|float|int)")
_GLOBAL_NAME_PATTERN = re.compile(r"[A-Za-z_][\w.]*\.[\w.<>]+")


def read_pickle(stream: ByteReader, where: str, budget: ReadBudget, storages: dict[str, Storage] | None = None) -> Any:
    """Reads the next pickle of a stream.

    Args:
        stream: The stream; it is left behind the pickle.
        where: The file as the user knows it, already safe to print.
        budget: That of the file.
        storages: A dict to fill with every storage that the pickle mentions, by key.

    Returns:
        Dicts, lists, tuples, numbers, strings, StoredTensor, UnusableTensor, ScriptModule, Global and OpaqueValue.

    Raises:
        RefusedError: It calls a name that is outside of the allow-list.
        LimitError: The budget is spent.
        CheckpointError: It is not a pickle of data.
    """
    machine = _PickleMachine(where, budget, {} if storages is None else storages)
    operations: Iterator[Any] = pickletools.genops(cast(Any, stream))
    for opcode, argument, _ in operations:
        budget.spend(1)
        if opcode.name == "STOP":
            return machine.stack.pop()
        try:
            machine.run(opcode.name, argument)
        except _UnsafePickleError as refused:
            raise _refusal_error(where, refused.name, operations, budget) from None
    raise CheckpointError(f"{where} has a pickle without an end; the file is cut short.")


class _UnsafePickleError(Exception):
    def __init__(self, name: str) -> None:
        self.name = name


def _refusal_error(where: str, name: str, rest: Iterator[Any], budget: ReadBudget) -> Exception:
    if not _GLOBAL_NAME_PATTERN.fullmatch(name):
        return CheckpointError(f"{where} is not a checkpoint: neither a torch file nor safetensors.")
    whole_module = name.startswith("torch.nn.") or _mentions_module(rest, budget)
    if whole_module:
        return RefusedError(
            f"{where} is a whole pickled module ({escape_name(name, 60)!r}), and reading it would run its code. "
            "Nothing was run. Save net.state_dict() instead."
        )
    return RefusedError(
        f"{where} would run code when read: it asks for {escape_name(name, 60)!r}. Nothing was run. "
        "If you trust its author, ask for a plain state dict or .safetensors."
    )


def _mentions_module(rest: Iterator[Any], budget: ReadBudget) -> bool:
    try:
        for _, argument, _ in rest:
            budget.spend(1)
            if isinstance(argument, str) and (argument.startswith("torch.nn.modules") or argument == "_parameters"):
                return True
    except Exception:  # what follows the refused name may be anything
        pass
    return False


class _PickleMachine:
    """The stack machine; a method `_name` runs the operation NAME, and raises any exception on a stack that does not fit."""

    def __init__(self, where: str, budget: ReadBudget, storages: dict[str, Storage]) -> None:
        self.where = where
        self.budget = budget
        self.storages = storages
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def call(self, function: Any, arguments: Any) -> None:
        """Runs a call. It may copy its arguments, and a pickle can repeat it cheaply, so what is copied counts as steps."""
        if not isinstance(arguments, tuple):
            raise ValueError("not a call")
        self.budget.spend(
            sum(len(item) for item in (arguments, *arguments) if isinstance(item, (list, tuple, dict, str, bytes)))
        )
        self.stack.append(_call_global(function, arguments))

    def run(self, name: str, argument: Any) -> None:
        if name in _ARGUMENT_OPCODES:
            self.stack.append(argument)
        elif name in _NEW_OBJECT_OPCODES:
            self.stack.append(_NEW_OBJECT_OPCODES[name]())
        elif name in _TUPLE_SIZES:
            self._make_tuple(_TUPLE_SIZES[name])
        elif name in ("PROTO", "FRAME"):
            return
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[_require_index(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        elif name == "GLOBAL":
            self.stack.append(_resolve_global(*argument.split(" ", 1)))
        else:
            operation: Callable[[], None] | None = getattr(self, f"_{name.lower()}", None)
            if operation is not None:
                operation()
            elif name == "INST":
                self.call(_resolve_global(*argument.split(" ", 1)), tuple(self._pop_to_mark()))
            elif name in ("EXT1", "EXT2", "EXT4"):
                raise _UnsafePickleError("copyreg.extension")
            else:
                raise CheckpointError(f"{self.where} has the pickle operation {name}, which no checkpoint needs.")

    def _pop_to_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _mark(self) -> None:
        self.marks.append(len(self.stack))

    def _pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def _pop_mark(self) -> None:
        self._pop_to_mark()

    def _dup(self) -> None:
        self.stack.append(self.stack[-1])

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_resolve_global(_require_text(module), _require_text(name)))

    def _tuple(self) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _make_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise ValueError("not a tuple")
        self.stack[-size:] = [tuple(self.stack[-size:])]

    def _list(self) -> None:
        self.stack.append(self._pop_to_mark())

    _frozenset = _list

    def _dict(self) -> None:
        items = self._pop_to_mark()
        self.stack.append(_make_dict(zip(items[::2], items[1::2], strict=True)))

    def _append(self) -> None:
        item = self.stack.pop()
        _extend_list(self.stack[-1], [item])

    def _appends(self) -> None:
        items = self._pop_to_mark()
        _extend_list(self.stack[-1], items)

    _additems = _appends

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _update_dict(self.stack[-1], [(key, value)])

    def _setitems(self) -> None:
        items = self._pop_to_mark()
        _update_dict(self.stack[-1], zip(items[::2], items[1::2], strict=True))

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.call(function, arguments)

    def _newobj(self) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        if isinstance(cls, Global) and arguments == () and not cls.name.startswith("torch.nn.") and not cls.is_known:
            self.stack.append(ScriptModule() if cls.name.startswith("__torch__.") else OpaqueValue())
        else:
            self.call(cls, arguments)

    def _newobj_ex(self) -> None:
        self.stack.pop()
        self._reduce()

    def _obj(self) -> None:
        items = self._pop_to_mark()
        self.call(items[0], tuple(items[1:]))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Global):
            raise _UnsafePickleError(target.name)  # no object, but a module or class that would be changed
        if isinstance(target, ScriptModule) and isinstance(state, dict):
            self.budget.spend(len(state))
            target.update(state)
        # else: the state of an OrderedDict is torch's `_metadata` (versions of layers), that of an OpaqueValue is not read

    def _binpersid(self) -> None:
        identity = self.stack.pop()
        if isinstance(identity, tuple) and identity[:1] == ("module",):  # how torch before 1.6 saved a class of a module
            self.stack.append(identity[1])
            return
        storage = _parse_storage(identity)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError("one storage in two ways")
        self.stack.append(storage)


_ARGUMENT_OPCODES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
    "BINUNICODE8",
}  # fmt: skip
_TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NEW_OBJECT_OPCODES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": lambda: (),
    "EMPTY_DICT": dict,
}


def _resolve_global(module: str, name: str) -> Global:
    if len(module) + len(name) > MAX_NAME_CHARACTERS:
        raise ValueError("not a name")
    full = f"{module}.{name}"
    if not _GLOBAL_NAME_PATTERN.fullmatch(full):
        raise _UnsafePickleError(full)
    return Global(full)


def _call_global(function: Any, arguments: Any) -> Any:
    if not isinstance(function, Global):
        raise ValueError("not a call")
    if not function.is_known:
        raise _UnsafePickleError(function.name)
    if function.name in _UNUSABLE_KINDS:
        return UnusableTensor(_UNUSABLE_KINDS[function.name])
    handler: Callable[..., Any] = _CALL_HANDLERS.get(function.name, _make_opaque)
    return handler(*arguments)


def _make_opaque(*_: Any) -> Any:
    return OpaqueValue()


def _require_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a name")
    return value


def _require_index(argument: Any) -> int:
    index = int(argument)
    if not 0 <= index < MAX_MEMO_INDEX:
        raise ValueError("not an index")
    return index


def _make_dict(pairs: Any = ()) -> dict[Any, Any]:
    fields: dict[Any, Any] = {}
    _update_dict(fields, pairs)
    return fields


def _update_dict(target: Any, pairs: Any) -> None:
    if isinstance(target, dict):
        for key, value in pairs:
            if isinstance(key, int) and not -MAX_INTEGER_KEY < key < MAX_INTEGER_KEY:
                continue
            if isinstance(key, (str, int, float, bytes, type(None))):  # nothing that hashes by recursion
                target[key] = value
    elif not isinstance(target, (UnusableTensor, OpaqueValue)):
        raise ValueError("not a dict")


def _extend_list(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, (UnusableTensor, OpaqueValue)):
        raise ValueError("not a list")


def _parse_storage(identity: Any) -> Storage:
    if not isinstance(identity, tuple) or not 5 <= len(identity) <= 6 or identity[0] != "storage":
        raise ValueError("not a storage")
    kind, key, count = identity[1], identity[2], identity[4]
    if isinstance(kind, Global) and not kind.is_known:
        raise _UnsafePickleError(kind.name)
    if not isinstance(kind, Global) or kind.name not in STORAGE_CLASSES or type(count) is not int or count < 0:
        raise ValueError("not a storage")
    if len(identity) == 6 and identity[5] is not None:
        raise ValueError("a storage view of torch 0.1")
    return Storage(STORAGE_CLASSES[kind.name], str(_require_text(key)), count)


def make_stored_tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str = "") -> StoredTensor:
    """Makes a tensor of values that a file names.

    Raises:
        ValueError: They are not those of a tensor.
    """
    if not isinstance(storage, Storage) or len(shape) != len(strides) or len(shape) > 16:
        raise ValueError("not a tensor")
    if not all(type(number) is int and 0 <= number < 2**62 for number in (offset, *shape, *strides)):
        raise ValueError("not a tensor")
    return StoredTensor(storage, dtype or storage.dtype, offset, tuple(shape), tuple(strides))


def _rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *more: Any, dtype: str = ""
) -> StoredTensor | UnusableTensor:
    tensor = make_stored_tensor(storage, offset, shape, strides, dtype)
    return UnusableTensor("conjugated or negated") if len(more) > 2 and more[2] else tensor


def _rebuild_tensor_v3(storage: Any, offset: Any, shape: Any, strides: Any, *more: Any) -> StoredTensor | UnusableTensor:
    dtype = more[2]  # of the types that have no storage class of their own, such as uint16 and float8
    if not isinstance(storage, Storage) or storage.dtype != "untyped" or not isinstance(dtype, Global):
        raise ValueError("not a tensor")
    return _rebuild_tensor(storage, offset, shape, strides, *more[:2], *more[3:], dtype=dtype.name.removeprefix("torch."))


def _rebuild_typed(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    if not isinstance(kind, Global) or kind.name not in ("torch.Tensor", "torch.nn.parameter.Parameter"):
        return UnusableTensor("subclassed")
    if not isinstance(function, Global) or not function.name.startswith("torch._utils._rebuild_"):
        if isinstance(function, Global) and not function.is_known:
            raise _UnsafePickleError(function.name)
        return UnusableTensor("subclassed")
    return _call_global(function, arguments)


def _encode_text(text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
    return _require_text(text).encode("latin1")


_CALL_HANDLERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _rebuild_typed,
    "torch.Size": lambda size=(): tuple(size),
    "collections.OrderedDict": _make_dict,
    "collections.defaultdict": lambda *_: {},
    "_codecs.encode": _encode_text,
}
_UNUSABLE_KINDS = {
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_meta_tensor_no_storage": "meta",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_wrapper_subclass": "subclassed",
    "torch._utils._rebuild_device_tensor_from_numpy": "device",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "device",
}
