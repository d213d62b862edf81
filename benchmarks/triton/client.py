"""A client of a model that `dni-deploy triton` wrote, by HTTP or gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TRITON_TYPES = {"uint8": "UINT8", "float32": "FP32"}


class Answer(NamedTuple):
    """What the server gives for a request."""

    output: NDArray[Any]
    alpha: NDArray[np.float32]


class Client:
    """Asks one model; as a context manager it is closed at the end.

    Thread safety: each thread takes a client of its own.
    """

    def __init__(self, protocol: str, address: str, model: str) -> None:
        """Connects.

        Args:
            protocol: "http" or "grpc".
            address: Of the server, for this protocol.
            model: Name of the model.
        """
        self._triton = import_module(f"tritonclient.{protocol}")
        self._model = model
        self.connection = self._triton.InferenceServerClient(address)

    def ask(self, image: NDArray[Any], alpha: float | Sequence[float], **others: NDArray[Any]) -> Answer:
        """Asks for an image, uint8 (H, W, 3), at an alpha; other inputs are given by name."""
        return self.ask_for({"image": image, "alpha": np.atleast_1d(np.asarray(alpha, np.float32)), **others})

    def ask_for(self, inputs: Mapping[str, NDArray[Any]]) -> Answer:
        """Sends a request with these inputs."""
        tensors = []
        for name, array in inputs.items():
            tensor = self._triton.InferInput(name, list(array.shape), TRITON_TYPES[str(array.dtype)])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        result = self.connection.infer(self._model, tensors)
        return Answer(result.as_numpy("output"), result.as_numpy("alpha"))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.connection.close()
