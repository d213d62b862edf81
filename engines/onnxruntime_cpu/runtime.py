"""The few calls to ONNX Runtime: a session, a session's optimized graph, and a live session over memory of ours."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dni_deploy.errors import EngineError

CPU_PROVIDERS = ["CPUExecutionProvider"]
VALUE_DEPENDENT_OPTIMIZERS = ("ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "ConstantSharing")
"""Optimizers that look at the weights' values or are not linear in them. The lowering has done what the first three would do."""


@dataclass(frozen=True)
class BuildSettings:
    """What ONNX Runtime is told when it optimizes a graph; a part of a plan's identity.

    Attributes:
        level: Name of the graph optimization level.
        disabled_optimizers: Names of the optimizers that are left out.
        config: Entries of the session's configuration, as pairs of key and value.
        threads: Number of intra-op threads.
    """

    level: str = "ORT_ENABLE_ALL"
    disabled_optimizers: tuple[str, ...] = VALUE_DEPENDENT_OPTIMIZERS
    # Nothing runs in this session, so nothing needs to be packed for it.
    config: tuple[tuple[str, str], ...] = (("session.disable_prepacking", "1"),)
    threads: int = 1

    def to_json(self) -> dict[str, Any]:
        """Describes the settings under fixed keys, for the identity of a plan."""
        return {
            "level": self.level,
            "disabled_optimizers": list(self.disabled_optimizers),
            "config": dict(self.config),
            "threads": self.threads,
        }


BUILD_SETTINGS = BuildSettings()
"""Those of every plan."""


BLOCKED_DOMAIN = "com.microsoft.nchwc"
"""Of the operators that ONNX Runtime puts in where it blocks channels."""


@lru_cache(maxsize=1)
def measure_block_size() -> int:
    """How many channels lie side by side in the blocked layout of this machine: 16 with AVX-512, 8 with AVX2, 0 where there is none.

    Asked of ONNX Runtime: a 1x1 convolution whose weights are their own output channels is optimized and read back.
    """
    channels = 64
    weights = np.broadcast_to(np.arange(channels, dtype=np.float32).reshape(-1, 1, 1, 1), (channels, channels, 1, 1))
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, channels, 8, 8))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, channels, 8, 8))
    weight = numpy_helper.from_array(np.ascontiguousarray(weights), "w")
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "block", [value], [result], [weight])
    optimized = optimize_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    if not any(node.domain == BLOCKED_DOMAIN for node in optimized.graph.node):
        return 0
    flat = next(numpy_helper.to_array(t) for t in optimized.graph.initializer if t.data_type == TensorProto.FLOAT).reshape(-1)
    return int(np.flatnonzero(np.diff(flat) != 1)[0]) + 1


def can_block_channels(channels: int) -> bool:
    """Whether an activation of so many channels can stay in the blocked layout on this machine."""
    return measure_block_size() > 0 and channels > 0 and channels % measure_block_size() == 0


def make_session_options(threads: int = 0, *, stop_spinning: bool = False) -> ort.SessionOptions:
    """Session options with this many intra-op threads (0: one per physical core), silent.

    rest: the session's threads go to sleep when a run has ended. By default they spin on for some 20 ms in case another run
    comes; with two sessions in turns, the one that rests then takes a core from the one that runs (a frame of 42 ms took
    67 ms on 2 cores), and from whoever decodes and encodes. Within a run they spin as ever, so a steady frame takes as long.
    """
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.inter_op_num_threads = 1
    session_options.log_severity_level = 4  # every error is raised as well
    if stop_spinning:
        session_options.add_session_config_entry("session.force_spinning_stop", "1")
    return session_options


def open_cpu_session(model: onnx.ModelProto, threads: int = 0, *, stop_spinning: bool = False) -> ort.InferenceSession:
    """A session with constant weights and every optimization: what other tools run. rest: as in `make_session_options`."""
    return _create_session(model, make_session_options(threads, stop_spinning=stop_spinning))


