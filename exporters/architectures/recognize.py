"""Which tensors of a state dict are a network, for who reads checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from dni_deploy.errors import DniError
from exporters.architectures.architecture import Architecture, Shapes, is_batch_counter
from exporters.architectures.custom import load_custom_architecture
from exporters.architectures.registry import ARCHITECTURES, import_spandrel

RecognizedNetwork = tuple[str, tuple[str, ...], str]
"""The architecture's name, the names of its tensors in the network's own order, and a title such as "rrdbnet x4"."""

Recognizer = Callable[[Shapes, Callable[[], Mapping[str, NDArray[Any]]]], RecognizedNetwork | None]
"""Shapes by name, and a function that reads the tensors -> the network, None if it is not known."""


def make_recognizers(name: str) -> tuple[Recognizer, ...]:
    """Makes what recognizes networks by the tensors' names and shapes, fast ones first.

    Args:
        name: As `find_architecture` takes it.

    Raises:
        UsageError: The name is unknown, or a network of the user's own cannot be made.
    """
    if name == "auto":
        return tuple(map(_remember_last, (_recognize_known, _recognize_with_spandrel)))
    if name == "spandrel" or name.startswith("spandrel."):
        return (_remember_last(_recognize_with_spandrel),)
    if ":" in name:
        return (_make_custom_recognizer(name),)
    known = {architecture.name: architecture for architecture in ARCHITECTURES}
    return (lambda shapes, read: known[name].recognize(shapes),) if name in known else ()


def _remember_last(recognizer: Recognizer) -> Recognizer:
    """A recognizer that answers at once for the shapes that it knew last: those of the family's next member."""
    last: list[tuple[dict[str, Any], RecognizedNetwork]] = []

    def recognize(shapes: Shapes, read: Callable[[], Mapping[str, NDArray[Any]]]) -> RecognizedNetwork | None:
        if last and last[0][0] == dict(shapes):
            return last[0][1]
        network = recognizer(shapes, read)
        if network is not None:
            last[:] = [(dict(shapes), network)]
        return network

    return recognize


def _recognize_known(shapes: Shapes, read: Callable[[], Mapping[str, NDArray[Any]]]) -> RecognizedNetwork | None:
    found = (architecture.recognize(shapes) for architecture in ARCHITECTURES)
    return next(filter(None, found), None)


def _recognize_with_spandrel(shapes: Shapes, read: Callable[[], Mapping[str, NDArray[Any]]]) -> RecognizedNetwork | None:
    try:
        architecture: Architecture | None = import_spandrel().recognize_architecture(read())
    except DniError:  # spandrel is missing, or this is not a network for frames; find_architecture says so
        return None
    return None if architecture is None else architecture.recognize(shapes)


def _make_custom_recognizer(name: str) -> Recognizer:
    """Recognizes the user's own network beside tensors of other modules; a surplus inside its own modules is a mismatch."""
    network = load_custom_architecture(name).infer_hyperparameters({})
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items() if not is_batch_counter(key)}
    modules = {key.partition(".")[0] for key in expected}

    def recognize(shapes: Shapes, read: Callable[[], Mapping[str, NDArray[Any]]]) -> RecognizedNetwork | None:
        surplus = (key for key in shapes if key not in expected and not is_batch_counter(key))
        if any(shapes.get(key) != shape for key, shape in expected.items()):
            return None
        return None if any(key.partition(".")[0] in modules for key in surplus) else (name, tuple(expected), name)

    return recognize
