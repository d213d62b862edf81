"""A graph that was read from files, made what a bundle holds: dynamic, measured and verified. Needs ONNX Runtime, not torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dni_deploy.errors import InputError, MismatchError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import relative_error
from dni_deploy.utils.onnx_weights import fill_initializers
from dni_deploy.utils.onnxruntime_library import create_session, ort, run_session
from exporters.measure_function import ImageFunction, find_border, measure_function

MAX_RELATIVE_ERROR = 1e-5
"""Largest difference over the largest output, between a member's file and the family's graph with its weights. The operators are
the same in the same order: 0 was measured, and 1e-6 where an old opset was converted."""
MAX_DIFFERENCE_ON_GRAY = 0.1
"""A network whose output on an image of 0.5 is smaller than this on average computes a difference. Measured: at most 0.01 for
Real-CUGAN x4, whose program adds the enlarged image, and 0.50 to 0.51 for 39 other public ncnn networks."""
BORDER_PROBE_PX = (96, 128)
"""Height and width of the run that measures what valid convolutions cut off: multiples of 32, larger than any border known."""


@dataclass(frozen=True)
class FinishedGraph:
    """A graph ready for a bundle.

    Attributes:
        graph: `x` (n, C, h, w) -> `y`, dynamic in n, h and w.
        signature: As measured, values of 0..1 assumed.
        border: Pixels by which the image is extended on each side, since the network's convolutions cut them off.
        notes: One sentence for each thing that was changed.
    """

    graph: onnx.ModelProto
    signature: Signature
    border: int = 0
    notes: tuple[str, ...] = ()


def finish_graph(graph: onnx.ModelProto, source: str) -> FinishedGraph:
    """Measures a graph and makes it dynamic.

    Args:
        graph: float32 `x` -> `y`, with weights; not changed.
        source: The file, for messages.

    Returns:
        The graph with what was measured.

    Raises:
        InputError: The file takes images of one size alone, or ONNX Runtime cannot load it.
        MismatchError: The output is no image of a whole multiple of the input's size.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    channels = _open_axes(model, source)
    border, notes = 0, list[str]()
    try:
        signature = measure_function(make_function(model, source), channels)
    except MismatchError:
        border = _measure_border(make_function(model, source), channels)
        if not border:
            raise
        _add_border(model, border)
        signature = measure_function(make_function(model, source), channels)
        notes.append(
            f"The network's convolutions cut off {border} pixels on each side; the graph extends the image by them first, "
            "repeating its border."
        )
    for value, count in ((model.graph.input[0], signature.input_channels), (model.graph.output[0], signature.output_channels)):
        value.type.tensor_type.shape.dim[1].dim_value = count
    notes += _note_difference(make_function(model, source), signature)
    _check_batch(make_function(model, source), signature, source)
    model = onnx.shape_inference.infer_shapes(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker's own errors, and those of shape inference
        reason = escape_name(str(error).strip().partition("\n")[0].rstrip("."))
        raise InputError(f"{source} has shapes that contradict each other: {reason}.") from None
    return FinishedGraph(model, signature, border, tuple(notes))


def verify_members(
    finished: FinishedGraph, members: Iterable[tuple[str, onnx.ModelProto, Mapping[str, NDArray[Any]]]], *, seed: int = 0
) -> float:
    """Compares each member's own file with the family's graph and that member's weights, at two sizes.

    Args:
        finished: The family's graph.
        members: Name, model of the file, and weights of each.
        seed: Of the inputs.

    Returns:
        The largest relative error.

    Raises:
        MismatchError: The error is above MAX_RELATIVE_ERROR.
        InputError: ONNX Runtime cannot load or run a file.
    """
    signature, block, border = finished.signature, finished.signature.multiple, finished.border
    rng, worst = np.random.default_rng(seed), 0.0
    short, long = block * (1 + 24 // block), block * (2 + 32 // block)
    images = [rng.random((1, signature.input_channels, *size), np.float32) for size in ((short, long), (long, short))]
    for name, model, tensors in members:
        bound = onnx.ModelProto()
        bound.CopyFrom(finished.graph)
        fill_initializers(bound, tensors, lambda key, tensors=tensors: tensors[key])  # type: ignore[misc]
        run, run_file = (
            make_function(bound, f"The graph with the weights of {name}"),
            make_function(model, f"The file of {name}"),
        )
        for image in images:
            expected = run_file(np.pad(image, ((0, 0), (0, 0), (border, border), (border, border)), mode="edge"))
            worst = max(worst, relative_error(run(image), expected))
        if worst > MAX_RELATIVE_ERROR:
            raise MismatchError(
                f"The family's graph with the weights of member {name!r} differs from its file by {worst:.1e} of the range, "
                f"where {MAX_RELATIVE_ERROR:.0e} is allowed."
            )
    return worst


def make_function(model: onnx.ModelProto, source: str) -> ImageFunction:
    """Loads a graph in ONNX Runtime on the CPU.

    Raises:
        InputError: It cannot be loaded. The function raises InputError where it cannot be run.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    constants = {tensor.name for tensor in model.graph.initializer}
    [image] = [value.name for value in model.graph.input if value.name not in constants]
    try:
        session = create_session(model.SerializeToString(), options)
    except Exception as error:  # the runtime's own exceptions share no base
        raise InputError(f"{source} cannot be loaded in ONNX Runtime: {_format_reason(error)}") from None

    def run(x: NDArray[np.float32]) -> NDArray[Any]:
        try:
            output: NDArray[Any] = run_session(session, None, {image: x})[0]
        except Exception as error:
            raise InputError(f"{source} cannot be run on the shape {tuple(x.shape)}: {_format_reason(error)}") from None
        return output

    return run


def _format_reason(error: Exception) -> str:
    return escape_name(str(error).strip().partition("\n")[0].rstrip(".")) + "."


def _open_axes(model: onnx.ModelProto, source: str) -> list[int]:
    """Makes the batch dynamic, refuses a fixed height or width, and returns the channel counts to try."""
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    sizes = [dimension.dim_value for dimension in dimensions]
    if sizes[2] or sizes[3]:
        raise InputError(
            f"{source} takes images of {sizes[2] or 'any'} x {sizes[3] or 'any'} pixels alone; "
            "export it with dynamic height and width."
        )
    dimensions[0].dim_param = "n"
    for dimension, name in zip(model.graph.output[0].type.tensor_type.shape.dim, ("y_n", "y_c", "y_h", "y_w"), strict=True):
        dimension.dim_param = name
    del model.graph.value_info[:]
    return [sizes[1]] if sizes[1] else [3, 1, 4]


def _measure_border(run: ImageFunction, channels: list[int]) -> int:
    """The pixels that are cut off on each side, where output = scale * (input - 2 * border); 0 for another relation."""
    height, width = BORDER_PROBE_PX
    for count in channels:
        try:
            y = run(np.random.default_rng(0).random((1, count, height, width), np.float32))
        except InputError:
            continue
        border = find_border(BORDER_PROBE_PX, (y.shape[2], y.shape[3]))
        if border:
            return border
    return 0


def _add_border(model: onnx.ModelProto, border: int) -> None:
    graph = model.graph
    names = {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}
    padded, pads = "x:extended", "x:border"
    while padded in names or pads in names:
        padded, pads = padded + "_", pads + "_"
    image = graph.input[0].name
    for node in graph.node:
        node.input[:] = [padded if name == image else name for name in node.input]
    graph.node.insert(0, helper.make_node("Pad", [image, pads], [padded], "Pad_border", mode="edge"))
    graph.initializer.append(numpy_helper.from_array(np.array([0, 0, border, border] * 2, np.int64), pads))


def _note_difference(run: ImageFunction, signature: Signature) -> list[str]:
    """A note where the network seems to give a difference instead of an image: nothing in a file says so."""
    side = signature.multiple * (1 + 24 // signature.multiple)
    output = run(np.full((1, signature.input_channels, side, side), 0.5, np.float32))
    if float(np.abs(output).mean()) >= MAX_DIFFERENCE_ON_GRAY:
        return []
    advice = "give --residual if it outputs the noise"
    if signature.scale != 1 or signature.input_channels != signature.output_channels:
        advice = "if the program that it was made for adds something to it, the bundle's images lack that"
    return [f"On a gray image the network's output is near 0, as if it were a difference and no image; {advice}."]


def _check_batch(run: ImageFunction, signature: Signature, source: str) -> None:
    """Two images at once have to give what each gives alone: a file of batch 1 was made dynamic."""
    side = signature.multiple * (1 + 24 // signature.multiple)
    images = np.random.default_rng(1).random((2, signature.input_channels, side, side), np.float32)
    try:
        error = relative_error(run(images), np.concatenate([run(images[:1]), run(images[1:])]))
    except InputError:
        error = np.inf
    if error > MAX_RELATIVE_ERROR:
        raise InputError(f"{source} takes one image at a time; export it with a dynamic batch.")
