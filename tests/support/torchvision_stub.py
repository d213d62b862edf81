"""A stub that imports spandrel where no torchvision fits the installed torch, for tests only.

spandrel uses three names of torchvision (LaMa's rotation and interpolation mode, RestoreFormer's normalization), none of them
in the networks tested here. The stub is removed from sys.modules as soon as spandrel is imported: torch.onnx looks for
torchvision too, and fails on a module without a spec.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

PARTS = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


class Mode:
    """Enum members named as in torchvision: enough for default arguments."""

    NEAREST, BILINEAR, BICUBIC = "nearest", "bilinear", "bicubic"


def absent(*arguments: object, **options: object) -> None:
    raise NotImplementedError("this needs torchvision")


def import_spandrel() -> ModuleType:
    """Raises ModuleNotFoundError where spandrel itself is not installed."""
    if importlib.util.find_spec("torchvision") is None and "spandrel" not in sys.modules:
        parts = {name: ModuleType(name) for name in PARTS}
        functional = parts[PARTS[2]]
        functional.InterpolationMode, functional.normalize, functional.rotate = Mode, absent, absent
        parts[PARTS[0]].transforms, parts[PARTS[1]].functional = parts[PARTS[1]], functional
        for name in PARTS[:2]:
            parts[name].__path__ = []
        sys.modules.update(parts)
        try:
            return importlib.import_module("spandrel")
        finally:
            for name in PARTS:
                del sys.modules[name]
    return importlib.import_module("spandrel")
