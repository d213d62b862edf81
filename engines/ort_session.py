"""The calls to ONNX Runtime that every backend makes: open a session, run it, and put weights into a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from dni_deploy.blending.calibration_table import CalibrationTable, blend_tensors
from dni_deploy.errors import EngineError
from dni_deploy.utils import onnxruntime_library
from dni_deploy.utils.onnxruntime_library import ort


def make_session_options(threads: int = 0, *, stop_spinning: bool = False) -> ort.SessionOptions:
    """Makes session options that print nothing.

    Args:
        threads: Number of intra-op threads; 0 for one per physical core.
        stop_spinning: Let the session's threads sleep when a run has ended. By default they spin on for some 20 ms in case
            another run comes; with two sessions in turns, the idle one then takes a core from the one that runs (a frame of 42
            ms took 67 ms on 2 cores), and from decoders and encoders. Within a run they spin as ever, so a steady frame takes
            as long.

    Returns:
        The options, for the caller to change.
    """
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.inter_op_num_threads = 1
    session_options.log_severity_level = 4  # every error is raised as well
    if stop_spinning:
        session_options.add_session_config_entry("session.force_spinning_stop", "1")
    return session_options


def create_session(model: onnx.ModelProto, session_options: ort.SessionOptions, **more: Any) -> ort.InferenceSession:
    """Creates a session on the CPU.

    Args:
        model: The graph with its weights.
        session_options: Options of the session.
        **more: Further arguments of `onnxruntime.InferenceSession`.

    Returns:
        The session.

    Raises:
        EngineError: ONNX Runtime cannot open the network.
    """
    try:
        return onnxruntime_library.create_session(model.SerializeToString(), session_options, **more)
    except Exception as error:
        raise EngineError(f"ONNX Runtime {ort.__version__} could not open the network: {summarize_error(error)}") from error


def open_cpu_session(model: onnx.ModelProto, threads: int = 0, *, stop_spinning: bool = False) -> ort.InferenceSession:
    """Opens a session with constant weights and every optimization: what other tools run.

    Args:
        model: The graph with its weights.
        threads: Number of intra-op threads, as in `make_session_options`.
        stop_spinning: As in `make_session_options`.

    Returns:
        The session.

    Raises:
        EngineError: ONNX Runtime cannot open the network.
    """
    return create_session(model, make_session_options(threads, stop_spinning=stop_spinning))


def open_blended_session(
    graph: onnx.ModelProto,
    members: Sequence[Mapping[str, NDArray[Any]]],
    coefficients: NDArray[np.float64],
    table: CalibrationTable | None = None,
    threads: int = 0,
    *,
    stop_spinning: bool = False,
) -> ort.InferenceSession:
    """Opens a bundle's own graph with weights that were blended in float64: what every other engine has to compute.

    Args:
        graph: The bundle's graph; it is not changed.
        members: Each member's weights by name.
        coefficients: float64 (N,) or (W, N), as `Engine.refit` takes them.
        table: The bundle's calibration, if it has one.
        threads: As in `open_cpu_session`.
        stop_spinning: As in `open_cpu_session`.

    Returns:
        The session.

    Raises:
        EngineError: ONNX Runtime cannot open the network.
    """
    weights = blend_tensors(members, coefficients, table)
    return open_cpu_session(bind_initializers(graph, weights), threads, stop_spinning=stop_spinning)


def run_session(
    session: ort.InferenceSession,
    x: NDArray[np.float32],
    input_name: str | None = None,
    other_inputs: Mapping[str, NDArray[np.float32]] | None = None,
) -> NDArray[np.float32]:
    """Runs one inference and returns the first output.

    Args:
        session: The session.
        x: The frame, float32 (N, C, H, W).
        input_name: The input that takes `x`; None for the first one.
        other_inputs: Values of all further inputs by name.

    Returns:
        A fresh array, float32 (N, C', H', W').

    Raises:
        EngineError: ONNX Runtime cannot run this input.
    """
    return run_outputs(session, None, x, input_name, other_inputs)[0]


def run_outputs(
    session: ort.InferenceSession,
    outputs: Sequence[str] | None,
    x: NDArray[np.float32],
    input_name: str | None = None,
    other_inputs: Mapping[str, NDArray[Any]] | None = None,
) -> list[NDArray[Any]]:
    """Runs one inference and returns several outputs.

    Args:
        session: The session.
        outputs: Names of the outputs; None for all.
        x: As in `run_session`.
        input_name: As in `run_session`.
        other_inputs: As in `run_session`.

    Returns:
        Fresh arrays, in the order of `outputs`.

    Raises:
        EngineError: ONNX Runtime cannot run this input.
    """
    try:
        return onnxruntime_library.run_session(
            session, outputs, {input_name or session.get_inputs()[0].name: x, **(other_inputs or {})}
        )
    except Exception as error:  # its exceptions share no base class but RuntimeError and Exception
        raise EngineError(f"ONNX Runtime could not run an input of shape {x.shape}: {summarize_error(error)}") from error


def bind_initializers(model: onnx.ModelProto, values: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """Puts values into initializers.

    Args:
        model: The graph; it is not changed.
        values: Values by the name of the initializer; stored as float32. Names that the graph does not have are ignored.

    Returns:
        A copy of the graph.
    """
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    for tensor in bound.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name], np.float32), tensor.name))
    return bound


def summarize_error(error: Exception) -> str:
    """Returns the first line of a library's message, without its source paths."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.rsplit(" : ", 1)[-1][:200]
