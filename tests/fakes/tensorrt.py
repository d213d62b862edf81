"""TensorRT: nothing yet."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def fill(module: ModuleType, version: str, gpu: Any) -> None:
    return None
