"""The TensorRT libraries: the Python module of one, what it can do, and the logger that it reports to.

There are two with nearly the same API: TensorRT, and TensorRT for RTX, NVIDIA's smaller one for GeForce and RTX cards, which
compiles its kernels on the user's machine. Everything below engines/trt gets the one that it works with as an argument.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from dni_deploy.errors import EngineError, UnavailableError
from engines.cuda import driver
from engines.trt.features import Features
from engines.trt.messages import get_logger, summarize_message

NUMPY_MAJOR_VERSION = int(np.__version__.partition(".")[0])

MODULE_NAMES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Name of the Python module of each library, by the name of the library, which is also that of the engine."""

LIBRARY_TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}
"""What messages call each library."""


@dataclass(frozen=True)
class Library:
    """One TensorRT library.

    Attributes:
        name: A key of MODULE_NAMES.
        trt: The library's Python module.
        features: What it can do.
        logger: What every object of the library reports to (see engines/trt/messages.py).
    """

    name: str
    trt: Any
    features: Features
    logger: Any

    @classmethod
    def from_module(cls, name: str, trt: Any) -> Library:
        """Asks a module what it can do; needs no GPU.

        Args:
            name: A key of MODULE_NAMES.
            trt: The module.
        """
        return cls(name, trt, Features.from_module(trt), get_logger(trt))

    @property
    def title(self) -> str:
        """Name and version, such as "TensorRT 10.16.1"."""
        return f"{LIBRARY_TITLES[self.name]} {self.features.version}"

    def clear_errors(self) -> None:
        """Forgets earlier errors, before something that may fail."""
        self.logger.errors.clear()

    def make_error(self, action: str, hint: str = "") -> EngineError:
        """Makes the error for something that the library refused, with its own message, and forgets that message.

        Of several errors since `clear_errors` it takes the first: the later ones say that the callers failed too.

        Args:
            action: What was refused, an infinitive such as "load the plan".
            hint: What to do, a sentence.
        """
        errors = self.logger.errors
        detail = f": {summarize_message(errors[0])}" if errors else ""
        errors.clear()
        return EngineError(f"{self.title} could not {action}{detail}.{f' {hint}' if hint else ''}")

    def deserialize_engine(self, runtime: Any, serialized: bytes) -> Any:
        """Makes the engine that was serialized.

        Args:
            runtime: A Runtime of this library.
            serialized: What `Plan.engine` holds.

        Raises:
            EngineError: The library cannot load it.
        """
        self.clear_errors()
        engine = runtime.deserialize_cuda_engine(serialized)
        if engine is None:
            raise self.make_error("load the plan", "Build it again.")
        return engine


def load_library(name: str = "tensorrt") -> Library:
    """Imports a library and asks what it can do.

    Args:
        name: A key of MODULE_NAMES.

    Raises:
        UnavailableError: There is no GPU, without which classes of TensorRT 8.6 crash; or it is 8.6 beside NumPy 2.
    """
    reason = driver.why_gpu_unavailable()
    if reason:
        raise UnavailableError(f"{LIBRARY_TITLES[name]} cannot run here: {reason}.")
    library = Library.from_module(name, importlib.import_module(MODULE_NAMES[name]))
    if not library.features.device_weights and NUMPY_MAJOR_VERSION >= 2:
        raise UnavailableError(
            f"{library.title} reads the arrays of NumPy 2 wrong, without an error, so that weights would be lost; "
            'pip install "numpy<2" or a newer TensorRT.'
        )
    return library
