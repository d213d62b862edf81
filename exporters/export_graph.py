"""A PyTorch network as an ONNX graph whose initializers are its state-dict entries, under their names.

An exporter that sees weights as constants folds, merges, drops and renames them. Here they are inputs of the graph while it is
exported and optimized, so no pass can depend on their values; afterwards each such input becomes an initializer.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from dni_deploy.errors import DniError, InputError, LimitError, MismatchError, UsageError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils.onnx_weights import fill_initializer
from dni_deploy.utils.opset import MIN_OPSET
from exporters.canonical_names import canonicalize_names, find_used_values
from exporters.capture_program import capture_program, format_reason, make_example_input
from exporters.onnx_translations import TRANSLATIONS
from exporters.opset17 import to_opset17
from exporters.training_form import use_training_form

INPUT_NAME, OUTPUT_NAME = "x", "y"
EXPORTER_OPSET = 18
"""The lowest opset in which the exporter writes (torch 2.13); 17 is made from it."""
MAX_WEIGHTS_BYTES = (1 << 31) - (16 << 20)
"""Protobuf's limit for one message, less 16 MiB for the rest of the graph."""
INPUT_AXES = ("n", "c", "h", "w")


@dataclass(frozen=True)
class ExportedGraph:
    """A network as one ONNX graph in memory, whose weights are named by their state-dict keys.

    Attributes:
        graph: float32 `x` (n, C, h, w) -> `y`, dynamic in h, w and, unless the network fixes it to 1, n; holds the weights.
        names: The weights that the graph uses, in the order of its initializers, which is that of the state dict.
        unused: Float keys of the state dict on which the output does not depend.
        tied: Keys that share one tensor with another: alias -> the name that the graph has.
    """

    graph: onnx.ModelProto
    names: tuple[str, ...]
    unused: tuple[str, ...] = ()
    tied: dict[str, str] = field(default_factory=dict)


