"""How the in-place backend uses ONNX Runtime: it optimizes a graph once, and runs the result over memory that may change."""

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
from engines import ort_session

VALUE_DEPENDENT_OPTIMIZERS = ("ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "ConstantSharing")
"""Optimizers that look at weights' values or are not linear in them. The lowering has done the work of the first three."""

BLOCKED_DOMAIN = "com.microsoft.nchwc"
"""Domain of the operators that ONNX Runtime inserts where it blocks channels."""


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings with which ONNX Runtime optimizes a graph; a part of a layout's identity.

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


OPTIMIZER_SETTINGS = OptimizerSettings()
"""The settings of every plan."""


@lru_cache(maxsize=1)
def measure_block_size() -> int:
    """Measures how many channels lie side by side in this machine's blocked layout.

    Asked of ONNX Runtime: a 1x1 convolution whose weights are their own output channels is optimized and read back.

    Returns:
        16 with AVX-512, 8 with AVX2, 0 where there is no blocked layout.
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
    """Tells whether an activation of so many channels can stay in the blocked layout on this machine."""
    return measure_block_size() > 0 and channels > 0 and channels % measure_block_size() == 0


def optimize_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Lets ONNX Runtime rewrite a graph for this CPU: weights reordered, no value-dependent fusion.

    Args:
        model: The graph with its weights; it is not changed.

    Returns:
        The optimized graph.

    Raises:
        EngineError: ONNX Runtime cannot open the graph.
    """
    with tempfile.TemporaryDirectory(prefix="dni-deploy-") as folder:
        path = Path(folder) / "optimized.onnx"
        session_options = ort_session.make_session_options(OPTIMIZER_SETTINGS.threads)
        session_options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, OPTIMIZER_SETTINGS.level)
        session_options.optimized_model_filepath = os.fspath(path)
        for key, entry in OPTIMIZER_SETTINGS.config:
            session_options.add_session_config_entry(key, entry)
        disabled = list(OPTIMIZER_SETTINGS.disabled_optimizers)
        ort_session.create_session(model, session_options, disabled_optimizers=disabled)
        return onnx.load(path)


def open_optimized_session(optimized: onnx.ModelProto) -> ort.InferenceSession:
    """Opens an optimized graph with constant weights, run by the same kernels as an `InPlaceSession`: same bits.

    Args:
        optimized: A graph from `optimize_graph`, with its weights.

    Returns:
        The session.

    Raises:
        EngineError: ONNX Runtime cannot open the graph.
    """
    return ort_session.create_session(optimized, _make_unoptimized_options())


class InPlaceSession:
    """A session whose weights lie in the caller's memory, and which sees every change of it at the next run.

    Optimization and pre-packing are off: the first would copy or fold the weights, the second repack them, and then a
    change would silently have no effect. The graph has been optimized before.

    Thread safety: `run` may be called from any thread; `close` not while one runs.
    """

    def __init__(self, optimized: onnx.ModelProto, arrays: Mapping[str, NDArray[np.float32]], threads: int = 0) -> None:
        """Opens the session.

        Args:
            optimized: A graph from `optimize_graph`; it is not changed.
            arrays: Memory of each weight by name. Referenced for the session's life: ONNX Runtime does not keep them alive, and
                dropping one is a crash.
            threads: Number of intra-op threads; 0 for one per physical core.

        Raises:
            EngineError: ONNX Runtime cannot open the graph.
        """
        session_options = _make_unoptimized_options(threads, stop_spinning=True)
        self._ort_values = [(array, ort.OrtValue.ortvalue_from_numpy(array)) for array in arrays.values()]
        for name, (_, value) in zip(arrays, self._ort_values, strict=True):
            session_options.add_initializer(name, value)
        model = onnx.ModelProto()
        model.CopyFrom(optimized)
        for tensor in model.graph.initializer:
            if tensor.name in arrays:  # the file format wants data, even for what is replaced
                tensor.raw_data = bytes(arrays[tensor.name].nbytes)
        self._session: ort.InferenceSession | None = ort_session.create_session(model, session_options)
        self._input: str = self._session.get_inputs()[0].name

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs one inference.

        Args:
            x: The frame, float32 (N, C, H, W).

        Returns:
            A fresh array, float32 (N, C', H', W').

        Raises:
            EngineError: The session is closed, or cannot run this input.
        """
        if self._session is None:
            raise EngineError("The engine is closed.")
        return ort_session.run_session(self._session, x, self._input)

    def close(self) -> None:
        """Drops the session and the references to the weights; calling it again does nothing."""
        self._session = None
        self._ort_values.clear()


def _make_unoptimized_options(threads: int = 0, *, stop_spinning: bool = False) -> ort.SessionOptions:
    session_options = ort_session.make_session_options(threads, stop_spinning=stop_spinning)
    session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session_options.add_session_config_entry("session.disable_prepacking", "1")
    return session_options
