"""Inputs of a network beside the image as controls: tensors of one number, which are exported as weights are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, signature
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor, nn

from dni_deploy.errors import MismatchError, escape_name
from dni_deploy.network_controls import CONTROL_PREFIX, Control, group_by_argument
from exporters.architectures.change_forward import change_forward
from exporters.architectures.run_at_some_size import run_at_some_size

MakeArgument = Callable[[Tensor, int], Tensor]
"""The K numbers of an argument, float32 (K,), and the batch size N -> the argument."""

ARGUMENT_FORMS: Mapping[str, MakeArgument] = {
    "(N, K, 1, 1)": lambda numbers, batch: numbers.reshape(1, -1, 1, 1).expand(batch, -1, 1, 1),
    "(N, K)": lambda numbers, batch: numbers.reshape(1, -1).expand(batch, -1),
    "(N,)": lambda numbers, batch: numbers.reshape(1).expand(batch),
    "(K,)": lambda numbers, batch: numbers,
    "()": lambda numbers, batch: numbers.reshape(()),
    "integers (N,)": lambda numbers, batch: numbers.reshape(1).expand(batch).round().long(),
}
"""Forms in which networks take numbers, in the order in which they are tried: a noise level or a label for each image, a time
step. What does not run is none; forms for one number do not take several."""


def add_controls(net: nn.Module, controls: Sequence[Control]) -> None:
    """Makes a network read its arguments beside the image, or constant planes behind its channels, from tensors of its own.

    Args:
        net: In eval mode; its forward then takes the image alone.
        controls: Each the name of an argument of forward, else a plane, in this order.

    Raises:
        MismatchError: forward needs an argument that no control gives, or takes them in no form that is known.
    """
    arguments = group_by_argument(controls)
    parameters = list(signature(net.forward).parameters.values())[1:]
    missing = [each.name for each in parameters if _is_required(each) and each.name not in arguments]
    class_name = escape_name(type(net).__name__)
    if missing:
        raise MismatchError(
            f"{class_name}.forward() takes {', '.join(map(escape_name, missing))} beside the image: give each as a control, "
            f"such as --control {escape_name(missing[0])}=0..1@0.5."
        )
    if not controls:
        return
    taken = {each.name for each in parameters}
    own = [argument for argument in arguments if argument in taken]
    planes = [argument for argument in arguments if argument not in taken]
    _add_tensors(net, controls)
    positions = {control.name: position for position, control in enumerate(controls)}
    rows = {argument: [positions[name] for name in names] for argument, names in arguments.items()}
    for forms in product(*(_list_forms(len(rows[argument])) for argument in own)):
        form_by_argument = dict(zip(own, forms, strict=True))
        original_class = type(net)
        change_forward(net, _make_call(controls, rows, planes, form_by_argument))
        if run_at_some_size(net) is not None:
            return
        net.__class__ = original_class
    raise MismatchError(
        f"The network {class_name} does not run with the controls {', '.join(control.name for control in controls)}: "
        f"as arguments of forward() the forms {', '.join(ARGUMENT_FORMS)} were tried, and constant planes behind the image's "
        "channels for what is no argument."
    )


def read_controls(net: nn.Module) -> tuple[Control, ...]:
    """Returns the controls that a network was given."""
    return cast("tuple[Control, ...]", getattr(net, "added_controls", ()))


def _add_tensors(net: nn.Module, controls: Sequence[Control]) -> None:
    if hasattr(net, CONTROL_PREFIX.rstrip(".")):
        raise MismatchError(f"The network {escape_name(type(net).__name__)} has a part named 'controls' of its own; rename it.")
    for control in controls:
        *parents, last = control.weight_name.split(".")
        module = net
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, nn.Module())
            module = module.get_submodule(parent)
        module.register_parameter(last, nn.Parameter(torch.tensor([control.stored]), requires_grad=False))
    cast(Any, net).added_controls = tuple(controls)


def _make_call(
    controls: Sequence[Control], rows: Mapping[str, Sequence[int]], planes: Sequence[str], forms: Mapping[str, MakeArgument]
) -> Callable[[Any, Tensor], Any]:
    def call(original: Any, x: Tensor) -> Any:
        tensors = [_find_tensor(original, control.weight_name) for control in controls]
        numbers = [
            tensor - control.offset if control.offset else tensor for control, tensor in zip(controls, tensors, strict=True)
        ]
        values = {argument: torch.cat([numbers[row] for row in positions]) for argument, positions in rows.items()}
        keywords = {argument: form(values[argument], x.shape[0]) for argument, form in forms.items()}
        if planes:
            level = torch.cat([values[argument] for argument in planes]).reshape(1, -1, 1, 1)
            x = torch.cat([x, level.expand(x.shape[0], -1, x.shape[2], x.shape[3])], dim=1)
        return original(x, **keywords)

    return call


def _find_tensor(net: Any, name: str) -> Tensor:
    """The tensor of a control as it is now: while the network is captured, it is an input and no parameter."""
    parent, _, last = name.rpartition(".")
    return cast(Tensor, getattr(net.get_submodule(parent), last))


def _list_forms(count: int) -> Iterator[MakeArgument]:
    return (form for name, form in ARGUMENT_FORMS.items() if count == 1 or "K" in name)


def _is_required(parameter: Parameter) -> bool:
    return parameter.default is Parameter.empty and parameter.kind in (
        Parameter.POSITIONAL_ONLY,
        Parameter.POSITIONAL_OR_KEYWORD,
        Parameter.KEYWORD_ONLY,
    )
