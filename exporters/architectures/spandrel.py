"""42 more architectures, from the package spandrel where it is installed (it needs torchvision).

Most files keep their names. Some it renames while it reads them; `canonicalize_tensors` then renames in the same way, which is
found by giving each tensor its number as its value and seeing which entry has that number. Entries it never reads are dropped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import spandrel
import torch
from spandrel.architectures.DnCNN import DnCNN
from spandrel.architectures.DRUNet import DRUNet
from spandrel.architectures.IPT import IPT
from spandrel.architectures.IPT.__arch import model as ipt_patches
from torch import nn

from dni_deploy.errors import MismatchError, escape_name
from dni_deploy.network_controls import Control
from dni_deploy.signature import Signature
from exporters.architectures.architecture import Architecture, Shapes
from exporters.architectures.change_forward import change_forward

NOISE_CONTROL = Control("noise", 0.0, 75 / 255, 15 / 255)
"""For networks that take a map of the noise level behind the image's channels; the default is what spandrel gives them."""


def recognize_architecture(tensors: Mapping[str, np.ndarray]) -> Architecture | None:
    """Recognizes a state dict by spandrel.

    Returns:
        The architecture, or None where spandrel knows none.

    Raises:
        MismatchError: Frames cannot be run through the network, or spandrel fails to load it.
    """
    try:
        descriptor = _load_model({key: torch.tensor(array) for key, array in tensors.items()})
    except spandrel.UnsupportedModelError:
        return None
    except Exception as error:  # recognized by a few names, then found to be something else
        raise MismatchError(f"spandrel took the checkpoint for one it knows, and failed: {escape_name(error)}") from error
    title = f"{descriptor.architecture.name}, through spandrel"
    sizes = descriptor.size_requirements
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        raise MismatchError(f"{title}, takes a mask beside the image, which frames do not bring; it cannot be exported.")
    if sizes.square:
        raise MismatchError(f"{title}, takes square images alone, which frames are not; it cannot be exported.")
    net = _call_like_descriptor(descriptor.model.float().eval(), descriptor)
    cast(Any, net).signature = Signature(
        descriptor.input_channels,
        descriptor.output_channels,
        descriptor.scale,
        sizes.multiple_of,
        minimum=max(sizes.minimum, 1),
        controls=(NOISE_CONTROL,) if _needs_noise_map(net, descriptor) else (),
    )
    names = _map_names(tensors, net)

    def infer_hyperparameters(shapes: Shapes) -> nn.Module:
        fresh: nn.Module = copy.deepcopy(net)
        return fresh

    def canonicalize_tensors(entries: Mapping[str, Any]) -> dict[str, Any]:
        if not set(names.values()) <= set(entries):
            return dict(entries)
        return {new: entries[old] for new, old in names.items()}

    return Architecture(
        f"spandrel.{descriptor.architecture.id}", title, infer_hyperparameters, canonicalize_tensors, supports_meta_device=False
    )


def _call_like_descriptor(net: nn.Module, descriptor: Any) -> nn.Module:
    """Makes the network compute what the descriptor does: it may scale the output, pick one of several, or add a noise map.

    The class changes and not the nesting, so that weights keep the names that they have in files. A noise map is a control's.
    """
    call = cast(Callable[..., Any], descriptor._call_fn)
    if isinstance(net, IPT):
        call = _call_on_all_patches
    if not _needs_noise_map(net, descriptor):
        change_forward(net, call)
    cast(Any, net).spandrel_version = spandrel.__version__  # the descriptor's function is a part of the network
    return net


def _needs_noise_map(net: nn.Module, descriptor: Any) -> bool:
    return isinstance(net, (DRUNet, DnCNN)) and next(net.parameters()).shape[1] == descriptor.input_channels + 1


def _call_on_all_patches(net: Any, x: torch.Tensor) -> Any:
    """Does what spandrel does for IPT, but for all patches of an image at once: a loop over 64 each would be of fixed length."""
    model = ipt_patches.Model(net, crop_batch_size=1 << 30)
    return model.forward(x * net.rgb_range, net.scale.index(max(net.scale))) / net.rgb_range


def _load_model(state: dict[str, torch.Tensor]) -> Any:
    return spandrel.ModelLoader(device="cpu").load_from_state_dict(state)


def _map_names(tensors: Mapping[str, np.ndarray], net: nn.Module) -> dict[str, str]:
    """For each name in the network, the name in the file that its tensor came from."""
    keys = [key for key in net.state_dict() if not key.endswith("num_batches_tracked")]
    same = {key: key for key in keys}
    if all(key in tensors for key in keys):
        return same
    file_names = list(tensors)
    numbered = {name: torch.full(tensors[name].shape, float(number)) for number, name in enumerate(file_names)}
    try:
        values = _load_model(numbered).model.state_dict()
    except Exception:
        return same
    names = {}
    for key in keys:
        value = values[key].float().flatten()
        if value.numel() and bool((value == value[0]).all()) and float(value[0]) in range(len(file_names)):
            names[key] = file_names[int(value[0])]
    return names if len(names) == len(keys) else same
