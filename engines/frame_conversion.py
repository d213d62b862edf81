"""Frames to the arrays of a network and back on the CPU: what `dni_deploy.imaging.frames` computes, in a fraction of its time.

The same operations in the same order, so the same pixels, but for bands of rows: a band stays in the processor's cache from one
operation to the next, and threads share the bands. ONNX Runtime's kernels are the compiled loops; it runs a graph of one
channel's arithmetic, and NumPy puts the channels side by side.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dni_deploy.imaging import frames
from dni_deploy.imaging.frames import AnyFrame
from dni_deploy.signature import Signature

if TYPE_CHECKING:
    from dni_deploy.utils.onnxruntime_library import ort

CONVERSION_THREADS = min(os.cpu_count() or 1, 8)
"""Conversion is bound by memory: more threads than this do not help."""

SMALL_FRAME_VALUES = 1 << 17
"""Below this number of values one thread is as fast: handing work to another one takes some 50 us."""

BAND_VALUES = 1 << 20
"""Values of a band, 4 MB: of smaller ones the interpreter is the limit, of larger ones memory."""


class HostFrameEngine(ABC):
    """An engine whose network takes and gives arrays on the host; `Engine.render` is made of `Engine.infer`.

    Frames of several threads overlap: one is converted while the network, which uses all cores by itself, runs another one.
    """

    def __init__(self) -> None:
        self._network_lock = threading.Lock()

    @abstractmethod
    def infer(self, slot: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Runs the raw network, as `Engine.infer`."""

    def render(self, slot: int, frame: AnyFrame, signature: Signature) -> NDArray[Any]:
        """Renders a frame, as `Engine.render`."""
        x = to_network(frame, signature)
        with self._network_lock:
            y = self.infer(slot, x)
        return from_network(y, frame, signature)


def to_network(frame: AnyFrame, signature: Signature) -> NDArray[np.float32]:
    """Converts a frame to the input of a network: `dni_deploy.imaging.frames.to_network`, faster."""
    frames.check_frame(frame)
    frames.check_signature(signature)
    padded = frames.pad_frame(frame, signature)
    x = np.empty((3, *padded.shape[:2]), np.float32)

    def convert_rows(rows: slice) -> None:
        frames.scale_to_range(padded[rows], signature, x[:, rows])

    _run_in_bands(convert_rows, len(padded), x.size)
    return x[:, None] if signature.input_channels == 1 else x[None]


def from_network(y: NDArray[np.float32], frame: AnyFrame, signature: Signature) -> NDArray[Any]:
    """Converts the output of a network to a frame: `dni_deploy.imaging.frames.from_network`, faster."""
    planes = frames.check_output(y, frame, signature)
    height, width = signature.scale * frame.shape[0], signature.scale * frame.shape[1]
    session = _open_arithmetic(signature, frame.dtype)
    out = np.empty((height, width, 3), frame.dtype)
    band_is_finite: list[bool] = []

    def convert_rows(rows: slice) -> None:
        feeds = {f"y{channel}": np.ascontiguousarray(planes[channel, rows, :width]) for channel in range(3)}
        if signature.residual:
            feeds |= {f"frame{channel}": np.ascontiguousarray(frame[rows, :, channel]) for channel in range(3)}
        *levels, total = session.run(None, feeds)
        band_is_finite.append(bool(np.isfinite(total)))
        for channel in range(3):
            out[rows, :, channel] = levels[channel]

    _run_in_bands(convert_rows, height, planes.size)
    if not all(band_is_finite):  # or the sum of finite values overflowed: the reference looks at each value
        return frames.from_network(y, frame, signature)
    return out


@cache
def _open_arithmetic(signature: Signature, dtype: np.dtype[Any]) -> ort.InferenceSession:
    """Opens the graph that maps the three channels of a band to levels of the frame and sums up its values.

    The sum is infinite or not a number where one of the values is.
    """
    # Here, since sessions import this module, and a command should say what is wrong with its options before it loads these.
    from onnx import TensorProto, helper, numpy_helper

    from engines import ort_session

    element = helper.np_dtype_to_tensor_dtype(dtype)
    constants = {
        "low": np.float32(signature.low),
        "factor": frames.output_factor(signature, dtype),
        "one": np.float32(1),
        "zero": np.zeros((), dtype),
    }
    nodes, inputs, outputs = [], [], []
    for channel in range(3):
        name = f"y{channel}"
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "columns"]))
        if not signature.residual and signature.low != 0:
            nodes.append(helper.make_node("Sub", [name, "low"], [f"shifted{channel}"]))
            name = f"shifted{channel}"
        nodes.append(helper.make_node("Mul", [name, "factor"], [f"scaled{channel}"]))
        name = f"scaled{channel}"
        nodes.append(helper.make_node("ReduceSum", [name], [f"sum{channel}"], keepdims=0))
        if signature.residual:
            inputs.append(helper.make_tensor_value_info(f"frame{channel}", element, ["rows", "columns"]))
            nodes.append(helper.make_node("Cast", [f"frame{channel}"], [f"source{channel}"], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Add", [name, f"source{channel}"], [f"clean{channel}"]))
            name = f"clean{channel}"
        # By a scale of 1 it rounds half to even and clamps, and does nothing else.
        quantize = ("Identity", [name]) if dtype == np.float32 else ("QuantizeLinear", [name, "one", "zero"])
        nodes.append(helper.make_node(*quantize, [f"levels{channel}"]))
        outputs.append(helper.make_tensor_value_info(f"levels{channel}", element, ["rows", "columns"]))
    nodes.append(helper.make_node("Sum", ["sum0", "sum1", "sum2"], ["total"]))
    outputs.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, []))
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "frame", inputs, outputs, initializers)
    # QuantizeLinear takes uint16 from opset 21 on.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ort_session.open_cpu_session(model, 1)


def _run_in_bands(convert_rows: Callable[[slice], None], height: int, values: int) -> None:
    """Calls a function for bands of rows, in several threads, the caller's among them, where there is enough to do."""
    if values < SMALL_FRAME_VALUES or height < CONVERSION_THREADS:
        convert_rows(slice(0, height))
        return
    turns = -(-values // (BAND_VALUES * CONVERSION_THREADS))  # a whole number of turns: no thread is left with one more band
    count = min(height, turns * CONVERSION_THREADS)
    edges = [height * band // count for band in range(count + 1)]
    bands = [slice(*edge) for edge in pairwise(edges)]

    def convert_share(number: int) -> None:
        for band in bands[number::CONVERSION_THREADS]:
            convert_rows(band)

    others = [_open_pool().submit(convert_share, number) for number in range(1, CONVERSION_THREADS)]
    try:
        convert_share(0)
    finally:
        wait(others)  # they write into the caller's arrays
    for other in others:
        other.result()


@cache
def _open_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CONVERSION_THREADS, thread_name_prefix="frame conversion")
