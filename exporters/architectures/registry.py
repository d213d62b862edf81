"""The architectures that dni-deploy knows, in the order in which a state dict is tried against them.

Each recognizes its own by names and shapes alone, and compares all of them, so no two accept the same state dict; the
order only says which is tried first. Where a file fits two networks that names and shapes cannot tell apart, the file's
docstring says which one is meant (three 3 x 3 convolutions under `model` are a DnCNN of depth 3, never an SRCNN).
After all of ours comes spandrel, where it is installed. Adding an architecture: one file, one line here, one test.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import ModuleType

import numpy as np

from dni_deploy.errors import MismatchError, UnavailableError, UsageError, escape_name
from dni_deploy.utils.install_line import format_install_line
from dni_deploy.utils.optional_packages import explain_missing_package
from exporters.architectures import compact, cyclegan, dcgan, dncnn, rrdbnet, srcnn, transformer_net
from exporters.architectures.architecture import Architecture, shapes_of
from exporters.architectures.custom import load_custom_architecture

ARCHITECTURES: tuple[Architecture, ...] = (
    srcnn.ARCHITECTURE,
    dncnn.ARCHITECTURE,
    rrdbnet.ARCHITECTURE,
    compact.ARCHITECTURE,
    cyclegan.ARCHITECTURE,
    transformer_net.ARCHITECTURE,
    dcgan.ARCHITECTURE,
)


def find_architecture(name: str, tensors: Mapping[str, np.ndarray]) -> Architecture:
    """Finds the architecture of a state dict.

    Args:
        name: "auto", one of ARCHITECTURES, "spandrel", or "package.module:factory".
        tensors: The state dict.

    Raises:
        UsageError: The name is unknown.
        MismatchError: No architecture matches, or the named one does not; names the first name or shape that differs.
        UnavailableError: `name` is "spandrel" and it cannot be imported.
    """
    shapes = shapes_of(tensors)
    if name == "auto":
        matching = (architecture for architecture in ARCHITECTURES if architecture.matches(shapes))
        return next(matching, None) or _find_with_spandrel(tensors)
    if name == "spandrel" or name.startswith("spandrel."):
        import_spandrel()
        return _find_with_spandrel(tensors)
    if ":" in name:
        architecture = load_custom_architecture(name)
    else:
        by_name = {architecture.name: architecture for architecture in ARCHITECTURES}
        if name not in by_name:
            raise UsageError(
                f"There is no architecture '{escape_name(name)}'. Known are {', '.join(by_name)} and spandrel; "
                "your own network goes in as package.module:factory."
            )
        architecture = by_name[name]
    difference = architecture.describe_mismatch(shapes)
    if difference is not None:
        raise MismatchError(
            f"The checkpoint is not of architecture '{escape_name(name)}' ({architecture.title}): {difference}. "
            "Leave --arch out to have it recognized."
        )
    return architecture


def import_spandrel() -> ModuleType:
    """Imports the module that knows spandrel's architectures.

    Raises:
        UnavailableError: spandrel or a package that it needs is missing or broken; says what failed.
    """
    try:
        from exporters.architectures import spandrel
    except Exception as error:  # a torchvision that does not fit this torch raises RuntimeError, ImportError and others
        missing = explain_missing_package(error) if isinstance(error, ModuleNotFoundError) else None
        raise missing or UnavailableError(
            f"spandrel is installed but cannot be imported ({escape_name(error)}). "
            "Its torchvision must be the one built for the torch that is installed."
        ) from error
    return spandrel


def _find_with_spandrel(tensors: Mapping[str, np.ndarray]) -> Architecture:
    advice = f"the extra 'spandrel' knows 42 more: {format_install_line('spandrel')}"
    if importlib.util.find_spec("spandrel") is not None:
        try:
            architecture: Architecture | None = import_spandrel().recognize_architecture(tensors)
        except UnavailableError as error:
            advice = f"spandrel, which knows 42 more, could not be asked: {error}"
        else:
            if architecture is not None:
                return architecture
            advice = "spandrel does not know it either."
    first = next(iter(tensors), None)
    example = "" if first is None else f" (first '{escape_name(first)}', {tuple(tensors[first].shape)})"
    raise MismatchError(
        f"The {len(tensors)} tensors{example} are none of the networks known here: "
        f"{', '.join(architecture.name for architecture in ARCHITECTURES)}. --arch NAME tells what one of them lacks; "
        f"--arch package.module:factory takes your own network; {advice}"
    )
