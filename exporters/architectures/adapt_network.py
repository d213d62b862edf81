"""A network of the user's own made one that turns an image into an image of its scale.

It may give several outputs, of which one is the image, or cut off its border by convolutions without padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from torch import Tensor, nn

from dni_deploy.errors import MismatchError, escape_name
from exporters.architectures.change_forward import change_forward
from exporters.architectures.run_at_some_size import run_at_some_size
from exporters.measure_function import find_border


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
    output = run_at_some_size(net)
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
