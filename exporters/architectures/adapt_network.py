"""A network of the user's own made one that turns an image into an image of its scale.

It may give several outputs, of which one is the image, or cut off its border by convolutions without padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from dni_deploy.errors import MismatchError, escape_name
from dni_deploy.signature import Signature
from exporters.architectures.change_forward import change_forward
from exporters.measure_function import find_border

TRIED_SIDES_PX = (64, 128, 256)
"""Heights to run the network at; widths are twice as much."""


def adapt_network(net: nn.Module) -> None:
    """Changes the network's forward where its output is not one image of a whole multiple of the size.

    What was changed is in its attribute `export_notes`, a list of sentences. A network that fails at every size stays as it is.

    Args:
        net: In eval mode.

    Raises:
        MismatchError: Of several outputs, none or more than one is an image.
    """
    notes: list[str] = []
    cast(Any, net).export_notes = notes
    output = _run_at_some_size(net)
    if output is None:
        return
    size, value = output
    if isinstance(value, (list, tuple, Mapping)):
        key = _choose_image(net, value, size)
        change_forward(net, lambda original, x: original(x)[key])
        value = value[key]
        notes.append(f"The network gives {len(output[1])} outputs; the image is the one at {escape_name(repr(key))}.")
    if isinstance(value, Tensor) and value.ndim == 4:
        border = find_border(size, (value.shape[2], value.shape[3]))
        if border:
            change_forward(net, lambda original, x: original(nn.functional.pad(x, (border,) * 4, mode="replicate")))
            notes.append(
                f"The network's convolutions cut off {border} pixels on each side; the graph extends the image by them first, "
                "repeating its border."
            )


def channels_to_try(net: nn.Module) -> list[int]:
    """Lists numbers of input channels, likely ones first.

    A network whose first convolution takes one channel may be one that works on the luma of RGB images: 3 is tried first.
    """
    first = [module.in_channels for module in net.modules() if isinstance(module, nn.Conv2d)][:1]
    return list(dict.fromkeys([3, 1, 4] if first == [1] else [*first, 3, 1, 4]))


def _run_at_some_size(net: nn.Module) -> tuple[tuple[int, int], Any] | None:
    signature = getattr(net, "signature", None)
    if isinstance(signature, Signature) and signature.kind == "latent":
        return None
    channels = [signature.input_channels] if isinstance(signature, Signature) else channels_to_try(net)
    for count in channels:
        for side in TRIED_SIDES_PX:
            try:
                with torch.no_grad():
                    output = net(torch.rand(1, count, side, 2 * side, generator=torch.Generator().manual_seed(0)))
            except Exception:  # whatever an unknown network raises on a size it cannot take
                continue
            return (side, 2 * side), output
    return None


def _choose_image(net: nn.Module, outputs: Any, size: tuple[int, int]) -> Any:
    images = [key for key, value in _iterate_outputs(outputs) if _is_image(value, size)]
    if len(images) != 1:
        raise MismatchError(
            f"The network {escape_name(type(net).__name__)} gives {len(outputs)} outputs, {len(images)} of them images of a "
            "whole multiple of the input's size; let the factory return a network that gives one."
        )
    return images[0]


def _iterate_outputs(outputs: Any) -> Iterator[tuple[Any, Any]]:
    return iter(outputs.items()) if isinstance(outputs, Mapping) else iter(enumerate(outputs))


def _is_image(value: Any, size: tuple[int, int]) -> bool:
    if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[1] not in (1, 3):
        return False
    scale = value.shape[2] // size[0]
    return scale > 0 and (value.shape[2], value.shape[3]) == (scale * size[0], scale * size[1])
