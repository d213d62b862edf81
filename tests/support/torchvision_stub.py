"""Imports spandrel where no torchvision fits the installed torch, with the stub in stub_packages/, for tests only.

The stub is removed from sys.modules as soon as spandrel is imported: no other package shall find it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

STUB_FOLDER = Path(__file__).parent / "stub_packages"
"""On sys.path or PYTHONPATH, it stands in for torchvision in another process."""


def import_spandrel() -> ModuleType:
    """Raises ModuleNotFoundError where spandrel itself is not installed."""
    if "spandrel" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("spandrel")
    sys.path.insert(0, str(STUB_FOLDER))
    try:
        return importlib.import_module("spandrel")
    finally:
        sys.path.remove(str(STUB_FOLDER))
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
