"""Spandrel: 42 more architectures, from the package of that name where it is installed (it needs torchvision).

Most files keep their names. Some it renames while it reads them; `canonicalize_tensors` then renames in the same way, which is found
by giving each tensor its number as its value and seeing where that turns up. Entries it never reads are dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import spandrel
import torch
from torch import nn

from dni_deploy.errors import MismatchError, escape_name
from dni_deploy.signature import Signature
from exporters.architectures.architecture import Architecture, Shapes


def recognize_architecture(tensors: Mapping[str, np.ndarray]) -> Architecture | None:
    """The architecture that spandrel sees in a state dict, or None; MismatchError if frames cannot be run through it."""
    try:
        descriptor = _load_model({key: torch.tensor(array) for key, array in tensors.items()})
    except spandrel.UnsupportedModelError:
        return None
    except Exception as error:  # a look-alike: recognised by a few names, then found to be something else
        raise MismatchError(f"spandrel took the checkpoint for one it knows, and failed: {escape_name(error)}") from error
    title = f"{descriptor.architecture.name}, through spandrel"
    if not isinstance(descriptor, spandrel.ImageModelDescriptor) or descriptor.size_requirements.square:
        raise MismatchError(f"A network that needs a mask or square pictures cannot be run on frames: {title}.")
    net = descriptor.model.float().eval()
    net.signature = Signature(
        descriptor.input_channels, descriptor.output_channels, descriptor.scale, descriptor.size_requirements.multiple_of
    )
    names = _map_names(tensors, net)

    def infer_hyperparameters(shapes: Shapes) -> nn.Module:
        own: nn.Module = copy.deepcopy(net)
        return own

    def canonicalize_tensors(entries: Mapping[str, Any]) -> dict[str, Any]:
        if not set(names.values()) <= set(entries):
            return dict(entries)
        return {new: entries[old] for new, old in names.items()}

    return Architecture(
        f"spandrel.{descriptor.architecture.id}", title, infer_hyperparameters, canonicalize_tensors, supports_meta_device=False
    )


def _load_model(state: dict[str, torch.Tensor]) -> Any:
    return spandrel.ModelLoader(device="cpu").load_from_state_dict(state)


def _map_names(tensors: Mapping[str, np.ndarray], net: nn.Module) -> dict[str, str]:
    """For each name in the network, the name in the file that its tensor came from."""
    wanted = [key for key in net.state_dict() if not key.endswith("num_batches_tracked")]
    if all(key in tensors for key in wanted):
        return {key: key for key in wanted}
    old = list(tensors)
    numbered = {key: torch.full(tensors[key].shape, float(number)) for number, key in enumerate(old)}
    try:
        values = _load_model(numbered).model.state_dict()
    except Exception:
        return {key: key for key in wanted}
    found = {}
    for key in wanted:
        value = values[key].float().flatten()
        if value.numel() and bool((value == value[0]).all()) and float(value[0]) in range(len(old)):
            found[key] = old[int(value[0])]
    return found if len(found) == len(wanted) else {key: key for key in wanted}
