"""One kind of network, recognized by the names and shapes of a state dict alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from dni_deploy.errors import MismatchError, escape_name
from dni_deploy.network_controls import Control
from dni_deploy.signature import Signature
from exporters.architectures.add_controls import add_controls, read_controls
from exporters.architectures.measure_signature import measure_signature, raise_minimum

Shape = tuple[int, ...]

Shapes = Mapping[str, Shape]


@dataclass(frozen=True)
class Architecture:
    """A network whose hyperparameters all follow from the names and shapes of its state dict.

    Attributes:
        name: As `--arch` takes it.
        title: For people.
        infer_hyperparameters: Names and shapes -> a network that may have them; raises MismatchError where even that is
            impossible. The network has its Signature as the attribute `signature`; else one is measured.
        canonicalize_tensors: Drops entries that the network never reads; names stay the file's own.
        adapt_network: Makes a network that was built one that turns an image into an image; None where it is one.
        supports_meta_device: Whether the network can be made on the meta device, where weights cost neither memory nor time.
    """

    name: str
    title: str
    infer_hyperparameters: Callable[[Shapes], nn.Module]
    canonicalize_tensors: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    adapt_network: Callable[[nn.Module], None] | None = None
    supports_meta_device: bool = True

    def describe_mismatch(self, shapes: Shapes) -> str | None:
        """Describes in a few words why names and shapes are not of this architecture; None if they are."""
        try:
            self._make_matching_network(shapes)
        except MismatchError as error:
            return str(error)
        return None

    def matches(self, shapes: Shapes) -> bool:
        """Returns whether names and shapes are of this architecture."""
        return self.describe_mismatch(shapes) is None

    def recognize(self, shapes: Shapes) -> tuple[str, tuple[str, ...], str] | None:
        """Recognizes the network.

        Returns:
            This architecture's name, the names of the tensors that the network reads in its own order, and a title such as
            "rrdbnet x4"; None where names or shapes do not match.
        """
        try:
            net = self._make_matching_network(shapes)
        except MismatchError:
            return None
        names = self.canonicalize_tensors({key: key for key in shapes})
        signature = getattr(net, "signature", None)
        title = f"{self.name} x{signature.scale}" if isinstance(signature, Signature) else self.name
        return self.name, tuple(names[key] for key in net.state_dict() if not is_batch_counter(key)), title

    def build(self, tensors: Mapping[str, np.ndarray], controls: Sequence[Control] = ()) -> nn.Module:
        """Builds the network in eval mode, without gradients, with copies of these tensors, floats as float32.

        Args:
            tensors: Of a member.
            controls: What the network takes beside the image; empty for those of its attribute `signature`.

        Raises:
            MismatchError: A name or shape differs; the first one is named. `num_batches_tracked` is ignored. Or the network
                takes no such controls.
        """
        try:
            net = self._make_matching_network(shapes_of(tensors))
        except MismatchError as error:
            raise MismatchError(
                f"These tensors are not a network of architecture '{self.name}' ({self.title}): {error}."
            ) from None
        state = {
            key: torch.tensor(array, dtype=torch.float32 if array.dtype.kind == "f" else None)
            for key, array in self.canonicalize_tensors(tensors).items()
        }
        state.update({key: torch.tensor(0) for key in net.state_dict() if is_batch_counter(key)})
        net.load_state_dict({key: state[key] for key in net.state_dict()}, assign=self.supports_meta_device)
        net.eval().requires_grad_(False)
        signature = getattr(net, "signature", None)
        add_controls(net, controls or (signature.controls if isinstance(signature, Signature) else ()))
        if self.adapt_network is not None:
            self.adapt_network(net)
        _SOURCE_TENSORS[net] = tensors
        return net

    def resolve_signature(self, net: nn.Module) -> Signature:
        """Returns the network's attribute `signature`, or else one measured by running it on small inputs.

        Its minimum is raised to the smallest side at which the network runs.

        Raises:
            MismatchError: As `measure_signature`.
        """
        signature = getattr(net, "signature", None)
        signature = signature if isinstance(signature, Signature) else measure_signature(net)
        return raise_minimum(net, replace(signature, controls=read_controls(net)))

    def _make_matching_network(self, shapes: Shapes) -> nn.Module:
        canonical_shapes = self.canonicalize_tensors(shapes)
        try:
            with torch.device("meta") if self.supports_meta_device else nullcontext():
                net = self.infer_hyperparameters(canonical_shapes)
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, MismatchError) or not self.supports_meta_device:
                raise
            raise MismatchError(f"no network has such shapes ({escape_name(error)})") from error  # sizes from a damaged file
        _check_shapes(net, canonical_shapes)
        return net


_SOURCE_TENSORS: WeakKeyDictionary[nn.Module, Mapping[str, np.ndarray]] = WeakKeyDictionary()


def find_source_tensors(net: nn.Module) -> Mapping[str, np.ndarray] | None:
    """Finds the tensors from which `Architecture.build` made a network; None for any other network."""
    return _SOURCE_TENSORS.get(net)


def shapes_of(tensors: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    """Returns the shapes of tensors by name."""
    return {key: tuple(array.shape) for key, array in tensors.items()}


def require_shape(shapes: Shapes, key: str, axes: int) -> Shape:
    """Returns the shape of a tensor.

    Raises:
        MismatchError: It is missing, has another number of axes, or an empty one.
    """
    if key not in shapes:
        raise MismatchError(f"'{escape_name(key)}' is missing")
    shape = shapes[key]
    if len(shape) != axes or 0 in shape:
        raise MismatchError(f"'{escape_name(key)}' has shape {shape} where {axes} axes, none empty, were expected")
    return shape


def count_indexed(shapes: Shapes, pattern: str, first: int = 0) -> int:
    """Counts how many of pattern.format(first), pattern.format(first + 1), ... exist without a gap."""
    count = 0
    while pattern.format(first + count) in shapes:
        count += 1
    return count


def find_layer_positions(keys: Iterable[str], prefix: str) -> list[int]:
    """Returns the positions N of a Sequential's layers under `prefix.N.*`, ascending."""
    positions = (key[len(prefix) + 1 :].split(".", 1)[0] for key in keys if key.startswith(prefix + "."))
    return sorted({int(position) for position in positions if position.isascii() and position.isdigit() and len(position) < 6})


def is_batch_counter(key: str) -> bool:
    """Returns whether a tensor counts BatchNorm's training steps, which inference does not read."""
    return key.rsplit(".", 1)[-1] == "num_batches_tracked"


def _check_shapes(net: nn.Module, shapes: Shapes) -> None:
    expected = {key: tuple(value.shape) for key, value in net.state_dict().items() if not is_batch_counter(key)}
    for key, shape in expected.items():
        if key not in shapes:
            raise MismatchError(f"'{escape_name(key)}' is missing")
        if shapes[key] != shape:
            raise MismatchError(f"'{escape_name(key)}' has shape {shapes[key]} instead of {shape}")
    for key in shapes:
        if key not in expected and not is_batch_counter(key):
            raise MismatchError(f"'{escape_name(key)}' has no place in it")


def add_nested_module(root: nn.Module, name: str, layer: nn.Module) -> None:
    """Adds `layer` to `root` under a dotted name, with empty modules for the parents that do not exist yet."""
    *parents, last = name.split(".")
    for parent in parents:
        if parent not in dict(root.named_children()):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(last, layer)
