"""Custom: a network of the user's own, made by a function that the user names."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from dni_deploy.errors import UsageError, shown
from dni_deploy.signature import Signature
from exporters.architectures.architecture import Architecture, Shapes


def custom(name: str) -> Architecture:
    """The architecture behind "package.module:factory"; factory() returns the network, without arguments.

    Network or factory may carry a Signature as the attribute `signature`; else it is measured, with values taken as 0..1.
    The module is looked up in the current folder too. This runs the user's code, as the user asked; no checkpoint's.
    Raises UsageError if the module or the factory is not there, or the factory fails or gives no nn.Module.
    """
    factory = _factory(name)

    def propose(shapes: Shapes) -> nn.Module:
        try:
            net = factory()
        except Exception as error:
            raise UsageError(f"The factory '{shown(name)}' failed: {type(error).__name__}: {shown(error)}") from error
        if not isinstance(net, nn.Module):
            raise UsageError(f"The factory '{shown(name)}' gave a {type(net).__name__} instead of a torch.nn.Module.")
        carried = getattr(factory, "signature", None)
        if isinstance(carried, Signature) and not isinstance(getattr(net, "signature", None), Signature):
            net.signature = carried  # type: ignore[assignment]  # Module's stub allows tensors and modules only
        return net

    return Architecture(name, "a network of your own", propose, abstract=False)


def _factory(name: str) -> Callable[[], Any]:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"'{shown(name)}' does not have the form package.module:factory.")
    here = os.getcwd()
    added = here not in sys.path and "" not in sys.path
    if added:  # an installed command does not look into the current folder by itself
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise UsageError(f"The module '{shown(module_name)}' has no '{shown(attribute)}'.") from error
    except Exception as error:
        raise UsageError(
            f"The module '{shown(module_name)}' cannot be imported: {type(error).__name__}: {shown(error)}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    if not callable(found):
        raise UsageError(f"'{shown(name)}' is a {type(found).__name__}, not a function that returns a network.")
    factory: Callable[[], Any] = found
    return factory
