"""Plan: a built TensorRT engine on disk, with the header that says what it was built from and for."""

from __future__ import annotations

from pathlib import Path

from dni_deploy.bundle import Bundle


def find_plan(bundle: Bundle, kind: str, precision: str | None = None) -> Path | None:
    """The bundle's newest plan of this kind for this GPU and this TensorRT, or None."""
    raise NotImplementedError
