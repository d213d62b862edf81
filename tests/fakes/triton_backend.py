"""A fake of triton_python_backend_utils: what a model of Triton's python backend imports, with requests that are dicts."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.model_repository.model_config import ModelOptions

Request = dict[str, NDArray[Any]]


class TritonModelException(Exception):  # Triton's name
    """As Triton has it."""


class TritonError:
    """An error of one request."""

    INTERNAL, INVALID_ARG = "internal", "invalid argument"

    def __init__(self, message: str, code: str) -> None:
        self.message, self.code = message, code


class Tensor:
    """A tensor, which takes and gives its memory as Triton's does: by capsules."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self.name, self.array = name, array

    @classmethod
    def from_dlpack(cls, name: str, source: Any) -> Tensor:
        return cls(name, np.from_dlpack(source))

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.array.__dlpack__(**keywords)


class InferenceResponse:
    """The answer to one request."""

    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self.error = error
        self.outputs = {tensor.name: tensor.array for tensor in output_tensors or ()}


class Backend(SimpleNamespace):
    """The module; `logged` has what was logged."""

    TritonModelException = TritonModelException
    TritonError = TritonError
    Tensor = Tensor
    InferenceResponse = InferenceResponse

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[str] = []
        self.Logger = SimpleNamespace(log_info=self.logged.append, log_error=self.logged.append)

    def get_input_tensor_by_name(self, request: Request, name: str) -> Tensor | None:
        return Tensor(name, request[name]) if name in request else None


def make_arguments(folder: str, options: ModelOptions | None = None, kind: str = "CPU") -> dict[str, str]:
    """Makes what Triton gives `initialize` for version 1 of the model in a folder."""
    parameters = (options or ModelOptions()).to_parameters()
    config = {"parameters": {key: {"string_value": value} for key, value in parameters.items()}}
    return {
        "model_config": json.dumps(config),
        "model_instance_kind": kind,
        "model_instance_device_id": "0",
        "model_repository": folder,
        "model_version": "1",
        "model_name": "sr",
    }