def collect_float_tensors(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Collects the float parameters and persistent float buffers of a network.

    Returns:
        The tensors by their first key, not copied, and alias -> first key for keys that share a tensor.
    """
    first: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for key, tensor in net.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            continue
        name = first.setdefault(id(tensor), key)
        if name == key:
            tensors[key] = tensor.detach()
        else:
            tied[key] = name
    return tensors, tied


def export_graph(net: nn.Module, signature: Signature, *, opset: int = EXPORTER_OPSET) -> ExportedGraph:
    """Exports a network with every float weight as a named initializer and nothing computed from weights ahead of time.

    Args:
        net: float32, on the CPU; it is put into eval mode.
        signature: Of the network.
        opset: Of the graph, MIN_OPSET or more.

    Returns:
        The graph in memory; its bytes depend on the network alone, not on the machine.

    Raises:
        UsageError: The opset is too old, or too new for the installed exporter.
        MismatchError: The signature does not fit the network.
        InputError: The exporter cannot export the network.
        LimitError: There are 2 GiB of weights.
    """
    if opset < MIN_OPSET:
        raise UsageError(f"Opset {opset} is too old; the lowest is {MIN_OPSET}.")
    net.eval()
    tensors, tied = collect_float_tensors(net)
    _check_tensors(net, tensors)
    x, _ = make_example_input(signature)
    x = x if _takes_batches(net, x) else x[:1]
    y = _run_example(net, x, signature)
    wrapped = _WeightsAsInputs(net, tuple(tensors)).eval()
    values = tuple(tensor.clone() for tensor in tensors.values())
    try:
        with _suppress_exporter_output(), _disable_inplace(net, x, y), use_training_form(net):
            model, arguments, dynamic_shapes = _choose_capture(net, wrapped, values, signature, len(x) > 1)
            program = torch.onnx.export(
                model,
                arguments,
                dynamo=True,
                optimize=True,
                dynamic_shapes=dynamic_shapes,
                opset_version=max(opset, EXPORTER_OPSET),
                custom_translation_table=TRANSLATIONS,
                verbose=False,
            )
            assert program is not None  # None is returned only where a file is written
            graph = program.model_proto
    except DniError:
        raise
    except Exception as error:
        raise InputError(f"The network {_class_name(net)} cannot be exported: {format_reason(error)}") from error
    if len(graph.graph.input) != 1 + len(tensors):
        raise InputError(
            f"The network {_class_name(net)} cannot be exported: its graph has {len(graph.graph.input)} inputs "
            f"instead of the image and {len(tensors)} weights."
        )
    if opset < EXPORTER_OPSET:  # while the weights are still inputs, so that this cannot drop one either
        graph = to_opset17(graph)
    if graph.opset_import[0].version != opset:
        raise UsageError(f"Opset {opset} is too new for the installed exporter; it wrote {graph.opset_import[0].version}.")
    graph = canonicalize_names(graph, [INPUT_NAME, *tensors], [OUTPUT_NAME])
    return _finish_graph(graph, net, signature, tensors, tied)


def _choose_capture(
    net: nn.Module, wrapped: nn.Module, values: tuple[Tensor, ...], signature: Signature, takes_batches: bool
) -> tuple[Any, tuple[Any, ...], Any]:
    """What torch.onnx exports: a captured program, or a recurrent network, whose loops it captures in a way of its own."""
    if not any(isinstance(module, nn.RNNBase) for module in net.modules()):
        return capture_program(net, wrapped, values, signature, takes_batches=takes_batches), (), None
    x, dynamic_axes = make_example_input(signature)
    no_axes: dict[int, Any] = {}
    return wrapped, (x, values), (dynamic_axes, tuple(no_axes for _ in values))


class _WeightsAsInputs(nn.Module):
    """forward(x, weights): the network with these weights. Two positions: a trailing dict would be read as keywords."""

    def __init__(self, net: nn.Module, keys: tuple[str, ...]) -> None:
        super().__init__()
        self.net, self.keys = net, keys

    def forward(self, x: Tensor, weights: tuple[Tensor, ...]) -> Any:
        return torch.func.functional_call(self.net, dict(zip(self.keys, weights, strict=True)), (x,))


def _finish_graph(
    graph: onnx.ModelProto, net: nn.Module, signature: Signature, tensors: dict[str, Tensor], tied: dict[str, str]
) -> ExportedGraph:
    """Inputs that are weights become initializers; axes get readable names; the result is checked."""
    used = find_used_values(graph)
    if INPUT_NAME not in used:
        raise InputError(f"The network {_class_name(net)} cannot be exported: its output does not depend on its input.")
    image = graph.graph.input[0]
    del graph.graph.input[1:]
    for name, tensor in tensors.items():
        if name in used:
            initializer = graph.graph.initializer.add(name=name, dims=tensor.shape, data_type=onnx.TensorProto.FLOAT)
            fill_initializer(initializer, tensor.contiguous().numpy())
    dynamic_axes = (0,) if signature.kind == "latent" else (0, 2, 3)
    output = graph.graph.output[0]
    for value, prefix in ((image, ""), (output, f"{OUTPUT_NAME}_")):
        dimensions = value.type.tensor_type.shape.dim
        for axis in dynamic_axes:
            if axis == 0 and dimensions[0].dim_value == 1:
                continue  # the network fixes it, as capture_program says
            if not dimensions[axis].HasField("dim_param"):
                raise InputError(
                    f"The network {_class_name(net)} cannot be exported: its {('batch', '', 'height', 'width')[axis]} "
                    f"is fixed to {dimensions[axis].dim_value} in the graph."
                )
            dimensions[axis].dim_param = prefix + INPUT_AXES[axis]
    graph.ir_version = onnx.helper.find_min_ir_version_for(list(graph.opset_import))
    graph = onnx.shape_inference.infer_shapes(graph)
    onnx.checker.check_model(graph, full_check=True)
    names = tuple(name for name in tensors if name in used)
    return ExportedGraph(graph, names, tuple(name for name in tensors if name not in used), tied)


def _check_tensors(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > MAX_WEIGHTS_BYTES:
        raise LimitError(
            f"The network {_class_name(net)} has {size} bytes of weights, more than one ONNX file holds ({MAX_WEIGHTS_BYTES})."
        )
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise InputError(
                f"The network {_class_name(net)} holds {escape_name(name)!r} as {tensor.dtype} on {tensor.device}; "
                f"it has to be built in float32 on the CPU."
            )
        if name in (INPUT_NAME, OUTPUT_NAME):
            raise InputError(
                f"The network {_class_name(net)} has a weight named {name!r}, the name of the graph's image; rename it."
            )


def _takes_batches(net: nn.Module, x: Tensor) -> bool:
    try:
        with torch.no_grad():
            net(x.clone())
            return True
    except Exception:  # whatever a network raises that takes one image alone, such as IPT's patches
        return False


def _run_example(net: nn.Module, x: Tensor, signature: Signature) -> Tensor:
    """Runs the network before it is exported: an error here says more about the signature than one of the exporter."""
    sizes = tuple(x.shape)
    try:
        with torch.no_grad():
            y, again = (net(x.clone()) for _ in range(2))
    except Exception as error:
        raise MismatchError(
            f"The network {_class_name(net)} does not take an input of shape {sizes}, "
            f"which its signature says it does: {format_reason(error)}"
        ) from error
    if not isinstance(y, Tensor):
        raise MismatchError(f"The network {_class_name(net)} gives a {type(y).__name__}; it has to give one tensor.")
    if not torch.allclose(y, again, rtol=1e-3, atol=1e-3 * float(y.detach().abs().max())):
        raise MismatchError(
            f"The network {_class_name(net)} gives another output each time that it runs on the same image: it draws random "
            "numbers. A graph of it could not be compared with anything."
        )
    if y.ndim != 4 or y.shape[:2] != (sizes[0], signature.output_channels):
        raise MismatchError(
            f"The network {_class_name(net)} gives the shape {tuple(y.shape)} for {sizes}; its signature "
            f"says {signature.output_channels} channels."
        )
    expected = (sizes[2] * signature.scale, sizes[3] * signature.scale)
    if signature.kind == "image" and tuple(y.shape[2:]) != expected:
        raise MismatchError(
            f"The network {_class_name(net)} gives {tuple(y.shape[2:])} pixels for {sizes[2:]}; at scale {signature.scale} "
            f"it would be {expected}."
        )
    return y


@contextlib.contextmanager
def _disable_inplace(net: nn.Module, x: Tensor, y: Tensor) -> Iterator[None]:
    """Switches `inplace` off in the network's layers where the output for x stays y.

    The exporter spends twice the time on an in-place activation (it goes through a Python decomposition; RRDBNet-23: 30 s, not
    15 s). A network that reads a tensor again after it was overwritten keeps its in-place layers, and the exporter gets that
    right too.
    """
    layers: list[Any] = [module for module in net.modules() if getattr(module, "inplace", False) is True]
    try:
        for layer in layers:
            layer.inplace = False
        with torch.no_grad():
            same = not layers or torch.equal(y, net(x.clone()))
        for layer in layers:
            layer.inplace = not same
        yield
    finally:
        for layer in layers:
            layer.inplace = True


@contextlib.contextmanager
def _suppress_exporter_output() -> Iterator[None]:
    """Drops what the exporter prints, logs and warns about; exceptions pass."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.__trace", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _class_name(net: nn.Module) -> str:
    return escape_name(type(net).__name__)
