"""Refitter: hands a slot's blended weights to its engine.

From TensorRT 9.1 on, the engine is told once where in device memory each weight lies; from then on a refit is one call that is
queued behind the blend. Before (8.6), weights pass through page-locked host memory, and the call waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorrt as trt
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, escape_name
from dni_deploy.utils.hardware import count_cores
from engines.cuda.blender import WeightBuffer
from engines.cuda.device import Device
from engines.cuda.layout import DeviceLayout
from engines.cuda.memory import Staging
from engines.trt.features import Features
from engines.trt.messages import clear_errors, get_logger, make_engine_error


class RefitWeights:
    """Names, types, counts and device addresses of the weights of a live arena; and, for TensorRT 8.6, their values on the host.

    The arena is the slot's, and the slot frees it. The caller holds the device.
    """

    def __init__(self, device: Device, layout: DeviceLayout, weight_buffer: WeightBuffer) -> None:
        self._layout, self._weight_buffer = layout, weight_buffer
        self._staging = Staging(device)
        self.names = tuple(layout.names)

    def dtype_of(self, name: str) -> np.dtype[Any]:
        return np.dtype(self._layout.dtype_of(name))

    def count_of(self, name: str) -> int:
        return int(self._layout.count_of(name))

    def pointer_of(self, name: str) -> int:
        return int(self._weight_buffer.pointer_of(name))

    def download_to_host(self, stream: Any) -> dict[str, NDArray[Any]]:
        """Every weight, flat, after what is queued on the stream: views of page-locked memory, good until the next call."""
        arena = self._staging.get_array((self._layout.nbytes,), np.uint8)
        self._weight_buffer.buffer.download(arena, stream)
        stream.synchronize()
        return {name: self._view_weight(arena, name) for name in self.names}

    def _view_weight(self, host_copy: NDArray[np.uint8], name: str) -> NDArray[Any]:
        start, dtype = self._layout.offset_of(name), self.dtype_of(name)
        return host_copy[start : start + self.count_of(name) * dtype.itemsize].view(dtype)

    def free(self) -> None:
        """Free the host memory. Calling it again does nothing."""
        self._staging.free()


TRT_DTYPES = {np.dtype(np.float32): "FLOAT", np.dtype(np.float16): "HALF"}

REFITTER_RENEWAL_PERIOD = 64
"""Refits on host weights after which a new trt.Refitter is made: the binding keeps a reference per weight and call for its
life (keep_alive in pyCore.cpp), 700 of them per refit for RRDBNet."""

HOST_REFIT_THREADS = 8
"""For a refit from host weights: beyond a few, copying is bound by memory."""


class Refitter:
    """For one engine and one set of weights that lie still. The caller holds the device.

    source     where the blended weights lie, under every name that shall be supplied.
    constants  the graph's other initializers: a TensorRT that makes every constant refittable wants all of them back.
    Raises EngineError where the engine's weights and ours are not the same ones, by name, count and type.
    """

    def __init__(
        self, engine: Any, weights: RefitWeights, constants: Mapping[str, NDArray[Any]], features: Features, stream: Any
    ) -> None:
        self._engine, self._weights, self._features, self._stream = engine, weights, features, stream
        self._refit_count = 0
        self._refitter = self._make_refitter()
        wanted = list(self._refitter.get_all_weights())
        _check_names(wanted, weights.names, constants)
        # Kept: TensorRT reads them at each refit, from where they lie.
        self._constants = {name: np.array(constants[name]).reshape(-1) for name in wanted if name in constants}
        if features.device_weights:
            for name in weights.names:
                self._set_device_weight(name)
            for name, value in self._constants.items():
                self._set_host_weight(name, value)

    def refit(self) -> None:
        """Queue a refit of every weight with what the stream has in `weights` by then; on 8.6 it is over when this returns.

        Raises EngineError; some weights may have changed then, and only a whole refit makes the engine usable again.
        """
        clear_errors()
        if not self._features.device_weights:
            self._refit_from_host()
        elif not self._refitter.refit_cuda_engine_async(self._stream.handle):
            raise make_engine_error("refit the engine")

    def disable_validation(self) -> None:
        """Leave out TensorRT's own look at the values from now on, which costs time at every refit. After a verified refit only."""
        if self._features.device_weights:
            self._refitter.weights_validation = False

    def close(self) -> None:
        self._refitter = None
        self._engine = None

    def _make_refitter(self) -> Any:
        refitter = trt.Refitter(self._engine, get_logger())
        if not self._features.device_weights:
            refitter.max_threads = min(count_cores(), HOST_REFIT_THREADS)
        return refitter

    def _set_device_weight(self, name: str) -> None:
        dtype, count = self._weights.dtype_of(name), self._weights.count_of(name)
        kind = getattr(trt.DataType, TRT_DTYPES[dtype])
        if self._features.weights_prototype:
            prototype = self._refitter.get_weights_prototype(name)
            if prototype.dtype != kind or prototype.size != count:
                raise EngineError(
                    f"The plan has the weight {escape_name(name)!r} as {prototype.size} numbers of {prototype.dtype}, "
                    f"and the bundle as {count} of {dtype}; build the plan again."
                )
        weights = trt.Weights(kind, self._weights.pointer_of(name), count)
        if not self._refitter.set_named_weights(name, weights, trt.TensorLocation.DEVICE):
            raise make_engine_error(f"take the weight {escape_name(name)!r} ({count} of {dtype}) from device memory")

    def _set_host_weight(self, name: str, value: NDArray[Any]) -> None:
        if not self._refitter.set_named_weights(name, trt.Weights(value)):
            raise make_engine_error(f"take the weight {escape_name(name)!r} ({value.size} of {value.dtype})")

    def _refit_from_host(self) -> None:
        self._refit_count += 1
        if self._refit_count % REFITTER_RENEWAL_PERIOD == 0:
            self._refitter = None
            self._refitter = self._make_refitter()
        for name, value in self._weights.download_to_host(self._stream).items():  # waits for the blend
            self._set_host_weight(name, value)
        for name, value in self._constants.items():
            self._set_host_weight(name, value)
        if not self._refitter.refit_cuda_engine():
            raise make_engine_error("refit the engine")


def _check_names(required: Sequence[str], supplied: Sequence[str], constants: Mapping[str, NDArray[Any]]) -> None:
    """Every weight that changes must be one that the engine takes, and every weight that it takes one that we have."""
    lacking = [name for name in supplied if name not in set(required)]
    unknown = [name for name in required if name not in set(supplied) and name not in constants]
    if lacking or unknown:
        told = []
        if lacking:
            told.append(f"{len(lacking)} of the bundle's {len(supplied)} weights are not in it, first {_format_names(lacking)}")
        if unknown:
            told.append(f"{len(unknown)} of its weights are not the bundle's, first {_format_names(unknown)}")
        raise EngineError(f"The plan's weights are not the bundle's: {'; '.join(told)}. Build the plan again.")


def _format_names(names: Sequence[str]) -> str:
    return ", ".join(repr(escape_name(name)) for name in names[:3])
