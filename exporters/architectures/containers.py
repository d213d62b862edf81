"""Containers: put a layer under a dotted name, so that a network has the names of the file it comes from."""

from __future__ import annotations

from torch import nn


def add_nested_module(root: nn.Module, name: str, layer: nn.Module) -> None:
    """Adds `layer` to `root` under a dotted name, with empty modules for the steps between that do not exist yet."""
    *steps, last = name.split(".")
    for step in steps:
        if step not in dict(root.named_children()):
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    root.add_module(last, layer)
