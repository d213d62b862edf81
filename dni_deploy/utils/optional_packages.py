"""Imports of modules that may need an optional dependency, with one sentence for a package that is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from dni_deploy.errors import UnavailableError, escape_name
from dni_deploy.utils.install_line import format_install_line

OWN_PACKAGES = ("exporters", "engines")
DISTRIBUTION = "dni-deploy"

EXTRA_BY_PACKAGE = {
    "torch": "export",
    "onnxscript": "export",
    "onnxruntime": "cpu",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt-rtx",
    "polygraphy": "tensorrt",
    "matplotlib": "report",
    "spandrel": "spandrel",
    "torchvision": "spandrel",
    "av": "video",
    "imagecodecs": "deep",
    "tifffile": "deep",
    "starlette": "serve",
    "uvicorn": "serve",
    "websockets": "serve",
    "vapoursynth": "vapoursynth",
    "pythonosc": "live",
    "mido": "midi",
    "rtmidi": "midi",
    "scipy": "tune",
    "skimage": "tune",
    "ipywidgets": "notebook",
    "ray": "ray",
}
"""The extra of dni-deploy that installs a package, by the name under which it is imported."""


def import_optional(module: str) -> ModuleType:
    """Imports a module that may need `exporters`, `engines` or an optional dependency.

    Args:
        module: Full name of the module.

    Returns:
        The module.

    Raises:
        UnavailableError: A package is missing (the message names the extra that installs it), or another package hides one of
            ours.
    """
    try:
        for package in OWN_PACKAGES:
            require_own_package(package)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise explain_missing_package(error) or error from error


def require_own_package(name: str) -> ModuleType:
    """Imports `exporters` or `engines` and checks that it is ours: both names are common, and the first on sys.path wins.

    Raises:
        UnavailableError: It is that of another distribution.
    """
    package = importlib.import_module(name)
    if getattr(package, "DISTRIBUTION", None) != DISTRIBUTION:
        where = getattr(package, "__file__", None) or next(iter(getattr(package, "__path__", [])), "an unknown place")
        raise UnavailableError(
            f"Another package named '{name}' hides the one of dni-deploy: {escape_name(where)}. "
            "Rename or uninstall it, or start from another folder."
        )
    return package


def explain_missing_package(error: ModuleNotFoundError) -> UnavailableError | None:
    """Explains which extra installs a missing package; None where the missing module is not one of an extra."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_BY_PACKAGE:
        return None
    return UnavailableError(
        f"This needs the package '{package}', which is not installed: {format_install_line(EXTRA_BY_PACKAGE[package])}"
    )
