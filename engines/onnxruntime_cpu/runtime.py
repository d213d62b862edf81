"""How the in-place backend uses ONNX Runtime: it optimizes a graph once, and runs the result over memory that may change."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dni_deploy.errors import EngineError
from dni_deploy.utils.onnx_weights import set_external_data, strip_initializer
from dni_deploy.utils.onnxruntime_library import ort
from dni_deploy.utils.temporary_folder import make_temporary_folder
from engines import ort_session

VALUE_DEPENDENT_OPTIMIZERS = ("ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "ConstantSharing")
"""Optimizers that look at weights' values or are not linear in them. The lowering has done the work of the first three."""

WEIGHT_FILE_NAME = "weights"
"""File beside a graph that its weights point at (ONNX external data)."""

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
    with make_temporary_folder() as folder:
        return onnx.load(_write_optimized(model, folder, ort_session.make_session_options(OPTIMIZER_SETTINGS.threads)))


@contextmanager
def optimize_with_weights(
    model: onnx.ModelProto, weights: Mapping[str, NDArray[np.float32]]
) -> Iterator[tuple[onnx.ModelProto, dict[str, NDArray[np.float32]]]]:
    """Optimizes as `optimize_graph` does, and passes weights in and out as arrays: in the graph, each would be copied twice.

    Args:
        model: The graph; it is not changed, and the initializers named in `weights` need no data.
        weights: Value of each weight by name.

    Yields:
        The optimized graph, its float32 initializers without data, and the value of each of these by name: read-only views of a
        file that is deleted at the end.

    Raises:
        EngineError: ONNX Runtime cannot open the graph.
    """
    session_options = ort_session.make_session_options(OPTIMIZER_SETTINGS.threads)
    if not any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        # With subgraphs the weights come back in the graph: ONNX Runtime 1.23 writes a subgraph's initializers twice beside a
        # weight file, and then refuses to read them.
        session_options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHT_FILE_NAME)
    session_options.add_external_initializers(
        list(weights), [ort.OrtValue.ortvalue_from_numpy(weight) for weight in weights.values()]
    )
    with make_temporary_folder() as folder:
        path = _write_optimized(_point_at_weight_file(model, weights), folder, session_options)
        optimized = onnx.load(path, load_external_data=False)
        weight_path = path.with_name(WEIGHT_FILE_NAME)
        has_data = weight_path.exists() and weight_path.stat().st_size > 0  # an empty file cannot be mapped
        data = np.memmap(weight_path, np.uint8, "r").view(np.ndarray) if has_data else np.zeros(0, np.uint8)
        values = {}
        for tensor in optimized.graph.initializer:
            is_external = tensor.data_location == TensorProto.EXTERNAL
            if tensor.data_type == TensorProto.FLOAT:
                flat = _slice_external_data(tensor, data).view("<f4") if is_external else numpy_helper.to_array(tensor)
                values[tensor.name] = flat.reshape(tuple(tensor.dims))
                strip_initializer(tensor)
            elif is_external:
                content = _slice_external_data(tensor, data).tobytes()
                strip_initializer(tensor)
                tensor.raw_data = content
        yield optimized, values
        values.clear()
        del data  # Windows deletes no file that is mapped


def _slice_external_data(tensor: TensorProto, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    start = int(entries.get("offset", 0))
    return data[start : start + int(entries["length"])]


def _write_optimized(model: onnx.ModelProto, folder: Path, session_options: ort.SessionOptions) -> Path:
    path = folder / "optimized.onnx"
    session_options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, OPTIMIZER_SETTINGS.level)
    session_options.optimized_model_filepath = os.fspath(path)
    for key, entry in OPTIMIZER_SETTINGS.config:
        session_options.add_session_config_entry(key, entry)
    try:
        ort_session.create_session(model, session_options, disabled_optimizers=list(OPTIMIZER_SETTINGS.disabled_optimizers))
    except EngineError as error:
        # The file comes last: its error is the number of the system's alone, or without one once the file is there.
        number = str(error).rpartition(": ")[2]
        if not path.exists() and not number.isdecimal():
            raise
        code = int(number) if number.isdecimal() else errno.EIO
        raise OSError(code, os.strerror(code), os.fspath(path)) from error
    return path


class InPlaceSession:
    """A session whose weights lie in the caller's memory, and which sees every change of it at the next run.

    Optimization and pre-packing are off: the first would copy or fold the weights, the second repack them, and then a
    change would silently have no effect. The weights are not copied, not even while the session opens.

    Thread safety: `run` may be called from any thread; `close` not while one runs.
    """

    def __init__(self, model: onnx.ModelProto, arrays: Mapping[str, NDArray[np.float32]], threads: int = 0) -> None:
        """Opens the session.

        Args:
            model: The graph, optimized before where it is to be fast; it is not changed, and its weights need no data.
            arrays: Memory of each weight by name, C-contiguous. Referenced for the session's life: ONNX Runtime does not keep
                them alive, and dropping one is a crash.
            threads: Number of intra-op threads; 0 for one per physical core.

        Raises:
            EngineError: ONNX Runtime cannot open the graph.
        """
        session_options = make_unoptimized_options(threads)
        self._ort_values = [(array, ort.OrtValue.ortvalue_from_numpy(array)) for array in arrays.values()]
        for name, (_, value) in zip(arrays, self._ort_values, strict=True):
            session_options.add_initializer(name, value)
        with make_temporary_folder() as folder:
            # The file format wants data, even for what is replaced. All weights point at the same NaNs: one that ONNX Runtime
            # read from there would show in every output.
            size = max((array.nbytes for array in arrays.values()), default=0)
            (folder / WEIGHT_FILE_NAME).write_bytes(b"\xff" * size)
            session_options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.fspath(folder))
            self._session: ort.InferenceSession | None = ort_session.create_session(
                _point_at_weight_file(model, arrays), session_options
            )
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


def _point_at_weight_file(model: onnx.ModelProto, arrays: Mapping[str, NDArray[np.float32]]) -> onnx.ModelProto:
    """Returns a copy of a graph in which these initializers begin at the first byte of the weight file."""
    pointed = onnx.ModelProto()
    pointed.CopyFrom(model)
    for tensor in pointed.graph.initializer:
        if tensor.name in arrays:
            set_external_data(tensor, WEIGHT_FILE_NAME, 0, arrays[tensor.name].nbytes)
    return pointed


def make_unoptimized_options(threads: int = 0) -> ort.SessionOptions:
    """Makes the options of a session that leaves its graph and weights as they are.

    Args:
        threads: As in `ort_session.make_session_options`.

    Returns:
        The options, for the caller to change.
    """
    session_options = ort_session.make_session_options(threads, stop_spinning=True)
    session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session_options.add_session_config_entry("session.disable_prepacking", "1")
    return session_options
