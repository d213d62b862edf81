"""Bays: the door to `exporters`, `engines` and what stands on them, with one sentence for what is missing there."""

from __future__ import annotations

import importlib
from types import ModuleType

from dni_deploy.errors import UnavailableError, escape_name

OWN_PACKAGES = ("exporters", "engines")
DISTRIBUTION = "dni-deploy"

EXTRA_BY_PACKAGE = {
    "torch": "export",
    "onnxscript": "export",
    "onnxruntime": "cpu",
    "tensorrt": "tensorrt",
    "polygraphy": "tensorrt",
    "pycuda": "gpu",
    "matplotlib": "report",
    "spandrel": "spandrel",
    "torchvision": "spandrel",
    "av": "video",
    "starlette": "serve",
    "uvicorn": "serve",
    "websockets": "serve",
    "vapoursynth": "vapoursynth",
    "pythonosc": "live",
    "mido": "midi",
    "rtmidi": "midi",
    "scipy": "tune",
    "skimage": "tune",
}
"""The extra that brings a package, by the name it is imported under."""


def import_optional(module: str) -> ModuleType:
    """Import a module of ours that may stand on a bay or on an extra.

    Raises UnavailableError: a package is missing (names the extra that brings it), or another package shadows a bay.
    """
    try:
        for bay in OWN_PACKAGES:
            require_own_package(bay)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise explain_missing_package(error) or error from error


def require_own_package(name: str) -> ModuleType:
    """Import `exporters` or `engines` and see that it is ours: both names are common, and the first on sys.path wins."""
    package = importlib.import_module(name)
    if getattr(package, "DISTRIBUTION", None) != DISTRIBUTION:
        where = getattr(package, "__file__", None) or next(iter(getattr(package, "__path__", [])), "an unknown place")
        raise UnavailableError(
            f"Another package named '{name}' hides the one of dni-deploy: {escape_name(where)}. "
            "Rename or uninstall it, or start from another folder."
        )
    return package


def explain_missing_package(error: ModuleNotFoundError) -> UnavailableError | None:
    """The sentence for a package that is not installed; None where the missing module is not one of the extras' packages."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_BY_PACKAGE:
        return None
    return UnavailableError(
        f"This needs the package '{package}', which is not installed: pip install 'dni-deploy[{EXTRA_BY_PACKAGE[package]}]'"
    )
