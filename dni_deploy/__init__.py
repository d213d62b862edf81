"""dni-deploy: blend the checkpoints of one network family inside a running engine, live.

Importing this package imports nothing else: each name below is fetched from its home at first use (PEP 562), so that a
program which only asks for the version never waits for torch, onnx or onnxruntime.
"""

from __future__ import annotations

from dni_deploy._version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:  # what a type checker sees; the standard library's `typing` would double the time of this import
    from dni_deploy.alpha.coefficients import Coefficients as Coefficients
    from dni_deploy.api.bench import bench as bench
    from dni_deploy.api.build import build as build
    from dni_deploy.api.check import check as check
    from dni_deploy.api.demo import demo as demo
    from dni_deploy.api.doctor import doctor as doctor
    from dni_deploy.api.export import export as export
    from dni_deploy.api.filter import filter as filter
    from dni_deploy.api.inspect import inspect as inspect
    from dni_deploy.api.recalibrate import recalibrate as recalibrate
    from dni_deploy.api.refit import refit as refit
    from dni_deploy.api.run import run as run
    from dni_deploy.api.serve import serve as serve
    from dni_deploy.api.slider import slider as slider
    from dni_deploy.api.sweep import sweep as sweep
    from dni_deploy.api.tune import tune as tune
    from dni_deploy.api.video import video as video
    from dni_deploy.bundle.bundle import Bundle as Bundle
    from dni_deploy.checkpoints.checkpoint import Checkpoint as Checkpoint
    from dni_deploy.checkpoints.family import Family as Family
    from dni_deploy.errors import DniError as DniError
    from dni_deploy.session.session import Session as Session
    from dni_deploy.session.session import open_session as open_session
    from dni_deploy.signature import Signature as Signature
    from dni_deploy.spatial.alpha_map import AlphaMap as AlphaMap
    from dni_deploy.spatial.alpha_map import AlphaMapOptions as AlphaMapOptions
    from dni_deploy.spatial.render import render_map as render_map

_MODULE_BY_NAME = {
    "AlphaMap": "dni_deploy.spatial.alpha_map",
    "AlphaMapOptions": "dni_deploy.spatial.alpha_map",
    "Bundle": "dni_deploy.bundle.bundle",
    "Checkpoint": "dni_deploy.checkpoints.checkpoint",
    "Coefficients": "dni_deploy.alpha.coefficients",
    "DniError": "dni_deploy.errors",
    "Family": "dni_deploy.checkpoints.family",
    "Session": "dni_deploy.session.session",
    "Signature": "dni_deploy.signature",
    "bench": "dni_deploy.api.bench",
    "build": "dni_deploy.api.build",
    "check": "dni_deploy.api.check",
    "demo": "dni_deploy.api.demo",
    "doctor": "dni_deploy.api.doctor",
    "export": "dni_deploy.api.export",
    "filter": "dni_deploy.api.filter",
    "inspect": "dni_deploy.api.inspect",
    "open_session": "dni_deploy.session.session",
    "recalibrate": "dni_deploy.api.recalibrate",
    "refit": "dni_deploy.api.refit",
    "render_map": "dni_deploy.spatial.render",
    "run": "dni_deploy.api.run",
    "serve": "dni_deploy.api.serve",
    "slider": "dni_deploy.api.slider",
    "sweep": "dni_deploy.api.sweep",
    "tune": "dni_deploy.api.tune",
    "video": "dni_deploy.api.video",
}

__all__ = ["__version__", *_MODULE_BY_NAME]


def __getattr__(name: str) -> object:
    """Fetch a public name. Raises UnavailableError, naming the extra to install, where its home needs a missing package."""
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module 'dni_deploy' has no attribute {name!r}")
    from dni_deploy.utils.optional_packages import import_optional

    value: object = getattr(import_optional(_MODULE_BY_NAME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
