"""dni-deploy: blend the checkpoints of one network family inside a running engine, live.

Importing this package imports nothing else: each name below is fetched from its home at first use (PEP 562), so that a
program which only asks for the version never waits for torch, onnx or onnxruntime.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:  # what a type checker sees; the standard library's `typing` would double the time of this import
    from dni_deploy.alpha_map import AlphaMap as AlphaMap
    from dni_deploy.alpha_map import SpatialAlpha as SpatialAlpha
    from dni_deploy.bundle import Bundle as Bundle
    from dni_deploy.checkpoint import Checkpoint as Checkpoint
    from dni_deploy.coefficients import Coefficients as Coefficients
    from dni_deploy.errors import DniError as DniError
    from dni_deploy.family import Family as Family
    from dni_deploy.map_render import render_map as render_map
    from dni_deploy.session import Session as Session
    from dni_deploy.session import open_session as open_session
    from dni_deploy.signature import Signature as Signature
    from dni_deploy.verbs.bench import bench as bench
    from dni_deploy.verbs.build import build as build
    from dni_deploy.verbs.check import check as check
    from dni_deploy.verbs.demo import demo as demo
    from dni_deploy.verbs.doctor import doctor as doctor
    from dni_deploy.verbs.export import export as export
    from dni_deploy.verbs.filter import filter as filter
    from dni_deploy.verbs.inspect import inspect as inspect
    from dni_deploy.verbs.recalibrate import recalibrate as recalibrate
    from dni_deploy.verbs.refit import refit as refit
    from dni_deploy.verbs.run import run as run
    from dni_deploy.verbs.serve import serve as serve
    from dni_deploy.verbs.slider import slider as slider
    from dni_deploy.verbs.sweep import sweep as sweep
    from dni_deploy.verbs.tune import tune as tune
    from dni_deploy.verbs.video import video as video

_HOMES = {
    "AlphaMap": "dni_deploy.alpha_map",
    "SpatialAlpha": "dni_deploy.alpha_map",
    "Bundle": "dni_deploy.bundle",
    "Checkpoint": "dni_deploy.checkpoint",
    "Coefficients": "dni_deploy.coefficients",
    "DniError": "dni_deploy.errors",
    "Family": "dni_deploy.family",
    "Session": "dni_deploy.session",
    "Signature": "dni_deploy.signature",
    "bench": "dni_deploy.verbs.bench",
    "build": "dni_deploy.verbs.build",
    "check": "dni_deploy.verbs.check",
    "demo": "dni_deploy.verbs.demo",
    "doctor": "dni_deploy.verbs.doctor",
    "export": "dni_deploy.verbs.export",
    "filter": "dni_deploy.verbs.filter",
    "inspect": "dni_deploy.verbs.inspect",
    "open_session": "dni_deploy.session",
    "recalibrate": "dni_deploy.verbs.recalibrate",
    "refit": "dni_deploy.verbs.refit",
    "render_map": "dni_deploy.map_render",
    "run": "dni_deploy.verbs.run",
    "serve": "dni_deploy.verbs.serve",
    "slider": "dni_deploy.verbs.slider",
    "sweep": "dni_deploy.verbs.sweep",
    "tune": "dni_deploy.verbs.tune",
    "video": "dni_deploy.verbs.video",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    """Fetch a public name. Raises EnvironmentProblem, naming the extra to install, where its home needs a missing package."""
    if name not in _HOMES:
        raise AttributeError(f"module 'dni_deploy' has no attribute {name!r}")
    from dni_deploy.bays import open_door

    value: object = getattr(open_door(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
