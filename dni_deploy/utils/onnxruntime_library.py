"""ONNX Runtime, imported here and nowhere else: without its telemetry, and with calls that a signal can end.

The library reads `ORT_DISABLE_TELEMETRY` once, while it is imported, so it has to be set before. Where it is not set, a session
writes a device id and a database into the home folder and asks the network for a server of Microsoft's. A user who wants that
sets the variable to 0.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from dni_deploy.utils.native_calls import NATIVE_CALLS

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

__all__ = ["create_session", "ort", "run_session"]


def create_session(model: bytes, session_options: ort.SessionOptions, **more: Any) -> ort.InferenceSession:
    """Creates a session on the CPU.

    Args:
        model: The graph, serialized.
        session_options: Options of the session.
        **more: Further arguments of `onnxruntime.InferenceSession`.

    Returns:
        The session.

    Raises:
        Exception: What ONNX Runtime raises, also where a signal ends the call; its exceptions share no other base class.
    """
    cancel = getattr(session_options, "set_load_cancellation_flag", None)  # since ONNX Runtime 1.21
    return NATIVE_CALLS.run(
        lambda: ort.InferenceSession(model, session_options, providers=["CPUExecutionProvider"], **more),
        lambda: None if cancel is None else cancel(True),
    )


def run_session(
    session: ort.InferenceSession, outputs: Sequence[str] | None, inputs: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    """Runs a session, as its method `run` does.

    Args:
        session: The session.
        outputs: Names of the outputs; None for all.
        inputs: Arrays by the name of the input.

    Returns:
        Fresh arrays, in the order of `outputs`.

    Raises:
        Exception: As `create_session`.
    """
    run_options = ort.RunOptions()
    results: list[NDArray[Any]] = NATIVE_CALLS.run(
        lambda: session.run(outputs, inputs, run_options), lambda: setattr(run_options, "terminate", True)
    )
    return results