def optimize_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as ONNX Runtime rewrites it for this CPU, weights reordered, no value-dependent fusion."""
    with tempfile.TemporaryDirectory(prefix="dni-deploy-") as folder:
        path = Path(folder) / "optimized.onnx"
        session_options = make_session_options(BUILD_SETTINGS.threads)
        session_options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, BUILD_SETTINGS.level)
        session_options.optimized_model_filepath = os.fspath(path)
        for key, entry in BUILD_SETTINGS.config:
            session_options.add_session_config_entry(key, entry)
        _create_session(model, session_options, disabled_optimizers=list(BUILD_SETTINGS.disabled_optimizers))
        return onnx.load(path)


def open_optimized_session(optimized: onnx.ModelProto) -> ort.InferenceSession:
    """An already optimized graph with constant weights, run by the same kernels as a live session: same bits."""
    session_options = make_session_options()
    session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session_options.add_session_config_entry("session.disable_prepacking", "1")
    return _create_session(optimized, session_options)


class InPlaceSession:
    """A session whose weights lie in memory of ours, and which sees every change of it at the next run.

    Optimization and pre-packing are off: the first would copy or fold the weights, the second repack them, and then a
    change would silently have no effect. The graph has been optimized before. `arrays` are referenced for
    the session's life: ONNX Runtime does not keep them alive, and dropping one is a crash.
    """

    def __init__(self, optimized: onnx.ModelProto, arrays: Mapping[str, NDArray[np.float32]], threads: int = 0) -> None:
        session_options = make_session_options(threads, stop_spinning=True)
        session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session_options.add_session_config_entry("session.disable_prepacking", "1")
        self._ort_values = [(array, ort.OrtValue.ortvalue_from_numpy(array)) for array in arrays.values()]
        for name, (_, value) in zip(arrays, self._ort_values, strict=True):
            session_options.add_initializer(name, value)
        model = onnx.ModelProto()
        model.CopyFrom(optimized)
        for tensor in model.graph.initializer:
            if tensor.name in arrays:  # the file format wants data, even for what is replaced
                tensor.raw_data = bytes(arrays[tensor.name].nbytes)
        self._session: ort.InferenceSession | None = _create_session(model, session_options)
        self._input: str = self._session.get_inputs()[0].name

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 (N, C, H, W) -> float32 (N, C', H', W'), a fresh array."""
        if self._session is None:
            raise EngineError("The engine is closed.")
        return run_session(self._session, x, self._input)

    def close(self) -> None:
        self._session = None
        self._ort_values.clear()


def run_session(
    session: ort.InferenceSession,
    x: NDArray[np.float32],
    input_name: str | None = None,
    other_inputs: Mapping[str, NDArray[np.float32]] | None = None,
) -> NDArray[np.float32]:
    """One inference on x and the other inputs; ONNX Runtime's own errors become EngineError in one sentence."""
    result: NDArray[np.float32] = _run_checked(session, None, x, input_name, other_inputs)[0]
    return result


def run_outputs(session: ort.InferenceSession, x: NDArray[np.float32], outputs: list[str]) -> list[NDArray[np.float32]]:
    """One inference on x, several outputs by name; errors as in `run`."""
    return _run_checked(session, outputs, x, None, None)


def _run_checked(
    session: ort.InferenceSession,
    outputs: list[str] | None,
    x: NDArray[np.float32],
    input_name: str | None,
    other_inputs: Mapping[str, NDArray[np.float32]] | None,
) -> list[NDArray[np.float32]]:
    try:
        results: list[NDArray[np.float32]] = session.run(
            outputs, {input_name or session.get_inputs()[0].name: x, **(other_inputs or {})}
        )
    except Exception as error:  # its exceptions share no base class but RuntimeError and Exception
        raise EngineError(f"ONNX Runtime could not run an input of shape {x.shape}: {summarize_error(error)}") from error
    return results


def bind_initializers(model: onnx.ModelProto, values: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """A copy of the model with these float32 values in the initializers of the same names."""
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    for tensor in bound.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name], np.float32), tensor.name))
    return bound


def _create_session(model: onnx.ModelProto, session_options: ort.SessionOptions, **more: Any) -> ort.InferenceSession:
    try:
        return ort.InferenceSession(model.SerializeToString(), session_options, providers=CPU_PROVIDERS, **more)
    except Exception as error:
        raise EngineError(f"ONNX Runtime {ort.__version__} could not open the network: {summarize_error(error)}") from error


def summarize_error(error: Exception) -> str:
    """The first line of a library's message, without its source paths."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.rsplit(" : ", 1)[-1][:200]
