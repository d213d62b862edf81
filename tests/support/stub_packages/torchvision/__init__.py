"""What spandrel uses of torchvision, for tests and benchmarks where no torchvision fits the installed torch."""

from __future__ import annotations

from torchvision import transforms

__all__ = ["transforms"]
