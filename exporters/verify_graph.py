"""The check that a graph, refitted by name with other weights, still computes what PyTorch computes with them.

Nothing warns when an exporter loses a weight: a refit by name then runs and gives a wrong image. So every export, and every
graph that comes from the cache, is run once with all weights changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dni_deploy.errors import MismatchError, escape_name
from dni_deploy.signature import Signature
from dni_deploy.utils.compare_arrays import relative_error
from dni_deploy.utils.onnx_weights import fill_initializers
from dni_deploy.utils.onnxruntime_library import create_session, ort, run_session
from exporters.canonical_names import find_used_values
from exporters.capture_program import small_sides
from exporters.export_graph import INPUT_NAME, collect_float_tensors

MAX_RELATIVE_ERROR = 1e-4
"""Largest difference over the largest output. Measured on the architectures here, full-size and small: rounding gives 1e-7 to
2e-6 on networks of convolutions and up to 6e-6 with InstanceNorm, which divides by the spread of each plane; the exporter's own
default on a DnCNN with BatchNorm gives more than 1e-2."""
WEIGHT_PERTURBATION = 0.25
"""Each number moves by up to this fraction of itself: enough to be seen, and signs stay (a variance must not become
negative)."""


def verify_graph(graph: onnx.ModelProto, net: nn.Module, signature: Signature, *, seed: int = 0) -> float:
    """Changes every float tensor at random and compares ONNX Runtime with PyTorch at two sizes.

    Args:
        graph: Its initializers that are named as the network's float tensors get the changed values, whatever they hold.
        net: In eval mode; its own weights are not changed.
        signature: Of the network.
        seed: Of the changes and the inputs.

    Returns:
        The largest relative error.

    Raises:
        MismatchError: The graph does not load, network or graph fail on a size that the signature allows, a weight has no
            effect on the output, or the error is above MAX_RELATIVE_ERROR.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors, _ = collect_float_tensors(net)
    changed = {name: _perturb_tensor(tensor, generator) for name, tensor in tensors.items()}
    _check_all_weights_used(graph, changed)
    session = _make_ort_session(graph, {name: tensor.numpy() for name, tensor in changed.items()})
    worst = 0.0
    batch = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 2
    for x in _make_inputs(signature, generator, batch):
        expected = _run_network(net, changed, x)
        if not np.isfinite(expected).all():
            raise MismatchError(
                f"The network {escape_name(type(net).__name__)} gives NaN or infinite values when its weights change "
                "by a quarter, so its graph cannot be verified."
            )
        worst = max(worst, relative_error(_run_session(session, net, x), expected))
    if worst > MAX_RELATIVE_ERROR:
        raise MismatchError(
            f"The exported graph of {escape_name(type(net).__name__)} does not follow its weights: with other weights "
            f"under the same names, its output differs from PyTorch's by {worst:.1e} of the range, "
            f"where {MAX_RELATIVE_ERROR:.0e} is allowed."
        )
    return worst


def _run_network(net: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> NDArray[np.float32]:
    try:
        with torch.no_grad():
            output: NDArray[np.float32] = torch.func.functional_call(net, dict(weights), (x.clone(),)).numpy()
    except Exception as error:  # whatever a network raises on a size that it does not take
        raise _size_error(f"The network {escape_name(type(net).__name__)}", x, error) from error
    return output


def _run_session(session: ort.InferenceSession, net: nn.Module, x: Tensor) -> NDArray[np.float32]:
    try:
        output: NDArray[np.float32] = run_session(session, None, {INPUT_NAME: x.numpy()})[0]
    except Exception as error:  # the runtime's own exceptions share no base
        raise _size_error(f"The exported graph of {escape_name(type(net).__name__)}", x, error) from error
    return output


def _size_error(subject: str, x: Tensor, error: Exception) -> MismatchError:
    height, width = x.shape[2:]
    lines = str(error).splitlines() or [type(error).__name__]
    return MismatchError(
        f"{subject} fails on an input of {height} x {width} pixels, which its signature allows: {escape_name(lines[0], 300)}"
    )


def _perturb_tensor(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Scales every number by up to WEIGHT_PERTURBATION; zeros, which that would not change, become small and positive."""
    factor = 1 + WEIGHT_PERTURBATION * (2 * torch.rand(tensor.shape, generator=generator) - 1)
    scale = float(tensor.square().mean().sqrt()) if tensor.numel() else 0.0
    small = (scale or 0.1) * WEIGHT_PERTURBATION * torch.rand(tensor.shape, generator=generator)
    return torch.where(tensor == 0, small, tensor * factor)


def _make_inputs(signature: Signature, generator: torch.Generator, batch: int) -> Iterator[Tensor]:
    """Two inputs of different sides, in the network's own range; the second of this batch and larger than the example."""
    channels = signature.input_channels
    short, long = small_sides(signature)
    for count, height, width in ((1, short, long), (batch, 2 * long, 2 * short + signature.multiple)):
        if signature.kind == "latent":
            yield torch.randn(count, channels, 1, 1, generator=generator)
        else:
            image = torch.rand(count, channels, height, width, generator=generator)
            yield image * (signature.high - signature.low) + signature.low


def _check_all_weights_used(graph: onnx.ModelProto, weights: Mapping[str, Tensor]) -> None:
    used = find_used_values(graph)
    unused = [tensor.name for tensor in graph.graph.initializer if tensor.name in weights and tensor.name not in used]
    if unused:
        raise MismatchError(
            f"{len(unused)} weights of the graph have no effect on its output, first {escape_name(unused[0])!r}."
        )


def _make_ort_session(graph: onnx.ModelProto, weights: Mapping[str, NDArray[np.float32]]) -> ort.InferenceSession:
    bound = onnx.ModelProto()
    bound.CopyFrom(graph)
    fill_initializers(bound, [tensor.name for tensor in bound.graph.initializer if tensor.name in weights], weights.__getitem__)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        return create_session(bound.SerializeToString(), options)
    except Exception as error:  # the runtime's own exceptions share no base
        raise MismatchError(f"ONNX Runtime cannot load the exported graph: {escape_name(error)}") from error
