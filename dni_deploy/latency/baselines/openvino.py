"""Baseline in OpenVINO on the CPU: the first member with constant weights, in float32 or bfloat16."""

from __future__ import annotations

import io

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from dni_deploy.bundle.bundle import Bundle
from dni_deploy.errors import EngineError
from engines.frame_conversion import HostFrameEngine
from engines.interface import EngineOptions

ERROR_LOCATION_PREFIXES = ("Exception from ", "Check '")
"""Begin the lines of OpenVINO's messages that name its source files and conditions."""


class OpenVinoBaseline(HostFrameEngine):
    """An Engine (see engines/interface.py) whose weights and input shape are constant; another shape compiles it again.

    Thread safety: refit and infer come from one thread.
    """

    name = "openvino"
    update_path = "constant weights: the first member, whatever alpha is"
    precision = "f32"
    """OpenVINO's name of the type that it computes in. Its own choice is bfloat16 where the processor has it."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        super().__init__()
        self.slots = options.slots or 1
        self._graph: bytes | None = bundle.read_graph_with_weights(bundle.members[0]).SerializeToString()
        self._properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": self.precision}
        if options.threads:
            self._properties["INFERENCE_NUM_THREADS"] = str(options.threads)
        self._shape: tuple[int, ...] | None = None
        self._request: ov.InferRequest | None = None

    def refit(self, slot: int, coefficients: NDArray[np.float64]) -> None:
        """Does nothing."""

    def synchronize(self, slot: int) -> None:
        """Does nothing: a refit has ended when it returns."""

    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs one frame, and compiles the network first for a new shape; see `Engine.infer`."""
        try:
            if x.shape != self._shape:
                self._request, self._shape = self._compile(x.shape), x.shape
            assert self._request is not None
            result: NDArray[np.float32] = self._request.infer({0: x}, share_inputs=True)[0]
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO could not run an input of shape {x.shape}: {summarize_openvino_error(error)}"
            ) from error
        return result

    def close(self) -> None:
        """Drops the network."""
        self._graph = self._request = self._shape = None

    def _compile(self, shape: tuple[int, ...]) -> ov.InferRequest:
        if self._graph is None:
            raise EngineError("The engine is closed.")
        core = ov.Core()
        model = core.read_model(io.BytesIO(self._graph))
        model.reshape(list(shape))
        return core.compile_model(model, "CPU", self._properties).create_infer_request()


class OpenVinoBf16Baseline(OpenVinoBaseline):
    """The same network in bfloat16, which has 8 bits of precision: another result, at another speed."""

    name = "openvino-bf16"
    precision = "bf16"


def summarize_openvino_error(error: Exception) -> str:
    """Returns OpenVINO's message on one line, without the lines that name its source files."""
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line and not line.startswith(ERROR_LOCATION_PREFIXES))[:200]
