"""The small types that TensorRT's calls accept and return (Weights, shapes, host memory, loggers), and their dtypes."""

from __future__ import annotations

import ctypes
import enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fakes import gpu as machine
from tests.fakes.trt.record import since

NUMPY: dict[str, Any] = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "UINT8": np.uint8, "BOOL": np.bool_}
NUMPY |= {"INT32": np.int32, "INT64": np.int64}
ONNX = {1: "FLOAT", 10: "HALF", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 2: "UINT8", 11: "FLOAT"}
"""ONNX's element types; a double becomes a float."""


class Enum(enum.Enum):
    """Like pybind11's enums: not an int, but int() and indexing work."""

    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__


def trt() -> Any:
    return machine.TENSORRT_RTX if machine.current().tensorrt.startswith("rtx") else machine.TENSORRT


def nptype(trt_type: Any) -> type:
    if trt_type.name not in NUMPY:
        raise TypeError(f"Could not resolve TensorRT datatype to an equivalent numpy datatype: {trt_type}")
    return NUMPY[trt_type.name]  # type: ignore[no-any-return]


def dtype_of(kind: np.dtype[Any]) -> Any:
    """Returns the DataType of a NumPy dtype."""
    for name, each in NUMPY.items():
        if np.dtype(each) == kind and name in trt().DataType.__members__:
            return trt().DataType[name]
    raise TypeError(f"Could not convert NumPy dtype {kind} to TensorRT")


def volume(iterable: Any) -> int:
    product = 1
    for each in iterable:
        product *= each
    return product


class Dims(tuple[int, ...]):
    """A shape."""

    MAX_DIMS = 8


def dims(value: Any) -> Dims:
    """Converts a sequence of ints like pybind11."""
    if not isinstance(value, (tuple, list)) or not all(hasattr(size, "__index__") for size in value):
        raise TypeError(f"incompatible function arguments: {type(value).__name__} for Dims")
    return trt().Dims(int(size) for size in value)  # type: ignore[no-any-return]


class IHostMemory(bytes):
    """Only a buffer: other methods of bytes are hidden, because the real class lacks them."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") or name in ("nbytes", "dtype", "_fake"):
            return bytes.__getattribute__(self, name)
        raise AttributeError(f"'tensorrt.IHostMemory' object has no attribute '{name}'")

    @property
    def nbytes(self) -> int:
        return bytes.__len__(self)

    @property
    def dtype(self) -> Any:
        return trt().DataType.INT8


class Weights:
    """Weights(dtype), Weights(array), or from 9 on Weights(dtype, address, count), which keeps nothing alive."""

    def __init__(self, *args: Any, **options: Any) -> None:
        arguments = dict(zip(("type", "ptr", "count"), args, strict=False))
        if args and isinstance(args[0], np.ndarray):
            arguments = {"a": args[0]}
        arguments.update(options)
        self._array: NDArray[Any] | None = None
        self._address, self._size = 0, 0
        if set(arguments) == {"a"}:
            self._array = np.ascontiguousarray(arguments["a"])
            self._dtype = dtype_of(self._array.dtype)
            self._address, self._size = self._array.ctypes.data, self._array.size
        elif set(arguments) == {"type", "ptr", "count"} and self._three:
            self._dtype = arguments["type"]
            self._address, self._size = int(arguments["ptr"]), int(arguments["count"])
        elif set(arguments) <= {"type"}:
            self._dtype = arguments.get("type", trt().DataType.FLOAT)
        else:
            raise TypeError(f"__init__(): incompatible constructor arguments: {sorted(arguments)}")
        if not isinstance(self._dtype, trt().DataType):
            raise TypeError(f"__init__(): incompatible constructor arguments: {self._dtype!r} for a DataType")

    @property
    @since(9)
    def _has_three(self) -> bool:
        return True

    @property
    def _three(self) -> bool:
        return hasattr(type(self), "_has_three")

    @property
    def dtype(self) -> Any:
        return self._dtype

    @property
    def size(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        return self._size * np.dtype(nptype(self._dtype)).itemsize

    def numpy(self) -> NDArray[Any]:
        return _at(self._address, self.nbytes).view(nptype(self._dtype))

    def __len__(self) -> int:
        return self._size


def _at(address: int, nbytes: int) -> NDArray[np.uint8]:
    """Bytes of the host."""
    return np.frombuffer((ctypes.c_char * nbytes).from_address(address), np.uint8) if nbytes else np.empty(0, np.uint8)


def prototype(dtype: Any, count: int) -> Any:
    """Returns weights without values, like get_weights_prototype."""
    made = trt().Weights(dtype)
    made._size = count
    return made


class ILogger:
    """To be inherited from; a subclass calls this __init__."""

    def __init__(self) -> None:
        self._ready = True

    def log(self, severity: Any, msg: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "ILogger::log"')


class Logger(ILogger):
    """Prints nothing; keeps messages that are severe enough."""

    def __init__(self, min_severity: Any = None) -> None:
        self._ready = True
        self._min_severity = trt().Logger.WARNING if min_severity is None else min_severity
        self._kept: list[str] = []

    def log(self, severity: Any, msg: str) -> None:
        if int(severity) <= int(self._min_severity):
            self._kept.append(msg)

    @property
    def min_severity(self) -> Any:
        return self._min_severity

    @min_severity.setter
    def min_severity(self, value: Any) -> None:
        self._min_severity = value


def logger_of(value: Any, call: str) -> Any:
    """Returns a usable logger, or raises pybind11's TypeError."""
    if not isinstance(value, trt().ILogger):
        raise TypeError(f"{call}: incompatible constructor arguments: {type(value).__name__} for an ILogger")
    if not getattr(value, "_ready", False):
        raise TypeError("tensorrt.ILogger.__init__() must be called when overriding __init__")
    return value


def error(logger: Any, sentence: str) -> None:
    logger.log(trt().ILogger.Severity.ERROR, sentence)


class IProgressMonitor:
    """To be inherited from."""

    def __init__(self) -> None:
        self._ready = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phaseStart"')

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::stepComplete"')

    def phase_finish(self, phase_name: str) -> None:
        raise RuntimeError('Tried to call pure virtual function "IProgressMonitor::phaseFinish"')
