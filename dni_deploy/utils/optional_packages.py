"""Bays: the door to `exporters`, `engines` and what stands on them, with one sentence for what is missing there."""

from __future__ import annotations

import importlib
from types import ModuleType

from dni_deploy.errors import EnvironmentProblem, shown

BAYS = ("exporters", "engines")
DISTRIBUTION = "dni-deploy"

EXTRAS = {
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


def open_door(module: str) -> ModuleType:
    """Import a module of ours that may stand on a bay or on an extra.

    Raises EnvironmentProblem: a package is missing (names the extra that brings it), or another package shadows a bay.
    """
    try:
        for bay in BAYS:
            require(bay)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error) or error from error


def require(bay: str) -> ModuleType:
    """Import `exporters` or `engines` and see that it is ours: both names are common, and the first on sys.path wins."""
    package = importlib.import_module(bay)
    if getattr(package, "DISTRIBUTION", None) != DISTRIBUTION:
        where = getattr(package, "__file__", None) or next(iter(getattr(package, "__path__", [])), "an unknown place")
        raise EnvironmentProblem(
            f"Another package named '{bay}' hides the one of dni-deploy: {shown(where)}. "
            "Rename or uninstall it, or start from another folder."
        )
    return package


def missing(error: ModuleNotFoundError) -> EnvironmentProblem | None:
    """The sentence for a package that is not installed; None where the missing module is not one of the extras' packages."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return EnvironmentProblem(
        f"This needs the package '{package}', which is not installed: pip install 'dni-deploy[{EXTRAS[package]}]'"
    )
