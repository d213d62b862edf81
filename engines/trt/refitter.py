"""Refits an engine from a slot's blended weights.

From TensorRT 9.1 on, the engine learns once where in device memory each weight lies; from then on a refit is one call that is
queued behind the blend. Before (8.6), weights pass through page-locked host memory, and the call waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.errors import EngineError, escape_name
from dni_deploy.utils.hardware import count_cores
from engines.cuda.blender import WeightBuffer
from engines.cuda.device import Device
from engines.cuda.layout import DeviceLayout
from engines.cuda.memory import Staging
from engines.trt.library import Library


class RefitWeights:
    """The weights of a slot's weight buffer: names, dtypes, counts, device addresses and, for TensorRT 8.6, values on the host.

    The slot owns the weight buffer. The caller holds the device.

    Attributes:
        names: Names of the weights, in the layout's order.
    """

    def __init__(self, device: Device, layout: DeviceLayout, weight_buffer: WeightBuffer) -> None:
        self._layout, self._weight_buffer = layout, weight_buffer
        self._staging = Staging(device)
        self.names = tuple(layout.names)

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """Returns the weight's dtype, float32 or float16."""
        return np.dtype(self._layout.dtype_of(name))

    def count_of(self, name: str) -> int:
        """Returns how many numbers the weight has."""
        return int(self._layout.count_of(name))

    def pointer_of(self, name: str) -> int:
        """Returns the weight's device address."""
        return int(self._weight_buffer.pointer_of(name))

    def download_to_host(self, stream: Any) -> dict[str, NDArray[Any]]:
        """Waits for what is queued on the stream and copies every weight to the host.

        Returns:
            Per name a flat view of page-locked memory, in the weight's dtype, valid until the next call.
        """
        host_copy = self._staging.get_array((self._layout.nbytes,), np.uint8)
        self._weight_buffer.buffer.download(host_copy, stream)
        stream.synchronize()
        return {name: self._view_weight(host_copy, name) for name in self.names}

    def _view_weight(self, host_copy: NDArray[np.uint8], name: str) -> NDArray[Any]:
        start, dtype = self._layout.offset_of(name), self.dtype_of(name)
        return host_copy[start : start + self.count_of(name) * dtype.itemsize].view(dtype)

    def free(self) -> None:
        """Frees the host memory. Calling it again does nothing."""
        self._staging.free()


TRT_DTYPES = {np.dtype(np.float32): "FLOAT", np.dtype(np.float16): "HALF"}

REFITTER_RENEWAL_PERIOD = 64
"""Refits on host weights after which a new trt.Refitter is made: the binding keeps a reference per weight and call for its
life (keep_alive in pyCore.cpp), 700 of them per refit for RRDBNet."""

HOST_REFIT_THREADS = 8
"""For a refit from host weights: beyond a few, copying is bound by memory."""


class Refitter:
    """Refits one engine from one weight buffer, whose addresses never change. The caller holds the device.

    Thread safety: calls come from one thread at a time.
    """

    def __init__(
        self, engine: Any, weights: RefitWeights, constants: Mapping[str, NDArray[Any]], library: Library, stream: Any
    ) -> None:
        """Registers every weight.

        Args:
            engine: The engine, until `close`.
            weights: Where the blended weights are; the slot owns them.
            constants: The graph's other initializers: a TensorRT that makes every constant refittable asks for all of them.
            library: The engine's library.
            stream: The slot's stream; refits are queued on it.

        Raises:
            EngineError: The engine's weights are not the bundle's, by name, count and dtype.
        """
        self._engine, self._weights, self._library, self._stream = engine, weights, library, stream
        self._refit_count = 0
        self._refitter = self._make_refitter()
        required = list(self._refitter.get_all_weights())
        _check_names(required, weights.names, constants)
        # Kept: TensorRT reads them at each refit, where they are.
        self._constants = {name: np.array(constants[name]).reshape(-1) for name in required if name in constants}
        if library.features.device_weights:
            for name in weights.names:
                self._set_device_weight(name)
            for name, value in self._constants.items():
                self._set_host_weight(name, value)

    def refit(self) -> None:
        """Queues a refit of every weight with what the stream has written by then; on 8.6 it has ended when this returns.

        Raises:
            EngineError: TensorRT failed. Some weights may have changed; only a whole refit makes the engine usable again.
        """
        self._library.clear_errors()
        if not self._library.features.device_weights:
            self._refit_from_host()
        elif not self._refitter.refit_cuda_engine_async(self._stream.handle):
            raise self._library.make_error("refit the engine")

    def disable_validation(self) -> None:
        """Turns off TensorRT's validation of the values, which costs time at every refit; for after a verified refit only."""
        if self._library.features.device_weights:
            self._refitter.weights_validation = False

    def close(self) -> None:
        """Drops the refitter and the engine. Nothing may be queued."""
        self._refitter = None
        self._engine = None

    def _make_refitter(self) -> Any:
        refitter = self._library.trt.Refitter(self._engine, self._library.logger)
        if not self._library.features.device_weights:
            refitter.max_threads = min(count_cores(), HOST_REFIT_THREADS)
        return refitter

    def _set_device_weight(self, name: str) -> None:
        dtype, count = self._weights.dtype_of(name), self._weights.count_of(name)
        kind = getattr(self._library.trt.DataType, TRT_DTYPES[dtype])
        if self._library.features.weights_prototype:
            prototype = self._refitter.get_weights_prototype(name)
            if prototype.dtype != kind or prototype.size != count:
                raise EngineError(
                    f"The plan has the weight {escape_name(name)!r} as {prototype.size} numbers of {prototype.dtype}, "
                    f"and the bundle as {count} of {dtype}; build the plan again."
                )
        weights = self._library.trt.Weights(kind, self._weights.pointer_of(name), count)
        if not self._refitter.set_named_weights(name, weights, self._library.trt.TensorLocation.DEVICE):
            raise self._library.make_error(f"take the weight {escape_name(name)!r} ({count} of {dtype}) from device memory")

    def _set_host_weight(self, name: str, value: NDArray[Any]) -> None:
        if not self._refitter.set_named_weights(name, self._library.trt.Weights(value)):
            raise self._library.make_error(f"take the weight {escape_name(name)!r} ({value.size} of {value.dtype})")

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
            raise self._library.make_error("refit the engine")


def _check_names(required: Sequence[str], supplied: Sequence[str], constants: Mapping[str, NDArray[Any]]) -> None:
    """Checks that every weight that changes is one that the engine takes, and that it takes no weight that nobody supplies."""
    lacking = [name for name in supplied if name not in set(required)]
    unknown = [name for name in required if name not in set(supplied) and name not in constants]
    problems = []
    if lacking:
        problems.append(f"{len(lacking)} of the bundle's {len(supplied)} weights are not in it, first {_format_names(lacking)}")
    if unknown:
        problems.append(f"{len(unknown)} of its weights are not the bundle's, first {_format_names(unknown)}")
    if problems:
        raise EngineError(f"The plan's weights are not the bundle's: {'; '.join(problems)}. Build the plan again.")


def _format_names(names: Sequence[str]) -> str:
    return ", ".join(repr(escape_name(name)) for name in names[:3])
